"""A run that was interrupted anywhere, or whose folds were jobs of their own, ends as one left alone: to the byte."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

from mil.cohort import Cohort, gather
from mil.collect import collect
from mil.errors import ModelError, RunError, Stopped
from mil.labels import Labels, read_labels
from mil.launcher import Launch
from mil.log import EpochLog
from mil.processes import Processes
from mil.recipe import Recipe
from mil.run import train_run
from mil.run_folder import refuse_taken
from mil.stop import Stop
from mil.trackers import TRACKERS, TrackedFold, Tracker
from tests.conftest import CohortFiles
from tests.mil.test_run import fold_of, split
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


class After(Stop):
    """Asked, it says no so many times, and yes from then on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = iter(range(calls))

    def __call__(self) -> bool:
        return next(self.left, None) is None


def test_nothing_is_left_that_only_training_needs(undisturbed: Path) -> None:
    assert sorted(content(undisturbed)) == sorted(
        [f"fold_{fold}/{name}" for fold in (0, 1) for name in ("log.csv", "model.json", "model.safetensors", "oof.csv")]
        + ["bags.json", "config.yaml", "folds.csv", "log.csv", "metrics.json", "oof.csv", "skipped.csv"]
        + [path.name for path in undisturbed.glob("*.png")]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": None, "average_last": 2, "optimizer": "sgd", "accumulate": 2},
        {"schedule": "plateau", "decay_epochs": 1},
        {"channels_last": True},  # the moments of fused optimisers lie as the weights do
        {"channels_last": True, "optimizer": "sgd", "ema": None},
        {"freeze": "all", "augment": False, "hed_jitter": 0.0},
    ],
)
def test_stopped_at_every_step(cohort_of_bags: Cohort, tmp_path: Path, settings: dict[str, object]) -> None:
    recipe = RECIPE.but(**settings)
    train_run(cohort_of_bags, tmp_path / "whole", recipe, ONE)
    stops, said = 0, r"fold [01] was asked to stop in epoch [012]|a validation was asked to stop"
    for session in range(100):
        try:  # at each moment at which it asks, also within validations, which must end some time
            train_run(cohort_of_bags, tmp_path / "run", recipe, ONE, resume=True, stop=After(session % 5))
        except Stopped as stopped:
            assert re.fullmatch(said, str(stopped))
            stops += 1
        else:
            break
    assert 4 <= stops < 99
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
        monkeypatch.setattr(f"mil.collect.{draw}", lambda *_: None)
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
        with pytest.raises(RunError, match=rf"there is no fold {fold}; --fold is one of 0, 1"):
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
        labels=cohort_of_bags.labels.at(range(2, 12)), bags=cohort_of_bags.bags[2:], sizes=cohort_of_bags.sizes[2:],
        votes=cohort_of_bags.votes[2:],
    )  # fmt: skip
    with pytest.raises(
        RunError, match="was begun with other slides, labels, metadata or folds than --labels and --bags have"
    ):
        train_run(fewer, undisturbed, RECIPE, ONE, resume=True)
    assert content(undisturbed) == before


def test_other_bags_and_other_metadata_are_not_mixed(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    table = cohort_of_bags.labels.table.assign(age=[str(age) for age in range(12)])
    labels = Labels(table, cohort_of_bags.labels.task)
    cohort, recipe = cohort_of_bags._replace(labels=labels), RECIPE.but(numeric=("age",))
    train_run(cohort, tmp_path / "run", recipe, ONE, fold=0)
    older = cohort._replace(labels=Labels(table.assign(age="50"), labels.task))
    with pytest.raises(RunError, match="was begun with other slides, labels, metadata or folds"):
        train_run(older, tmp_path / "run", recipe, ONE, fold=1)
    fewer = cohort._replace(bag_spec={**cohort.bag_spec, "instances": 3})
    with pytest.raises(RunError, match="was begun with bags of another instances; give the bags it was begun with"):
        train_run(fewer, tmp_path / "run", recipe, ONE, fold=1)


def test_a_checkpoint_of_another_network_is_named(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, stop=After(2))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("attention_hidden: 128", "attention_hidden: 64"))
    with pytest.raises(RunError, match=r"checkpoint.safetensors' is not of this training .*; delete it, and the fold"):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE.but(attention_hidden=64), ONE, resume=True)


def test_a_job_that_begins_meanwhile_is_not_refused(
    cohort_of_bags: Cohort, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job's settings come into place while this one looks at the folder."""
    run, listed = tmp_path / "run", Path.iterdir
    run.mkdir()

    def slow(folder: Path) -> Iterator[Path]:
        names = list(listed(folder))
        shutil.copytree(undisturbed, run, dirs_exist_ok=True)
        return iter(names)

    monkeypatch.setattr(Path, "iterdir", slow)
    refuse_taken(run, resume=True, fold=None)
    monkeypatch.undo()
    assert train_run(cohort_of_bags, run, RECIPE, ONE, resume=True) is not None


def test_what_a_killed_job_left_goes(cohort_of_bags: Cohort, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "fold_1" / "checkpoint.safetensors").write_bytes(b"")
    train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, resume=True)
    assert content(tmp_path / "run") == content(undisturbed)


@pytest.mark.parametrize(
    "place", ["mil.training.predict_batches", "mil.training.encode_once", "mil.training.FoldTraining._update"]
)
def test_out_of_memory_anywhere_is_explained(
    cohort_of_bags: Cohort, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    monkeypatch.setattr(place, full)
    recipe = RECIPE.but(freeze="all", augment=False, hed_jitter=0.0)
    with pytest.raises(ModelError, match=r"out of memory: a step of 2 bags with 12 tiles of 32 px needs about .* GB"):
        fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)


def test_a_disk_that_is_full_is_named(cohort_of_bags: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mil.snapshot.save_file", full)
    with pytest.raises(RunError, match=r"cannot write to .*fold_0' .*No space left.*; see that the disk is not full"):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE)


def test_a_tracker_is_told_of_the_end_also_by_a_job_that_only_finishes(
    cohort_of_bags: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    class Fake(Tracker):
        check = staticmethod(lambda: None)

        def __init__(self, fold: TrackedFold) -> None:
            told.append(("begin", fold.number, fold.first_epoch))

        def epoch(self, row: EpochLog) -> None:
            told.append(row.epoch)

        def finish(self, metrics: Mapping[str, object]) -> None:
            told.append(sorted(metrics))

        def stop(self) -> None:
            told.append("stop")

    monkeypatch.setitem(TRACKERS, "tensorboard", Fake)
    recipe = RECIPE.but(tracker="tensorboard")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mil.run.save_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_run(cohort_of_bags, tmp_path / "run", recipe, ONE, fold=1)
    assert told == [("begin", 1, 0), 0, 1, ["auc", "log_loss"]]
    monkeypatch.undo()
    monkeypatch.setitem(TRACKERS, "tensorboard", Fake)
    told.clear()
    train_run(cohort_of_bags, tmp_path / "run", recipe, ONE, fold=1, resume=True)
    assert told == [("begin", 1, 2), ["auc", "log_loss"]]


def test_where_it_runs_may_change(cohort_of_bags: Cohort, undisturbed: Path) -> None:
    before = content(undisturbed)
    train_run(cohort_of_bags, undisturbed, RECIPE.but(loader_workers=1, checkpoint_minutes=1.0), ONE, resume=True)
    assert content(undisturbed) == before


def test_a_damaged_checkpoint_is_named(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_run(cohort_of_bags, tmp_path / "run", RECIPE, ONE, stop=After(2))
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
        assert "was asked to stop" in errors.splitlines()[-1]
        assert errors.splitlines()[-1].endswith("; start it again with --resume and it goes on")
