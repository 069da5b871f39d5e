"""The README's commands run, and what it says of the tree is so."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TILING_FLAGS, TRAIN_FLAGS, make_cohort

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:sh)?\n(.*?)```", README, re.DOTALL)
DAILY = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
# Flags win when they come last: these make the commands small enough for a test.
SMALLER = {"tiling": TILING_FLAGS, "train.py": TRAIN_FLAGS, "infer.py": ["--device", "cpu"]}


@pytest.mark.slow
def test_daily_commands_run_from_any_folder(tmp_path: Path) -> None:
    make_cohort(tmp_path, 12)
    (tmp_path / "slides").rename(tmp_path / "new-slides")
    make_cohort(tmp_path / "other", 12)
    (tmp_path / "other" / "slides").rename(tmp_path / "slides")
    assert len(DAILY) == 4
    for command in DAILY:
        words = shlex.split(command)[1:]
        name = words[1] if words[0] == "-m" else words[0]
        script = words if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
        done = subprocess.run(
            [sys.executable, *script, *SMALLER[name]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert len(pd.read_csv(tmp_path / "scores.csv")) == len(pd.read_csv(tmp_path / "scores-again.csv")) == 12
    assert (tmp_path / "report" / "index.html").exists()
    assert len(list((tmp_path / "report" / "slides").glob("*.html"))) == 12


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_has_the_two_commands(target: str) -> None:
    assert f"make {target} " in README
    subprocess.run(["make", "--dry-run", "--always-make", target], cwd=ROOT, check=True, capture_output=True)


def test_tree_names_every_module_and_nothing_else() -> None:
    tree = next(block for block in BLOCKS if block.startswith("train.py"))
    named = set(re.findall(r"\b\w+\.py\b", tree)) | {"synthetic"}
    there = {
        path.name for folder in ("tiling", "mil", "benchmarks", "docs") for path in (ROOT / folder).glob("[a-z]*.py")
    }
    assert named - {"synthetic"} == there | {"train.py", "infer.py"}
    for line in tree.splitlines():
        if path := re.match(r"([\w/.]+)\s{2,}", line):
            assert (ROOT / path[1]).exists(), path[1]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert anchor in ["", *(re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings)]


def test_five_lines_of_the_format_page_read_a_bag(bags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line]) == 5
    names: dict[str, object] = {}
    exec(code[1].replace("bags/slide.h5", str(bags / "s00.h5")), names)
    tiles, corners = names["tiles"], names["corners"]
    assert isinstance(tiles, list)
    assert isinstance(corners, list)
    assert [tile.size for tile in tiles] == [(32, 32)] * 6
    assert (len(corners), names["mpp"]) == (6, pytest.approx(1.0, rel=1e-4))
