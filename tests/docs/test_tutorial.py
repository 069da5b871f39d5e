"""The tutorial, from its first line to its last, on small slides."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STEPS = re.findall(
    r"^```(sh|python)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
# Flags win when they come last: these make the commands small enough for a test.
SMALLER = {
    "tiling.synthetic": "--slides 20 --width 640 --height 512 --workers 2",
    "tiling": "--size 64 --instances 8 --workers 2",
    "train.py": "--folds 2 --epochs 2 --patience 1 --device cpu",
    "infer.py": "--device cpu",
}
# Two of the slides are faulty: one is cut short, one is empty.
STATUS = {"tiling": 1, "tiling.status": 1, "train.py --doctor": 2, "infer.py --slides": 1, "infer.py --bags": 1}


def run(command: str, folder: Path) -> tuple[str, int]:
    """Run a command of the page in a folder; gives the key of its expected status, and its status."""
    words = shlex.split(command)[1:]
    name = words[1] if words[0] == "-m" else words[0]
    script = words if words[0] == "-m" else [str(ROOT / name), *words[1:]]
    done = subprocess.run(
        [sys.executable, *script, *SMALLER.get(name, "").split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
    key = next((f"{name} {flag}" for flag in words if f"{name} {flag}" in STATUS), name)
    assert done.returncode == STATUS.get(key, 0), f"{command}\n{done.stdout}\n{done.stderr}"
    return key, done.returncode


def export_spreadsheet(folder: Path) -> None:
    """The labels of the drawn slides as a hospital's spreadsheet would have them."""
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    (folder / "labels.csv").unlink()
    names = {"0": " Normal", "1": "Tumour"}
    cases = {
        "Slide": table["slide_id"] + ".tiff",
        "Patient": table["patient_id"],
        "Diagnosis": table["label"].map(names),
    }
    pd.DataFrame(cases).to_csv(folder / "cases.csv", index=False)


@pytest.mark.slow
def test_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder, statuses = tmp_path, {}
    for language, text in STEPS:
        if language == "python":
            monkeypatch.chdir(folder)
            exec(text, {})
            continue
        for command in text.splitlines():
            if command.startswith("cd "):
                folder = folder / command.removeprefix("cd ")
                export_spreadsheet(folder)
            else:
                key, status = run(command, folder)
                statuses[key] = status
    assert statuses == {"tiling.synthetic": 0, "train.py": 0, **STATUS}
    said = capsys.readouterr().out
    assert said.count("patients\n") == 1
    assert said.count("tumour") + said.count("normal") >= 5 + 2  # the worst five, and both classes counted
    labels = pd.read_csv(folder / "labels.csv")
    assert set(labels["label"]) == {"normal", "tumour"}
    scores = pd.read_csv(folder / "scores.csv")
    assert (len(scores), (scores["status"] == "failed").sum()) == (20, 2)
    assert len(list((folder / "heatmaps").glob("*.png"))) == 18
    assert len(pd.read_csv(folder / "again.csv")) == 20
