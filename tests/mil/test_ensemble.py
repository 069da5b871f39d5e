"""`python -m mil.ensemble` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import infer
from mil.ensemble import main
from mil.ensemble_folder import read_ensemble
from tests.conftest import Trained


@pytest.fixture(scope="module")
def made(trained: Trained, trained_again: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated blend of two runs."""
    out = tmp_path_factory.mktemp("ensembles") / "out"
    flags = ["--calibrate", "platt", "--prior", "balanced", "--metric", "auc", "--average", "logits"]
    runs = [str(trained.run), str(trained_again.run)]
    assert main([*runs, "--labels", str(trained.labels), "--out", str(out), *flags]) == 0
    return out


def test_what_is_there(made: Path) -> None:
    assert {path.name for path in made.iterdir()} >= {
        "ensemble.json", "oof.csv", "metrics.json", "report.json", "roc.png", "reliability.png", "confusion.png"
    }  # fmt: skip
    assert not list(made.rglob("*.pkl"))
    report = json.loads((made / "report.json").read_text())
    assert list(report["slides"]) == [
        "run",
        "again",
        "mean",
        "blend",
        "stack",
        "blend, platt",
        "blend, platt, other prior",
    ]
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["slides"]["auc"]["value"] == report["slides"]["blend, platt, other prior"]["auc"]["value"]
    table = pd.read_csv(made / "oof.csv")
    assert list(table) == [
        "slide_id", "patient_id", "label", "fold", "status", "tiles", "prob_normal", "prob_tumour", "predicted", "error"
    ]  # fmt: skip
    assert table["tiles"].tolist() == [6] * 12
    ensemble = read_ensemble(made)
    assert ensemble.mixture.prior is not None
    with Image.open(made / "reliability.png") as picture:
        assert picture.size[0] > 500


def test_infer_takes_it_like_a_run(made: Path, trained: Trained, tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    flags = ["--bags", str(trained.bags), "--out", str(scores), "--device", "cpu", "--heatmaps", str(tmp_path / "h")]
    assert infer.main(["--run", str(made), *flags]) == 0
    table = pd.read_csv(scores)
    assert table["status"].tolist() == ["ok"] * 12
    assert np.allclose(table["prob_normal"] + table["prob_tumour"], 1)
    assert len(list((tmp_path / "h").glob("*.png"))) == 12


def test_infer_takes_several_runs(trained: Trained, trained_again: Trained, tmp_path: Path) -> None:
    tables = []
    flags = ["--bags", str(trained.bags), "--device", "cpu"]
    for runs in ([trained.run], [trained_again.run], [trained.run, trained_again.run]):
        out = tmp_path / "scores.csv"
        assert infer.main(["--run", *map(str, runs), "--out", str(out), *flags]) == 0
        tables.append(pd.read_csv(out)["prob_tumour"].to_numpy())
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, rtol=1e-12)
    assert infer.main(["--run", str(trained.run), "--tta", "symmetries", "--out", str(out), *flags]) == 0
    assert not np.allclose(pd.read_csv(out)["prob_tumour"], tables[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--weights", "1", "2"], "--weights has 2 numbers for 1 runs; give one for each"),
        (["--prior", "tumour=2"], "--prior is balanced, or class=share for each of normal, tumour; it names tumour"),
        (["--method", "vote"], "--method 'vote' is not one of blend, stack, mean"),
        (["--patient-rule", "max", "--tile-weights"], "--tile-weights says nothing beside --patient-rule max"),
        (["--labels", "nowhere.csv"], "cannot read the labels table 'nowhere.csv'"),
    ],
)
def test_wrong_input_is_one_sentence_and_nothing_is_written(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    assert main([str(trained.run), "--out", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_stays(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained.run), "--out", str(tmp_path)]) == 2
    assert "exists; choose another --out, or delete it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
