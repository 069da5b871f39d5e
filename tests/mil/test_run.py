"""A run keeps what it promises: complete tables, honest folds, the same result twice."""

import csv
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch._dynamo.exc import TorchDynamoException

from mil.chance import seed_of
from mil.checkpoint import load_model
from mil.cohort import Cohort, gather
from mil.errors import LabelsError, ModelError, RunError
from mil.evaluation import Evaluation
from mil.folds import Folds, Split, make_splits
from mil.labels import Labels, read_labels, target_column
from mil.launcher import Launch
from mil.log import kept
from mil.loop import train_fold
from mil.metrics import auc
from mil.model import build_model
from mil.predict import load_run, predict_bag
from mil.processes import Processes
from mil.recipe import Recipe
from mil.run import reader_of, train_run
from mil.task import Task
from mil.training import FoldResult
from tests.conftest import Trained
from tiling.bag import Bag, read_bag
from tiling.features import read_features, write_features

RECIPE = Recipe.of(backbone="test_resnet", train_px=32, folds=2, epochs=2, lr=1e-3, cache=None, device="cpu")
FEATURES = Recipe.of(folds=2, epochs=2, lr=1e-3, device="cpu")
ONE = Processes(Launch(), torch.device("cpu"))

FOLD_OF = np.arange(12) // 2 % 2
FOLDS = Folds(FOLD_OF, ("0", "1"))


def split(cohort: Cohort, fold: int) -> Split:
    """The split of a fold, with validation rows that are the same whatever the labels of the test fold."""
    return make_splits(cohort.labels, FOLDS, 0.2, 0)[fold]


def fold_of(cohort: Cohort, part: Split, recipe: Recipe) -> FoldResult:
    """A fold trained here, with nothing on disk."""
    return train_fold(cohort, part, recipe, reader_of(cohort, recipe, ONE), ONE)


def run_of(cohort: Cohort, out: Path, recipe: Recipe, **more: Any) -> Evaluation:
    """A run trained here."""
    evaluation = train_run(cohort, out, recipe, ONE, **more)
    assert evaluation is not None
    return evaluation


@pytest.fixture(scope="module")
def cohort_of_bags(trained: Trained) -> Cohort:
    return gather(read_labels(trained.labels), trained.bags, skip_missing=False)


class TestFolder:
    def test_holds_what_the_contract_says(self, trained: Trained) -> None:
        assert sorted(path.name for path in trained.run.iterdir()) == [
            "bags.json", "config.yaml", "confusion.png", "fold_0", "fold_1", "folds.csv", "learning_curves.png",
            "log.csv", "metrics.json", "oof.csv", "precision_recall.png", "reliability.png", "report",
            "roc.png", "skipped.csv",
        ]  # fmt: skip

    def test_every_slide_is_predicted_once_by_the_fold_that_did_not_see_it(self, trained: Trained) -> None:
        oof, folds = pd.read_csv(trained.run / "oof.csv"), pd.read_csv(trained.run / "folds.csv")
        assert list(oof) == [
            "slide_id", "patient_id", "label", "fold", "status", "tiles",
            "prob_normal", "prob_tumour", "predicted", "error",
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
        assert metrics["slides"]["auc"]["value"] == pytest.approx(auc(chances, targets))
        assert metrics["slides"]["auc"]["low"] <= metrics["slides"]["auc"]["value"] <= metrics["slides"]["auc"]["high"]
        assert metrics["slides"]["log_loss"]["value"] == pytest.approx(-np.log(chances[range(12), targets]).mean())
        assert metrics["slides"]["log_loss"]["baseline"] == pytest.approx(np.log(2))
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
    first = run_of(cohort_of_bags, tmp_path / "a", RECIPE)
    second = run_of(cohort_of_bags, tmp_path / "b", RECIPE)
    assert first.as_json() == second.as_json()
    for name in ("oof.csv", "log.csv", "folds.csv", "fold_1/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_reported_fold_chooses_nothing(cohort_of_bags: Cohort) -> None:
    """With every label of the test fold turned round, the model and the epoch stay the same."""
    table = cohort_of_bags.labels.table
    turned_table = table.assign(target=np.where(FOLD_OF == 1, 1 - table["target"], table["target"]))
    turned = cohort_of_bags._replace(labels=Labels(turned_table, cohort_of_bags.labels.task))
    results = [fold_of(each, split(each, 1), RECIPE) for each in (cohort_of_bags, turned)]
    assert results[0].log == results[1].log
    np.testing.assert_array_equal(results[0].probabilities, results[1].probabilities)


def test_best_weights_are_kept(cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses 3, 1, 2, 2 with a patience of 2: epoch 1 is kept and epoch 3 is the last."""
    losses, states, weights = iter([3.0, 1.0, 2.0, 2.0, 0.5]), [], []
    monkeypatch.setattr("mil.training.log_loss", lambda *_: next(losses))
    real = torch.optim.AdamW.zero_grad

    def noting(self: torch.optim.AdamW, *args: object) -> None:
        weights.append(self.param_groups[0]["params"][0])
        states.append(weights[0].detach().clone())
        real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "zero_grad", noting)
    recipe = RECIPE.but(epochs=9, patience=2, lr=1e-2, batch_size=99, device="cpu")  # one step an epoch
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    assert [row.best for row in result.log] == [True, True, False, False]
    assert kept(result.log).epoch == 1
    # states[i] is the weight after step i, and so after epoch i.
    torch.testing.assert_close(weights[0], states[1], rtol=0, atol=0)
    assert any(weight is weights[0] for weight in result.model.parameters())


def test_learns_what_there_is_to_learn(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    recipe = RECIPE.but(epochs=40, patience=40, batch_size=2, lr=2e-3, device="cpu")
    assert run_of(cohort_of_bags, tmp_path / "run", recipe).slides.figures["auc"].value >= 0.9


@pytest.mark.parametrize("pooling", ["avg", "max", "logsumexp", "concat", "gated"])
def test_every_pooling_trains(cohort_of_bags: Cohort, pooling: str) -> None:
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), RECIPE.but(pooling=pooling, epochs=1))
    assert np.isfinite(result.probabilities).all()


def test_three_classes(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    table = cohort_of_bags.labels.table.assign(target=np.arange(12) % 3)
    table["label"] = table["target"].map(lambda target: "xyz"[target])
    three = cohort_of_bags._replace(labels=Labels(table, Task(("x", "y", "z"))))
    run_of(three, tmp_path / "run", RECIPE)
    oof = pd.read_csv(tmp_path / "run" / "oof.csv")
    np.testing.assert_allclose(oof[["prob_x", "prob_y", "prob_z"]].sum(axis=1), 1)


def test_several_labels(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    """The label a as before, b on every third slide and unknown on the first."""
    table = cohort_of_bags.labels.table.drop(columns="target")
    table[target_column("a")] = np.arange(12.0) % 2
    table[target_column("b")] = np.where(np.arange(12) % 3 == 0, 1.0, 0.0)
    table.loc[0, target_column("b")] = np.nan
    several = cohort_of_bags._replace(labels=Labels(table, Task(("a", "b"), "any of")))
    recipe = RECIPE.but(epochs=60, valid_share=0, batch_size=2, lr=2e-3, device="cpu")
    run_of(several, tmp_path / "run", recipe)
    oof = pd.read_csv(tmp_path / "run" / "oof.csv", keep_default_na=False)
    chances = oof[["prob_a", "prob_b"]].to_numpy(float)
    assert (chances.sum(axis=1) != 1).all()
    assert auc(chances[:, :1], table[[target_column("a")]].to_numpy()) >= 0.9
    assert oof["predicted"].tolist() == [
        ";".join(name for name, chance in zip("ab", row, strict=True) if chance >= 0.5) for row in chances
    ]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["slides"]["auc"]["value"] == pytest.approx(auc(chances, several.labels.targets))


def test_one_vs_normal(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    table = cohort_of_bags.labels.table.assign(target=np.arange(12) % 3, label=list("xyz") * 4)
    task = Task(("x", "y", "z"), "one vs normal", "y")
    run_of(cohort_of_bags._replace(labels=Labels(table, task)), tmp_path / "run", RECIPE)
    oof = pd.read_csv(tmp_path / "run" / "oof.csv")
    np.testing.assert_allclose(oof[["prob_x", "prob_y", "prob_z"]].sum(axis=1), 1)
    model, card = load_model(tmp_path / "run" / "fold_0")
    assert card.task == task
    assert model.head.classifier[-1].out_features == 2


class TestMetadata:
    COLUMNS: ClassVar = {"categorical": ("site",), "numeric": ("age",)}

    def make(self, cohort: Cohort) -> Cohort:
        """Ages tell the classes apart; the sites of the two folds are different, one slide's age is unknown."""
        table = cohort.labels.table.copy()
        table["age"] = [str(40 + 20 * target) for target in table["target"]]
        table.loc[0, "age"] = ""
        table["site"] = np.where(FOLD_OF == 0, "skin", "colon")
        return cohort._replace(labels=Labels(table, cohort.labels.task))

    def test_fitted_on_the_training_part_alone(self, cohort_of_bags: Cohort) -> None:
        cohort = self.make(cohort_of_bags)
        part = split(cohort, 0)
        result = fold_of(cohort, part, RECIPE.but(**self.COLUMNS))
        ages = [40 + 20 * (row % 2) for row in part.train]
        assert result.metadata.categories == {"site": ("colon",)}  # skin is unknown to it
        assert result.metadata.scales["age"] == pytest.approx((np.mean(ages), np.std(ages)))

    def test_is_learned_from_and_saved(self, cohort_of_bags: Cohort, tmp_path: Path) -> None:
        cohort = self.make(cohort_of_bags)
        settings = {"epochs": 40, "patience": 40, "lr": 1e-4, "lr_head": 1e-2, "freeze": "all"}
        run_of(cohort, tmp_path / "run", RECIPE.but(**settings, **self.COLUMNS))
        run = load_run(tmp_path / "run", torch.device("cpu"))
        assert run.card.metadata.columns == ("site", "age")
        bag = read_bag(cohort.bags[3].path)
        old, young, unknown = (
            predict_bag(run, bag, metadata).probabilities[1]
            for metadata in (
                pd.DataFrame({"site": ["brain"], "age": ["60"]}), pd.DataFrame({"site": [""], "age": ["40"]}), None,
            )
        )  # fmt: skip
        assert old > 0.7 > 0.3 > young
        assert young < unknown < old


class TestFeatures:
    @pytest.fixture
    def cohort(self, tmp_path: Path) -> Cohort:
        """Twelve slides of 3 to 14 vectors; one vector of the positive ones is far out."""
        random = np.random.default_rng(0)
        (tmp_path / "features").mkdir()
        rows = ["slide_id,label"]
        for index in range(12):
            features = random.normal(100, 5, (3 + index, 6))
            features[:, 5] = 7
            if index % 2:
                features[index % 3, :3] += 40
            write_features(tmp_path / "features" / f"f{index:02d}.h5", features.astype(np.float32))
            rows.append(f"f{index:02d},{index % 2}")
        (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
        return gather(read_labels(tmp_path / "labels.csv"), tmp_path / "features", skip_missing=False)

    def test_gathered(self, cohort: Cohort) -> None:
        assert cohort.bag_spec["features"] == 6
        assert cohort.sizes == list(range(3, 15))

    @pytest.mark.parametrize("pooling", ["attention", "max"])
    def test_learned_and_scored(self, cohort: Cohort, tmp_path: Path, pooling: str) -> None:
        more = {"pooling": pooling, "embed": (8,), "epochs": 60, "valid_share": 0.0, "batch_size": 2, "lr_end": 1e-3}
        estimates = run_of(cohort, tmp_path / "run", FEATURES.but(standardize=True, lr=1e-2, **more))
        assert estimates.slides.figures["auc"].value >= 0.9
        oof = pd.read_csv(tmp_path / "run" / "oof.csv")
        assert oof["tiles"].tolist() == cohort.sizes
        run = load_run(tmp_path / "run", torch.device("cpu"), instance_chunk=4)
        for row, ref in enumerate(cohort.bags):
            fold = int(oof["fold"][row])
            alone = run._replace(models=run.models[fold : fold + 1], cards=run.cards[fold : fold + 1])
            chances = predict_bag(alone, read_features(ref)).probabilities
            assert chances[1] == pytest.approx(oof["prob_1"][row], rel=1e-5)

    def test_standardised_on_the_training_part_alone(self, cohort: Cohort) -> None:
        part = split(cohort, 0)
        result = fold_of(cohort, part, FEATURES.but(standardize=True))
        seen = np.concatenate([read_features(cohort.bags[row]).features_NC for row in part.train])
        inputs = result.model.encoder.backbone
        np.testing.assert_allclose(inputs.mean, seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(inputs.deviation[:5], seen.std(0)[:5], rtol=1e-4)
        assert inputs.deviation[5] == 1  # the same everywhere

    def test_config_says_nothing_of_a_backbone(self, cohort: Cohort, tmp_path: Path) -> None:
        run_of(cohort, tmp_path / "run", FEATURES)
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["backbone"] is None


def test_shuffled_labels_are_told_at_chance(tmp_path: Path) -> None:
    """The whole chain on labels that say nothing: an AUC of one half lies within its interval.

    A hundred patients of two slides each that look alike, so that a patient on both sides would be recognised; the same
    chain with their true labels tells them apart.
    """
    random = np.random.default_rng(0)
    (tmp_path / "features").mkdir()
    patients, rows = np.repeat(np.arange(100), 2), []
    look = random.normal(0, 3, (100, 8))
    shuffled = random.permutation(np.arange(100) % 2)
    for slide, patient in enumerate(patients):
        features = random.normal(look[patient], 1, (5, 8))
        features[0, 0] += 20 * (patient % 2)
        write_features(tmp_path / "features" / f"f{slide:03d}.h5", features.astype(np.float32))
        rows.append((f"f{slide:03d}", f"p{patient}", patient % 2, shuffled[patient]))
    settings = {"epochs": 10, "lr": 1e-2, "folds": 4, "embed": (16,), "standardize": True, "batch_size": 16}
    table, found = pd.DataFrame(rows, columns=["slide_id", "patient_id", "true", "shuffled"]), {}
    for name in ("true", "shuffled"):
        table.rename(columns={name: "label"}).to_csv(tmp_path / f"{name}.csv", index=False)
        cohort = gather(read_labels(tmp_path / f"{name}.csv"), tmp_path / "features", skip_missing=False)
        found[name] = run_of(cohort, tmp_path / name, FEATURES.but(**settings)).slides.figures["auc"]
    assert found["true"].value > 0.95
    assert found["shuffled"].low < 0.5 < found["shuffled"].high


def test_learning_rate_in_the_log_is_that_of_the_backbone(cohort_of_bags: Cohort) -> None:
    recipe = RECIPE.but(freeze="all", lr_attention=0.0, lr_end=1e-5)
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    assert [row.lr for row in result.log] == pytest.approx([1e-3, 1e-5 + (1e-3 - 1e-5) / 2])


def test_head_norm_and_a_bag_left_over(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    """Of five training slides in fours none may come alone."""
    recipe = RECIPE.but(head_hidden=4, head_norm=True)
    part = split(cohort_of_bags, 0)
    part = part._replace(train=np.concatenate([part.train, part.valid])[:5])
    result = fold_of(cohort_of_bags, part, recipe)
    assert np.isfinite(result.probabilities).all()
    with pytest.raises(ModelError, match="--head-norm takes means over bags: give a --batch-size of 2 or more"):
        run_of(cohort_of_bags, tmp_path / "run", recipe.but(batch_size=1))


def test_config_names_the_backbone_that_was_taken(
    cohort_of_bags: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mil.run.DEFAULT_BACKBONE", "test_resnet")
    run_of(cohort_of_bags, tmp_path / "run", RECIPE.but(backbone=None))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["backbone"] == "test_resnet"


def test_without_validation_all_other_folds_train_and_the_last_epoch_is_kept(cohort_of_bags: Cohort) -> None:
    recipe = RECIPE.but(valid_share=0.0, epochs=3)
    part = make_splits(cohort_of_bags.labels, FOLDS, 0, 0)[1]
    assert (len(part.train), len(part.valid), len(part.test)) == (6, 0, 6)
    result = fold_of(cohort_of_bags, part, recipe)
    assert [row.best for row in result.log] == [True] * 3
    assert kept(result.log).epoch == 2
    assert all(np.isnan(row.valid_loss) for row in result.log)


def test_freezing_leaves_the_backbone_as_it_was(cohort_of_bags: Cohort) -> None:
    recipe = RECIPE.but(freeze="all", lr_head=1e-2)
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    torch.manual_seed(seed_of(0, 0, 1))
    start = build_model(RECIPE.model, cohort_of_bags.labels.task, cohort_of_bags.bag_spec).state_dict()
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith("encoder.backbone"), name


@pytest.mark.parametrize(
    "settings",
    [
        {"instance_chunk": 5, "batch_norm": "frozen"},
        {"precision": "bf16", "channels_last": True, "lr_head": 1e-2},
        {"layer_decay": 0.7, "lr_attention": 1e-3, "lr_head": 1e-3, "optimizer": "adam", "freeze": 1},
    ],
)
def test_settings_of_training_are_taken(cohort_of_bags: Cohort, settings: dict[str, object]) -> None:
    recipe = RECIPE.but(**settings)  # type: ignore[arg-type]
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    assert np.isfinite(result.probabilities).all()
    plain = fold_of(cohort_of_bags, split(cohort_of_bags, 0), RECIPE)
    assert not np.array_equal(result.probabilities, plain.probabilities)


def test_skipped_slides_keep_a_row(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    missing = pd.DataFrame(
        {"slide_id": ["gone"], "patient_id": ["p"], "label": ["tumour"], "error": ["it is cut short"]}
    )
    run_of(cohort_of_bags._replace(missing=missing), tmp_path / "run", RECIPE)
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
    result = fold_of(cohort_of_bags, split(cohort_of_bags, 0), RECIPE)
    assert len(result.log) == 2


def test_diverged_training_is_an_error(cohort_of_bags: Cohort) -> None:
    recipe = RECIPE.but(epochs=3, lr=1e20, device="cpu")
    with pytest.raises(ModelError, match=r"the loss of fold 0 became .* in epoch \d; lower --lr"):
        fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)


def test_batch_of_one_tile_is_an_error_that_helps(cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_tile(bag: Bag, px: int) -> torch.Tensor:
        return torch.zeros(1, 3, px, px, dtype=torch.uint8)

    monkeypatch.setattr("mil.data.bag_tensor", one_tile)
    recipe = RECIPE.but(epochs=1, batch_size=1, device="cpu")
    with pytest.raises(ModelError, match="Expected more than 1 value .*; raise --batch-size, or --instance-chunk"):
        fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)


def test_compiler_that_fails_is_an_error_that_helps(cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise TorchDynamoException("no working C++ compiler")

    monkeypatch.setattr("mil.backbone.Backbone.forward", fails)
    with pytest.raises(ModelError, match="cannot be compiled here .no working C.* compiler.; train without --compile"):
        fold_of(cohort_of_bags, split(cohort_of_bags, 0), RECIPE)


def test_what_is_refused_leaves_no_folder(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="timm has no model"):
        run_of(cohort_of_bags, tmp_path / "run", RECIPE.but(backbone="nonsense"))
    with pytest.raises(LabelsError, match="fewer than the 7 folds"):
        run_of(cohort_of_bags, tmp_path / "run", RECIPE.but(folds=7))
    assert not (tmp_path / "run").exists()


def test_run_folder_that_exists(cohort_of_bags: Cohort, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists; give --resume to go on with a run, or choose another --out"):
        run_of(cohort_of_bags, tmp_path, RECIPE)


def test_bags_hold_the_lesion(trained: Trained) -> None:
    """The positive slides' dark square is the best tile, so that there is something to learn."""
    for index in range(1, 12, 2):
        bag = read_bag(trained.bags / f"s{index:02d}.h5")
        assert (bag.x0[0], bag.y0[0]) == (64, 64)
