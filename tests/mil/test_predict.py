"""Scores are the mean of the folds, on the bag alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mil.checkpoint import load_model
from mil.errors import RunError, SettingsError
from mil.predict import load_run, pick_device, predict_bag
from tests.conftest import Trained
from tiling.bag import read_bag


def test_folds_are_averaged(trained: Trained) -> None:
    run = load_run(trained.run, torch.device("cpu"))
    bag = read_bag(trained.bags / "s05.h5")
    prediction = predict_bag(run, bag)
    tiles = torch.stack([torch.from_numpy(bag.tile(i).copy()).permute(2, 0, 1) for i in range(len(bag))])
    by_fold, attention = [], []
    for fold in range(2):
        model, _ = load_model(trained.run / f"fold_{fold}")
        with torch.inference_mode():
            output = model(tiles, torch.ones(1, 6, dtype=torch.bool))
        by_fold.append(torch.softmax(output.logits_BK.double(), 1)[0].numpy())
        attention.append(output.attention_BN[0].numpy())
    np.testing.assert_allclose(prediction.probabilities, np.mean(by_fold, axis=0), rtol=1e-6)
    np.testing.assert_allclose(prediction.members_EK, by_fold, rtol=1e-6)
    np.testing.assert_allclose(prediction.attention, np.mean(attention, axis=0), rtol=1e-5)


def test_out_of_fold_row_is_the_prediction_of_its_fold(trained: Trained) -> None:
    oof = pd.read_csv(trained.run / "oof.csv").set_index("slide_id")
    run = load_run(trained.run, torch.device("cpu"))
    for slide_id, row in oof.iterrows():
        fold = int(row["fold"])
        alone = run._replace(models=run.models[fold : fold + 1], cards=run.cards[fold : fold + 1])
        chances = predict_bag(alone, read_bag(trained.bags / f"{slide_id}.h5")).probabilities
        assert chances[1] == pytest.approx(row["prob_tumour"], rel=1e-4)


class TestRefused:
    def test_missing_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no such run: .*nowhere"):
            load_run(tmp_path / "nowhere", torch.device("cpu"))

    def test_unfinished_run(self, tmp_path: Path) -> None:
        (tmp_path / "fold_0").mkdir()
        with pytest.raises(RunError, match=r"is not finished \(it has no metrics.json\)"):
            load_run(tmp_path, torch.device("cpu"))

    def test_run_that_lost_a_fold(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.json").write_text(json.dumps({"folds": [{"fold": 0}]}))
        with pytest.raises(RunError, match=r"no such file: .*fold_0/model\.json"):
            load_run(tmp_path, torch.device("cpu"))

    @pytest.mark.parametrize(
        "content",
        ["null", "[1]", '{"folds": null}', '{"folds": [1]}', '{"folds": []}', "x", '{"folds": [{"fold": Infinity}]}',
         '{"folds": [{"fold": -1}]}', '{"folds": [{"fold": "0"}]}', "[" * 100_000],
    )  # fmt: skip
    def test_damaged_metrics(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(RunError, match=r"is not finished|has no folds"):
            load_run(tmp_path, torch.device("cpu"))

    def test_one_fold_many_times(self, trained: Trained, tmp_path: Path) -> None:
        shutil.copytree(trained.run, tmp_path / "run")
        (tmp_path / "run" / "metrics.json").write_text(json.dumps({"folds": [{"fold": 0}] * 100_000}))
        with pytest.raises(RunError, match="has one fold twice in its metrics.json"):
            load_run(tmp_path / "run", torch.device("cpu"))

    def test_folds_of_different_classes(self, trained: Trained, tmp_path: Path) -> None:
        run = Path(shutil.copytree(trained.run, tmp_path / "run"))
        card = run / "fold_1" / "model.json"
        card.write_text(card.read_text().replace("tumour", "lesion"))
        with pytest.raises(
            RunError, match="the folds 0 and 1 of the run .* differ in model, classes, bags or metadata"
        ):
            load_run(run, torch.device("cpu"))

    def test_device_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SettingsError, match="--device cuda was asked for, but PyTorch finds no GPU"):
            pick_device("cuda")
        assert pick_device("auto") == torch.device("cpu")
