"""Two thousand files that were tampered with: each is read, or refused in a sentence."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNTS = {
    "bag-parts": 400, "bag-bytes": 300, "merged-parts": 250, "merged-bytes": 200, "features-parts": 250,
    "features-bytes": 200, "manifest": 200, "slides": 200,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_each_is_read_or_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    """No other error, no crash, no hang, and little memory: the process that reads them has a limit on each."""
    command = [sys.executable, "-m", "tests.tiling.mutants", kind, "0", "0", str(COUNTS[kind]), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    wrong = {number: outcome for number, outcome in outcomes.items() if outcome not in ("read", "refused")}
    assert (done.returncode, wrong) == (0, {}), f"{done.stdout[-200:]} {done.stderr[-2000:]}"
    assert len(outcomes) == COUNTS[kind]
    # Neither does it refuse all there is, nor take anything.
    assert min(Counter(outcomes.values())[each] for each in ("read", "refused")) > COUNTS[kind] / 25


def test_two_thousand() -> None:
    assert sum(COUNTS.values()) == 2000
