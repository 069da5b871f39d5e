"""What is drawn of a run: a picture and a GeoJSON a slide, with the maps that its network gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mil import explain as module
from mil.checkpoint import ModelCard
from mil.explain import explain, facts
from mil.metadata import MetadataCoder
from mil.model import build_model
from mil.picture import Content
from mil.predict import Prediction, Run, predict_bag
from mil.settings import ModelSpec
from mil.task import Task
from tests.mil.drawn import a_bag
from tiling.bag import Bag

TASK = Task(("normal", "tumour"))


def a_run(folds: int = 1, **spec: object) -> Run:
    models, card = (
        [],
        ModelCard(
            ModelSpec(backbone="test_resnet", train_px=64, **spec), TASK, {"instances": 9}, MetadataCoder({}, {}), 0, 0
        ),
    )
    for seed in range(folds):
        torch.manual_seed(seed)
        models.append(build_model(card.model, TASK, card.bag_spec).eval())
    return Run(tuple(models), (card,) * folds, torch.device("cpu"))


def noise_bag(tiles: int) -> Bag:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(tiles)]
    return a_bag([(40 * index, 0) for index in range(tiles)], slide_id="cost $_^$ 肾", tiles=pictures)


def content(run: Run, bag: Bag, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: bool) -> tuple[Content, str]:
    """What is handed on to be drawn, and the line that says what is predicted."""
    seen = {}
    monkeypatch.setattr(module, "draw_slide", lambda path, bag, content, lines: seen.update(of=(content, lines)))
    explain(folder, bag.header.slide_id, run, bag, predict_bag(run, bag), None, *flags)
    return seen["of"][0], seen["of"][1][1]


def test_a_picture_and_a_geojson_a_slide(tmp_path: Path) -> None:
    run, bag = a_run(), noise_bag(2)
    map_GG = np.full((7, 7), 1 / 49)
    explain(tmp_path, bag.header.slide_id, run, bag, predict_bag(run, bag)._replace(map_GG=map_GG), None, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost $_^$ 肾.geojson", "cost $_^$ 肾.png"]
    found = json.loads((tmp_path / "cost $_^$ 肾.geojson").read_text())["features"]
    # The slide, 400 × 200 px, is in five of the seven rows of its square.
    assert [each["properties"]["objectType"] for each in found] == ["annotation", *["detection"] * 35, "tile", "tile"]


def test_grad_cam_is_for_the_most_probable_class_in_the_order_of_the_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, bag = a_run(), noise_bag(3)
    monkeypatch.setattr(module, "grad_cam", lambda run, bag, index, metadata: np.array([2.0, 0.5, 1.0])[:, None, None])
    monkeypatch.setattr(module, "draw_slide", lambda path, bag, content, lines: drawn.append((content, lines)))
    drawn: list[tuple[Content, tuple[str, str, str]]] = []
    explain(
        tmp_path, bag.header.slide_id, run, bag, Prediction(np.array([0.2, 0.8]), np.array([0.1, 0.3, 0.6])), None, True
    )
    ((shown, lines),) = drawn
    (overlay,) = shown.overlays
    assert overlay.heat_THW.ravel().tolist() == [0.5, 0.25, 1.0]
    assert (overlay.what, overlay.top) == ("evidence for tumour", 1.0)
    assert lines[:2] == ("cost $_^$ 肾", "class tumour with probability 0.800")


def test_no_evidence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "grad_cam", lambda *given: np.zeros((2, 3, 3)))
    shown, _ = content(a_run(), noise_bag(2), tmp_path, monkeypatch, True)
    assert shown.overlays[0].unit == "there is none on this slide"
    assert shown.overlays[0].heat_THW.tolist() == np.zeros((2, 3, 3)).tolist()


@pytest.mark.parametrize("normalise", ["softmax", "sigmoid"])
def test_guided_maps_are_the_mean_of_the_folds_on_the_tiles_that_count_most(
    normalise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, bag = a_run(2, guided=normalise), noise_bag(7)
    shown, _ = content(run, bag, tmp_path, monkeypatch)
    order = np.argsort(-shown.attention, kind="stable")[:5]
    tiles = torch.from_numpy(np.stack([bag.tile(int(index)) for index in order])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        folds = [model.encoder.backbone.attend(tiles)[1] for model in run.models]
    assert [overlay.name for overlay in shown.overlays] == ["guided 1", "guided 2"]
    for place, overlay in enumerate(shown.overlays):
        mean = np.mean([maps[place].numpy() for maps in folds], axis=0)
        factor = mean[0].size if normalise == "softmax" else 1
        np.testing.assert_allclose(overlay.heat_THW, mean * factor, rtol=1e-4)
        assert overlay.even == (1.0 if normalise == "softmax" else None)
        if normalise == "softmax":
            np.testing.assert_allclose(overlay.heat_THW.mean(axis=(1, 2)), 1, rtol=1e-5)


def test_other_backbones_have_no_guided_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, line = content(a_run(pooling="max"), noise_bag(2), tmp_path, monkeypatch)
    assert (shown.overlays, shown.attention, shown.map_GG) == ((), None, None)
    assert line.startswith("class ")


def test_facts() -> None:
    assert facts(a_bag([(0, 0)])) == "1 tile of 50 px (100 µm) · slide 400 × 200 px (0.8 × 0.4 mm) at 2 µm/px"
    assert facts(a_bag([(0, 0)] * 2, mpp=None)) == "2 tiles of 50 px · slide 400 × 200 px, of unknown scale"
