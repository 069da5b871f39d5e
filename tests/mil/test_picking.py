"""A ChipNet asked where to look: only by models that have not seen the slide, to the same bytes whoever asks."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mil.checkpoint import load_model
from mil.chips import Chips
from mil.data import square_tensor
from mil.errors import RunError
from mil.picking import Picker, load_picker
from mil.predict import load_run, map_of, predict_bag
from mil.run_folder import read_text
from tests.conftest import Trained
from tiling.bag import read_bag


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    load_picker.cache_clear()
    yield
    load_picker.cache_clear()


def overview(trained: Trained, slide_id: str) -> np.ndarray:
    return read_bag(trained.bags / f"{slide_id}.h5").overview_rgb()


def maps_of_folds(trained: Trained, rgb: np.ndarray) -> list[np.ndarray]:
    maps = []
    for fold in (0, 1):
        model, _ = load_model(trained.run / f"fold_{fold}")
        with torch.inference_mode():
            output = model(square_tensor(rgb, 64), torch.ones(1, 1, dtype=torch.bool))
        maps.append(output.map_BGG[0].double().numpy())
    return maps


def fold_of(trained: Trained, slide_id: str) -> int:
    rows = [line.split(",") for line in (trained.run / "folds.csv").read_text().splitlines()]
    (row,) = (row for row in rows if row[0] == slide_id)
    return int(row[rows[0].index("fold")])


def test_a_slide_of_the_training_is_asked_of_the_fold_that_held_it_out(trained_chipnet: Trained) -> None:
    pick = load_picker(trained_chipnet.run)
    folds = set()
    for slide_id in ("s00", "s01", "s02", "s03"):
        rgb, fold = overview(trained_chipnet, slide_id), fold_of(trained_chipnet, slide_id)
        own, other = maps_of_folds(trained_chipnet, rgb)[:: 1 if fold == 0 else -1]
        found = pick(rgb, slide_id)
        assert found.folds == str(fold)
        assert found.map_GG.dtype == np.float64
        assert found.map_GG.sum() == pytest.approx(1, abs=1e-15)
        np.testing.assert_allclose(found.map_GG, own, rtol=1e-5)
        assert np.abs(found.map_GG - other).max() > 1e-3
        folds.add(fold)
    assert folds == {0, 1}


def test_a_patient_of_the_training_is_held_out_with_its_new_slides(trained_chipnet: Trained) -> None:
    pick = load_picker(trained_chipnet.run)
    rgb, fold = overview(trained_chipnet, "s00"), str(fold_of(trained_chipnet, "s00"))
    assert pick(rgb, "another", "p00").folds == fold
    assert (pick.fold_of("s00"), pick.fold_of("another", "p00"), pick.fold_of("another")) == (fold, fold, None)
    np.testing.assert_array_equal(pick(rgb, "another", "p00").map_GG, pick(rgb, "s00").map_GG)


def test_a_new_slide_is_asked_of_all(trained_chipnet: Trained) -> None:
    rgb = overview(trained_chipnet, "s00")
    found = load_picker(trained_chipnet.run)(rgb, "new", "new patient")
    assert found.folds == "all"
    np.testing.assert_allclose(found.map_GG, np.mean(maps_of_folds(trained_chipnet, rgb), axis=0), rtol=1e-5)


def test_scoring_gives_the_same_map(trained_chipnet: Trained) -> None:
    run = load_run(trained_chipnet.run, torch.device("cpu"))
    prediction = predict_bag(run, read_bag(trained_chipnet.bags / "s00.h5", 0))
    assert prediction.attention is None
    assert prediction.map_GG is not None
    found = load_picker(trained_chipnet.run)(overview(trained_chipnet, "s00"), "new")
    np.testing.assert_allclose(prediction.map_GG, found.map_GG, rtol=1e-5)


def test_a_backbone_that_all_folds_have_is_asked_once(
    trained_chipnet: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(trained_chipnet.run, torch.device("cpu"))
    weights = run.models[0].encoder.backbone.state_dict()
    for model in run.models:
        model.encoder.backbone.load_state_dict(weights)
    table = read_text(trained_chipnet.run / "folds.csv", "slide_id", "patient_id", "fold")
    rgb = overview(trained_chipnet, table["slide_id"][0])
    square = square_tensor(rgb, run.px)
    expected = np.mean([map_of(model, square) for model in run.models], axis=0)
    seen: list[int] = []
    monkeypatch.setattr("mil.chips.Chips._embed", _counting(seen))
    found = Picker(run, table, "")(rgb, "new")
    assert len(seen) == 1
    np.testing.assert_allclose(found.map_GG, expected / expected.sum(), rtol=1e-5)


def _counting(seen: list[int]) -> Any:
    embed = Chips._embed

    def counting(self: Chips, chips_LCHW: torch.Tensor) -> torch.Tensor:
        seen.append(len(chips_LCHW))
        return embed(self, chips_LCHW)

    return counting


def test_threads_are_as_they_were(trained_chipnet: Trained) -> None:
    pick, rgb, before = load_picker(trained_chipnet.run), overview(trained_chipnet, "s00"), torch.get_num_threads()
    first = pick(rgb, "s00").map_GG
    torch.set_num_threads(2)
    try:
        assert pick(rgb, "s00").map_GG.tobytes() == first.tobytes()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_is_named_by_its_weights(trained_chipnet: Trained, tmp_path: Path) -> None:
    first = load_picker(trained_chipnet.run)
    assert load_picker(trained_chipnet.run) is first
    assert re.fullmatch("[0-9a-f]{16}", first.run_id)
    copy = shutil.copytree(trained_chipnet.run, tmp_path / "run")
    assert load_picker(copy).run_id == first.run_id
    shutil.copy(copy / "fold_0" / "model.safetensors", copy / "fold_1" / "model.safetensors")
    load_picker.cache_clear()
    assert load_picker(copy).run_id != first.run_id


class TestRefused:
    def test_another_network(self, trained: Trained) -> None:
        with pytest.raises(RunError, match=r"is none of ChipNet but of milnet; give one that `train.py"):
            load_picker(trained.run)

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no such run"):
            load_picker(tmp_path / "nowhere")

    def test_a_table_of_other_folds(self, trained_chipnet: Trained, tmp_path: Path) -> None:
        copy = shutil.copytree(trained_chipnet.run, tmp_path / "run")
        text = (copy / "folds.csv").read_text()
        (copy / "folds.csv").write_text(text + "s99,p99,normal,7\n")
        with pytest.raises(RunError, match=r"has 2 models and its folds.csv 3 folds; train again"):
            load_picker(copy)
