"""The project's commands as a user types them, in processes of their own, and the figures that they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*words: object) -> None:
    """Run `python WORDS…`, on one thread unless OMP_NUM_THREADS says otherwise; CalledProcessError where it fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, check=True)


def train(run: Path, *words: object) -> None:
    """Train all folds of a run by train.py, or what is left of them."""
    if not is_finished(run):
        command(ROOT / "train.py", "--resume", "--out", run, *words)


def is_finished(run: Path) -> bool:
    """Whether all folds of a run are trained."""
    return (run / "metrics.json").exists()


def figure(run: Path, name: str) -> str:
    """A figure of a finished run, by slide out of fold, with its interval: such as .912 (.861 to .952)."""
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return interval(content["slides"][name])


def interval(found: dict[str, float]) -> str:
    """A figure of metrics.json in words."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
