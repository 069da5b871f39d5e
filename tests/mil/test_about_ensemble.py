"""What a model card says of an ensemble: how it is put together, its own figures, then its runs."""

import json
import shutil
from pathlib import Path

import pytest

from mil.about import about
from mil.about_ensemble import about_all
from mil.ensemble import main
from mil.errors import RunError
from tests.conftest import Trained


@pytest.fixture(scope="module")
def made(trained: Trained, trained_again: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensembles") / "both"
    flags = ["--weights", "3", "1", "--calibrate", "platt", "--prior", "normal=0.9", "tumour=0.1"]
    assert main([str(trained.run), str(trained_again.run), "--out", str(out), *flags]) == 0
    return out


def test_of_a_run_is_that_of_the_run(trained: Trained) -> None:
    assert about_all(trained.run) == [about(trained.run)]


def test_of_an_ensemble(made: Path, trained: Trained) -> None:
    found, *runs = about_all(made)
    assert [(each.kind, each.name) for each in (found, *runs)] == [
        ("Ensemble", "both"), ("Run", "run"), ("Run", "again")
    ]  # fmt: skip
    steps = dict(found.model)
    assert steps["Made of"] == "run, again"
    assert steps["Mean of probabilities"] == "run 0.750, again 0.250"
    assert steps["Prior"] == "from normal 0.500, tumour 0.500 to normal 0.900, tumour 0.100"
    assert {"Slopes", "Shifts"} < steps.keys()
    assert (found.slides, found.patients) == (12, 12)
    assert [(each.name, each.slides) for each in found.classes] == [("normal", 6), ("tumour", 6)]
    auc = json.loads((made / "metrics.json").read_text())["slides"]["auc"]["value"]
    assert {each.name: each.slides["value"] for each in found.figures}["AUC"] == auc
    assert found.sources == about(trained.run).sources != []
    (said,) = [each for each in found.limits if each.startswith("Its probabilities hold")]
    assert said == (
        "Its probabilities hold where classes are as frequent as they were corrected for (normal 90%, tumour 10%); "
        "elsewhere they have to be corrected. The figures here are of the labelled slides, which have other shares."
    )
    assert runs[0].figures == about(trained.run).figures


def test_one_whose_models_were_changed_is_refused(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    (copy / "run_0" / "fold_0" / "model.json").unlink()
    with pytest.raises(RunError):
        about_all(copy)
