"""What trackers keep, read back with their own packages where they are installed, after a fold that was cut off."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mil.errors import SettingsError
from mil.log import EpochLog
from mil.trackers import flat_figures
from mil.tracking import check_tracker, open_tracker

CONFIG = {"lr": 1e-4, "embed": (), **{f"setting_{number}": number for number in range(120)}}
FIGURES = {"auc": {"value": 0.75, "low": 0.5}, "interval": "95 %"}


def row(epoch: int) -> EpochLog:
    return EpochLog(0, epoch, 1 / (epoch + 1), math.nan, 0.5, 1e-4, epoch == 0)


def cut_off_and_go_on(name: str, run: Path) -> None:
    """A fold of four epochs: the third is noted, but not in the checkpoint from which it goes on."""
    with open_tracker(name, run, CONFIG, 0) as tracker:
        for epoch in range(3):
            tracker.epoch(row(epoch))
    with open_tracker(name, run, CONFIG, 0, first_epoch=2) as tracker:
        for epoch in range(2, 4):
            tracker.epoch(row(epoch))
        tracker.finish(FIGURES)


def test_figures_of_a_nested_mapping_are_its_finite_numbers() -> None:
    metrics = {"auc": {"low": 0.5, "high": math.nan}, "slides": 3, "name": "x", "folds": [1]}
    assert flat_figures(metrics) == {"auc/low": 0.5, "slides": 3.0}


def test_tensorboard_goes_on_in_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'gigabag[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cut_off_and_go_on("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "fold_0"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert losses == [(epoch, pytest.approx(1 / (epoch + 1))) for epoch in range(4)]
    assert "valid_loss" not in events.Tags()["scalars"]
    assert [(event.step, event.value) for event in events.Scalars("final/auc/value")] == [(3, 0.75)]


def test_mlflow_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'gigabag[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    cut_off_and_go_on("mlflow", run)
    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gigabag")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(epoch, 1 / (epoch + 1)) for epoch in range(4)]
    assert (found.info.run_name, found.info.status) == ("run-fold0", "FINISHED")
    assert found.data.metrics["final/auc/low"] == 0.5
    assert len(found.data.params) == len(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'gigabag[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    cut_off_and_go_on("wandb", tmp_path)
    known: dict[str, Any] = json.loads((tmp_path / "fold_0" / "tracker.json").read_text())
    assert known == {"tracker": "wandb", "id": known["id"], "epoch": 3}
    first, second = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{known['id']}.wandb"))
    assert b"setting_119" in first.read_bytes()
    assert b"final/auc/low" not in first.read_bytes()
    assert b"final/auc/low" in second.read_bytes()


def test_wandb_without_a_key_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install 'gigabag[wandb]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="finds no key of yours; run `wandb login`, or set WANDB_MODE=offline"):
        check_tracker("wandb")
