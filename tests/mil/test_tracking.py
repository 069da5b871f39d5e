"""A tracker that fails costs a sentence, never a training."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from mil import tracking
from mil.errors import SettingsError
from mil.log import EpochLog
from mil.trackers import TRACKERS, TrackedFold
from mil.tracking import check_tracker, open_tracker

ROW = EpochLog(fold=1, epoch=0, train_loss=0.5, valid_loss=0.25, valid_auc=0.75, lr=1e-4, best=True)


class Fake:
    """Notes what it is told, until the network is gone."""

    def __init__(self, fold: TrackedFold) -> None:
        self.told.append(fold)

    told: list[Any]
    down = False

    @staticmethod
    def check() -> None:
        """It is there."""

    def epoch(self, row: EpochLog) -> None:
        if self.down:
            raise ConnectionError("no route\nto host")
        self.told.append(row)

    def finish(self, metrics: dict[str, Any]) -> None:
        self.told.append(metrics)

    def stop(self) -> None:
        self.told.append("stopped")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(Fake, "told", [], raising=False)
    monkeypatch.setattr(Fake, "down", False)
    monkeypatch.setitem(tracking.TRACKERS, "fake", Fake)  # type: ignore[arg-type]
    return Fake


def test_tracker_is_told_of_epochs_and_figures(fake: type[Fake], tmp_path: Path) -> None:
    with open_tracker("fake", tmp_path, {"lr": 1}, 1, first_epoch=3) as tracker:
        tracker.epoch(ROW)
        tracker.finish({"auc": 0.5})
    assert fake.told == [TrackedFold(tmp_path, 1, {"lr": 1}, 3), ROW, {"auc": 0.5}]
    assert fake.told[0].name == f"{tmp_path.name}-fold1"


def test_fold_that_is_cut_off_stops_its_tracker(fake: type[Fake], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker("fake", tmp_path, {}, 1) as tracker:
        tracker.epoch(ROW)
        raise KeyboardInterrupt
    assert fake.told[1:] == [ROW, "stopped"]


def test_network_that_goes_is_said_once(fake: type[Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_tracker("fake", tmp_path, {}, 1) as tracker:
        fake.down = True
        tracker.epoch(ROW)
        tracker.epoch(ROW)
        tracker.finish({})
    assert len(fake.told) == 1
    assert capsys.readouterr().err == (
        "the tracker fake failed (no route to host); training goes on without it, see log.csv\n"
    )


def test_tracker_that_does_not_begin_is_said_once(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake, "told", None)
    with open_tracker("fake", tmp_path, {}, 1) as tracker:
        tracker.epoch(ROW)
    assert capsys.readouterr().err.count("the tracker fake failed") == 1


def test_nobody_is_told_nothing(tmp_path: Path) -> None:
    with open_tracker(None, tmp_path, {}, 0) as tracker:
        tracker.epoch(ROW)
        tracker.finish({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TRACKERS)
def test_missing_package_is_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(module: str, *rest: Any, **named: Any) -> Any:
        if module == name:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(module, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=rf"--tracker {name} needs .* pip install 'gigabag\[{name}\]'"):
        check_tracker(name)
