"""What a model card says of a run: what is derived from its files, and that damaged ones cost no page."""

import json
import shutil
from pathlib import Path

import pytest

from mil.about import about, copy_plots
from mil.errors import RunError
from tests.conftest import Trained


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a run that may be damaged."""
    return Path(shutil.copytree(trained.run, tmp_path / "a run"))


def with_auc(run: Path, low: float | None, high: float | None, level: str = "slides") -> list[str]:
    """The verdicts on AUC, log loss and calibration error of a run whose figures have these limits."""
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    for name in ("auc", "log_loss", "ece"):
        metrics[level][name] |= {"low": low, "high": high, "baseline": 0.5}
    path.write_text(json.dumps(metrics))
    return [each.verdict for each in about(run).figures if each.name in ("AUC", "log loss", "calibration error")]


def test_what_it_learned_from(run: Path) -> None:
    found = about(run)
    assert (found.name, found.slides, found.patients, found.by_patient, found.skipped) == ("a run", 12, 12, False, 0)
    assert [(each.name, each.slides, each.patients) for each in found.classes] == [("normal", 6, 6), ("tumour", 6, 6)]
    assert [(fold.name, fold.slides) for fold in found.folds] == [("0", 6), ("1", 6)]
    assert found.positive == "tumour"
    assert dict(found.model)["Looks at"] == "6 tiles a slide, 32 px at the scan's own scale"
    assert found.sources == [("Formats", "generic-tiff (12)"), ("Scales", "1 µm per pixel")]
    assert dict(found.settings)["backbone"] == "test_resnet"


@pytest.mark.parametrize(
    ("low", "high", "verdicts"),
    [
        (0.6, 0.9, ["better", "worse", ""]),
        (0.4, 0.9, ["open", "open", ""]),
        (0.1, 0.4, ["worse", "better", ""]),
        (None, 0.9, ["open", "open", ""]),
        (None, None, ["", "", ""]),
    ],
)
def test_verdict_is_what_the_interval_allows(
    run: Path, low: float | None, high: float | None, verdicts: list[str]
) -> None:
    assert with_auc(run, low, high) == verdicts


def test_limits_are_those_of_the_run(run: Path) -> None:
    with_auc(run, 0.4, 0.9)
    limits = about(run).limits
    assert limits[0].startswith("It is not a medical device.")
    assert limits[1].startswith("Its AUC cannot be told from that of a constant answer")
    assert "It knows normal, tumour, and nothing else." in limits[2]
    assert "Its slides were of these formats: generic-tiff (12), at 1 µm per pixel." in limits[3]
    assert "It learned from 12 slides of 12 patients" in limits[4]
    assert limits[5] == "Patients of these classes are too few to know how it does on them: normal (6), tumour (6)."
    with_auc(run, 0.6, 0.9)
    assert "Its AUC cannot" not in " ".join(about(run).limits)
    (run / "config.yaml").write_text("site: hospital\n")
    assert "Its folds are the values of 'hospital'" in " ".join(about(run).limits)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"slides": 3, "folds": 4, "patients": {"left_out": "x"}}'])
def test_damaged_files_are_left_out(run: Path, content: str) -> None:
    for name in ("metrics.json", "config.yaml", "folds.csv", "skipped.csv", "report/sources.json"):
        (run / name).write_text(content)
    found = about(run)
    assert (found.slides, found.figures, found.folds, found.left_out) == (0, [], [], 0)
    assert "From which scanners its slides came the run does not say" in " ".join(found.limits)


def test_a_run_without_a_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the training finished"):
        about(tmp_path)


def test_plots_are_copied_where_they_are_pictures(run: Path, tmp_path: Path) -> None:
    (run / "roc.png").write_text("<script>")
    (run / "confusion.png").unlink()
    found = copy_plots(about(run), tmp_path / "plots")
    assert [plot.file for plot in found] == [
        "plots/reliability.png", "plots/precision_recall.png", "plots/learning_curves.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "learning_curves.png", "precision_recall.png", "reliability.png",
    ]  # fmt: skip
    assert all(plot.width > 100 and plot.height > 100 for plot in found)


def test_pseudo_labels_are_told(run: Path) -> None:
    assert "Learned also from" not in dict(about(run).model)
    (run / "pseudo.csv").write_text("slide_id,patient_id,pseudo_fold,prob_normal,prob_tumour\nu,u,0,1,0\nu,u,1,1,0\n")
    assert dict(about(run).model)["Learned also from"] == "pseudo labels of 1 slides"
