"""A run keeps what it promises: complete tables, honest folds, the same result twice."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mil.cohort import Cohort, gather
from mil.errors import LabelsError, ModelError, RunError
from mil.folds import Split, make_splits
from mil.labels import read_labels
from mil.log import kept
from mil.loop import train_fold
from mil.metrics import auc
from mil.run import train_run
from mil.settings import ModelSpec, TrainSpec
from tests.conftest import Trained
from tiling.bag import Bag, read_bag

MODEL = ModelSpec(backbone="test_resnet", train_px=32)
SPEC = TrainSpec(folds=2, epochs=2, lr=1e-3, device="cpu")

FOLD_OF = np.arange(12) // 2 % 2


def split(cohort: Cohort, fold: int) -> Split:
    """The split of a fold, with validation rows that are the same whatever the labels of the test fold."""
    return make_splits(cohort.labels, FOLD_OF, SPEC.valid_share, 0)[fold]


@pytest.fixture(scope="module")
def cohort_of_bags(trained: Trained) -> Cohort:
    return gather(read_labels(trained.labels), trained.bags, skip_missing=False)


class TestFolder:
    def test_holds_what_the_contract_says(self, trained: Trained) -> None:
        assert sorted(path.name for path in trained.run.iterdir()) == [
            "config.yaml", "fold_0", "fold_1", "folds.csv", "learning_curves.png", "log.csv", "metrics.json", "oof.csv",
        ]  # fmt: skip

    def test_every_slide_is_predicted_once_by_the_fold_that_did_not_see_it(self, trained: Trained) -> None:
        oof, folds = pd.read_csv(trained.run / "oof.csv"), pd.read_csv(trained.run / "folds.csv")
        assert list(oof) == [
            "slide_id", "patient_id", "label", "fold", "tiles",
            "prob_normal", "prob_tumour", "predicted", "status", "error",
        ]  # fmt: skip
        assert oof["slide_id"].tolist() == folds["slide_id"].tolist() == [f"s{i:02d}" for i in range(12)]
        assert oof["fold"].tolist() == folds["fold"].tolist()
        assert (oof["status"] == "ok").all()
        assert (oof["tiles"] == 6).all()
        np.testing.assert_allclose(oof["prob_normal"] + oof["prob_tumour"], 1)
        predicted = np.where(oof["prob_tumour"] > 0.5, "tumour", "normal")
        assert oof["predicted"].tolist() == predicted.tolist()

    def test_metrics_are_those_of_oof(self, trained: Trained) -> None:
        oof = pd.read_csv(trained.run / "oof.csv")
        metrics = json.loads((trained.run / "metrics.json").read_text())
        targets = (oof["label"] == "tumour").astype(int).to_numpy()
        chances = oof[["prob_normal", "prob_tumour"]].to_numpy()
        assert metrics["auc"]["value"] == pytest.approx(auc(chances, targets))
        assert metrics["auc"]["low"] <= metrics["auc"]["value"] <= metrics["auc"]["high"]
        assert metrics["log_loss"]["value"] == pytest.approx(-np.log(chances[range(12), targets]).mean())
        assert metrics["prior_log_loss"] == pytest.approx(np.log(2))
        assert [fold["slides"] for fold in metrics["folds"]] == [6, 6]

    def test_log_has_a_row_an_epoch_and_marks_the_kept_one(self, trained: Trained) -> None:
        with (trained.run / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["fold"], row["epoch"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
        for fold in ("0", "1"):
            losses = [float(row["valid_loss"]) for row in rows if row["fold"] == fold]
            best = [row["best"] == "True" for row in rows if row["fold"] == fold]
            assert best == [True, losses[1] < losses[0]]


def test_same_seed_same_result(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    first = train_run(cohort_of_bags, tmp_path / "a", MODEL, SPEC)
    second = train_run(cohort_of_bags, tmp_path / "b", MODEL, SPEC)
    assert first == second
    for name in ("oof.csv", "log.csv", "folds.csv", "fold_1/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_reported_fold_chooses_nothing(cohort_of_bags: Cohort) -> None:
    """With every label of the test fold turned round, the model and the epoch stay the same."""
    table = cohort_of_bags.labels.table
    turned_table = table.assign(target=np.where(FOLD_OF == 1, 1 - table["target"], table["target"]))
    turned = cohort_of_bags._replace(labels=cohort_of_bags.labels.__class__(turned_table, ("normal", "tumour")))
    results = [train_fold(each, split(each, 1), MODEL, SPEC) for each in (cohort_of_bags, turned)]
    assert results[0].log == results[1].log
    np.testing.assert_array_equal(results[0].probabilities, results[1].probabilities)


def test_best_weights_are_kept(cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses 3, 1, 2, 2 with a patience of 2: epoch 1 is kept and epoch 3 is the last."""
    losses, states = iter([3.0, 1.0, 2.0, 2.0, 0.5]), []
    monkeypatch.setattr("mil.loop.log_loss", lambda *_: next(losses))
    real = torch.optim.AdamW.zero_grad
    monkeypatch.setattr(
        torch.optim.AdamW,
        "zero_grad",
        lambda self, *args: states.append(self.param_groups[0]["params"][0].detach().clone()) or real(self, *args),
    )
    spec = TrainSpec(folds=2, epochs=9, patience=2, lr=1e-2, batch_size=99, device="cpu")  # one step an epoch
    result = train_fold(cohort_of_bags, split(cohort_of_bags, 0), MODEL, spec)
    assert [row.best for row in result.log] == [True, True, False, False]
    assert kept(result.log).epoch == 1
    # states[i] is the weight before step i, and so after epoch i - 1.
    torch.testing.assert_close(next(result.model.parameters()), states[2], rtol=0, atol=0)


def test_learns_what_there_is_to_learn(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    spec = TrainSpec(folds=2, epochs=40, patience=40, batch_size=2, lr=2e-3, device="cpu")
    assert train_run(cohort_of_bags, tmp_path / "run", MODEL, spec)["auc"].value >= 0.9


@pytest.mark.parametrize("pooling", ["avg", "max", "logsumexp", "concat", "gated"])
def test_every_pooling_trains(cohort_of_bags: Cohort, pooling: str) -> None:
    model = ModelSpec(backbone="test_resnet", train_px=32, pooling=pooling)  # type: ignore[arg-type]
    spec = TrainSpec(folds=2, epochs=1, device="cpu")
    result = train_fold(cohort_of_bags, split(cohort_of_bags, 0), model, spec)
    assert np.isfinite(result.probabilities).all()


def test_three_classes(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    table = cohort_of_bags.labels.table.assign(target=np.arange(12) % 3)
    table["label"] = table["target"].map(lambda target: "xyz"[target])
    three = cohort_of_bags._replace(labels=cohort_of_bags.labels.__class__(table, ("x", "y", "z")))
    train_run(three, tmp_path / "run", MODEL, SPEC)
    oof = pd.read_csv(tmp_path / "run" / "oof.csv")
    np.testing.assert_allclose(oof[["prob_x", "prob_y", "prob_z"]].sum(axis=1), 1)


def test_skipped_slides_keep_a_row(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    missing = pd.DataFrame(
        {"slide_id": ["gone"], "patient_id": ["p"], "label": ["tumour"], "error": ["it is cut short"]}
    )
    train_run(cohort_of_bags._replace(missing=missing), tmp_path / "run", MODEL, SPEC)
    last = pd.read_csv(tmp_path / "run" / "oof.csv").iloc[-1]
    assert (last["slide_id"], last["label"], last["status"], last["error"]) == (
        "gone",
        "tumour",
        "failed",
        "it is cut short",
    )
    assert last[["fold", "prob_normal", "prob_tumour", "predicted"]].isna().all()


def test_trains_in_one_process_inside_a_job_of_slurm(
    cohort_of_bags: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With srun at hand, and with tasks that this process is not one of: nothing is asked for, nobody waited for."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"JOB_ID": "7", "NTASKS": "2", "PROCID": "0", "LOCALID": "0", "NODELIST": "n1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    result = train_fold(cohort_of_bags, split(cohort_of_bags, 0), MODEL, SPEC)
    assert len(result.log) == 2


def test_diverged_training_is_an_error(cohort_of_bags: Cohort) -> None:
    spec = TrainSpec(folds=2, epochs=3, lr=1e20, device="cpu")
    with pytest.raises(ModelError, match=r"the loss of fold 0 became .* in epoch \d; lower --lr"):
        train_fold(cohort_of_bags, split(cohort_of_bags, 0), MODEL, spec)


def test_batch_of_one_tile_is_an_error_that_helps(cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_tile(bag: Bag, px: int) -> torch.Tensor:
        return torch.zeros(1, 3, px, px, dtype=torch.uint8)

    monkeypatch.setattr("mil.data.bag_tensor", one_tile)
    spec = TrainSpec(folds=2, epochs=1, batch_size=1, device="cpu")
    with pytest.raises(ModelError, match="Expected more than 1 value .*; raise --train-px or --batch-size"):
        train_fold(cohort_of_bags, split(cohort_of_bags, 0), MODEL, spec)


def test_what_is_refused_leaves_no_folder(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="timm has no model"):
        train_run(cohort_of_bags, tmp_path / "run", ModelSpec(backbone="nonsense"), SPEC)
    with pytest.raises(LabelsError, match="fewer than the 7 folds"):
        train_run(cohort_of_bags, tmp_path / "run", MODEL, TrainSpec(folds=7, device="cpu"))
    assert not (tmp_path / "run").exists()


def test_run_folder_that_exists(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists; choose another --out or delete it"):
        train_run(cohort_of_bags, tmp_path, MODEL, SPEC)


def test_bags_hold_the_lesion(trained: Trained) -> None:
    """The positive slides' dark square is the best tile, so that there is something to learn."""
    for index in range(1, 12, 2):
        bag = read_bag(trained.bags / f"s{index:02d}.h5")
        assert (bag.x0[0], bag.y0[0]) == (64, 64)
