"""A run that was interrupted anywhere, or whose folds were jobs of their own, ends as one left alone: to the byte."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from mil.cohort import Cohort, gather
from mil.errors import RunError, Stopped
from mil.labels import read_labels
from mil.launcher import Launch
from mil.processes import Processes
from mil.recipe import Recipe
from mil.run import collect, train_run
from tests.conftest import CohortFiles
from tiling import cli

ROOT = Path(__file__).parents[2]
ONE = Processes(Launch(), torch.device("cpu"))
# With everything that a checkpoint has to hold: moments, averages, chance in dropout, augmentation and drawing.
RECIPE = Recipe.of(
    backbone="test_resnet", train_px=32, folds=2, epochs=2, lr=1e-3, dropout=0.5, hed_jitter=0.2, ema=0.9, batch_size=2,
    balance="sampling", clip_grad=1.0, warmup_epochs=0.5, device="cpu", cache=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort_of_bags(cohort: CohortFiles, bags: Path) -> Cohort:
    return gather(read_labels(cohort.labels), bags, skip_missing=False)


@pytest.fixture(scope="module")
def undisturbed(cohort_of_bags: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train_run(cohort_of_bags, out, RECIPE, ONE)
    return out


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def after(calls: int) -> Callable[[], bool]:
    """Asked, it says no so many times, and yes from then on."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_nothing_is_left_that_only_training_needs(undisturbed: Path) -> None:
    assert sorted(content(undisturbed)) == sorted(
        [f"fold_{fold}/{name}" for fold in (0, 1) for name in ("log.csv", "model.json", "model.safetensors", "oof.csv")]
        + ["config.yaml", "folds.csv", "log.csv", "metrics.json", "oof.csv", "skipped.csv"]
        + [path.name for path in undisturbed.glob("*.png")]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": None, "average_last": 2, "optimizer": "sgd", "accumulate": 2},
        {"schedule": "plateau", "decay_epochs": 1},
    ],
)
def test_stopped_at_every_step(cohort_of_bags: Cohort, tmp_path: Path, settings: dict[str, object]) -> None:
    recipe = RECIPE.but(**settings)
    train_run(cohort_of_bags, tmp_path / "whole", recipe, ONE)
    stops = 0
    while True:
        try:
            train_run(cohort_of_bags, tmp_path / "run", recipe, ONE, resume=True, stop=after(0))
        except Stopped as stopped:
            assert str(stopped) in {
                f"fold {fold} was asked to stop in epoch {epoch}" for fold in (0, 1) for epoch in (0, 1)
            }
            stops += 1
        else:
            break
    assert stops >= 4
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_ended_before_any_file_came_into_place(
    cohort_of_bags: Cohort, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at its first file, then at its second, and so on; each time it is started again."""
    replace, count = os.replace, iter(())

    def ending(source: Path, target: Path) -> None:
        if next(count, None) is None:
            shutil.copy(source, Path(source).with_suffix(".left"))  # killed processes leave such files
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", ending)
    for draw in ("draw_evaluation", "draw_learning_curves"):  # which takes most of the time
        monkeypatch.setattr(f"mil.run.{draw}", lambda *_: None)
    pictures = {path.name for path in undisturbed.glob("*.png")}
    whole = {name: data for name, data in content(undisturbed).items() if name not in pictures}
    for files in range(100):
        count = iter(range(files))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        try:
            train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, resume=True)
        except KeyboardInterrupt:
            count = iter(range(1000))
            train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, resume=True)
        else:
            break
        found = {name: data for name, data in content(tmp_path / "run").items() if not name.endswith(".left")}
        assert found == whole
    assert files > 10


def test_folds_as_jobs(cohort_of_bags: Cohort, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_run(cohort_of_bags, run, RECIPE, ONE, fold=1) is None
    with pytest.raises(RunError, match=r"lacks fold 0; train it with --fold, then --collect"):
        collect(run)
    with pytest.raises(RunError, match=r"exists; give --resume"):
        train_run(cohort_of_bags, run, RECIPE, ONE, fold=1)
    evaluation = train_run(cohort_of_bags, run, RECIPE, ONE, fold=0)
    assert evaluation is not None
    assert content(run) == content(undisturbed)
    (run / "metrics.json").unlink()
    assert collect(run).as_json() == evaluation.as_json()
    assert content(run) == content(undisturbed)


def test_no_such_fold(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    for fold in (-1, 2):
        with pytest.raises(RunError, match=rf"there is no fold {fold}; --fold is from 0 to 1"):
            train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, fold=fold)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_as_it_is(cohort_of_bags: Cohort, undisturbed: Path) -> None:
    before = content(undisturbed)
    assert train_run(cohort_of_bags, undisturbed, RECIPE, ONE, resume=True) is not None
    assert content(undisturbed) == before
    with pytest.raises(
        RunError, match="exists; give --resume to go on with a run, or choose another --out, or delete it"
    ):
        train_run(cohort_of_bags, undisturbed, RECIPE, ONE)


def test_another_run_is_not_gone_on_with(cohort_of_bags: Cohort, undisturbed: Path) -> None:
    before = content(undisturbed)
    with pytest.raises(RunError, match=r"was begun with lr 0.001, not 0.002; give what it was begun with, or choose"):
        train_run(cohort_of_bags, undisturbed, RECIPE.but(lr=2e-3), ONE, resume=True)
    fewer = cohort_of_bags._replace(
        labels=cohort_of_bags.labels.at(range(2, 12)), bags=cohort_of_bags.bags[2:], sizes=cohort_of_bags.sizes[2:]
    )
    with pytest.raises(
        RunError, match="was begun with other slides, labels or folds than --labels and --bags have now"
    ):
        train_run(fewer, undisturbed, RECIPE, ONE, resume=True)
    assert content(undisturbed) == before


def test_where_it_runs_may_change(cohort_of_bags: Cohort, undisturbed: Path) -> None:
    before = content(undisturbed)
    train_run(cohort_of_bags, undisturbed, RECIPE.but(loader_workers=1, checkpoint_minutes=1.0), ONE, resume=True)
    assert content(undisturbed) == before


def test_a_damaged_checkpoint_is_named(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, stop=after(2))
    checkpoint = tmp_path / "run" / "fold_0" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"fold_0.checkpoint.safetensors' cannot be read .*; delete it, and the fold"):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, resume=True)


class TestCommand:
    @pytest.fixture
    def flags(self, cohort: CohortFiles, bags: Path, tmp_path: Path) -> Iterator[list[str]]:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({**RECIPE.flat(), "epochs": 60, "patience": 60, "checkpoint_minutes": 0.001}))
        yield [
            "--bags",
            str(bags),
            "--labels",
            str(cohort.labels),
            "--config",
            str(config),
            "--out",
            str(tmp_path / "r"),
        ]

    def test_a_warning_saves_and_leaves_with_its_own_status(self, flags: list[str], tmp_path: Path) -> None:
        command = [sys.executable, str(ROOT / "train.py"), *flags]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not (tmp_path / "r" / "fold_0" / "checkpoint.safetensors").exists():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate()
        assert process.returncode == cli.STOPPED == 75
        assert "fold 0 was asked to stop in epoch" in errors.splitlines()[-1]
        assert errors.splitlines()[-1].endswith("r, go on with --resume")
