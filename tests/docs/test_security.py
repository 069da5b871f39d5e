"""What docs/security.md promises and can be read off the code, or tried on a run."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from mil.errors import ModelError
from mil.predict import load_run
from tests.conftest import Trained
from tests.test_structure import MODULES
from tiling.documents import _Loader

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
# What runs what it reads, or may.
UNSAFE = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "np.load",
    "pd.read_pickle", "os.system", "os.popen", "torch.hub.load", "joblib.load", "torch.load",
}  # fmt: skip


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_that_is_read_is_run() -> None:
    found = {(name, call) for name, path in MODULES.items() for call, _ in calls(path) if call in UNSAFE}
    # A worker tries whether its own error can be sent; the loader of YAML makes plain values only.
    assert found == {("tiling.workers", "pickle.loads"), ("tiling.documents", "yaml.load")}


def test_yaml_makes_plain_values() -> None:
    loaders = [ast.unparse(node) for call, node in calls(MODULES["tiling.documents"]) if call == "yaml.load"]
    assert loaders == ["yaml.load(text, Loader=_Loader)"]
    assert issubclass(_Loader, yaml.constructor.SafeConstructor)


def test_no_shell() -> None:
    assert not [name for name, path in MODULES.items() if re.search(r"\bsubprocess\b|shell=True", path.read_text())]


def test_modules_that_are_named_are_there() -> None:
    named = re.findall(r"`((?:tiling|mil)/\w+\.py)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp", "../model"])
def test_a_run_names_a_backbone_of_timm_and_nothing_else(trained: Trained, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    for path in run.glob("fold_*/model.json"):
        card = json.loads(path.read_text())
        path.write_text(json.dumps({**card, "model": {**card["model"], "backbone": name, "pretrained": True}}))
    with pytest.raises(ModelError, match="timm has no model"):
        load_run(run, torch.device("cpu"))
