"""A frozen backbone is gone through once, and that changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mil.cohort import Cohort, gather
from mil.data import Batch
from mil.encoded import Encodings, encode_once
from mil.labels import read_labels
from mil.loop import train_fold
from mil.model import build_model
from mil.recipe import Recipe
from mil.run import reader_of
from mil.task import Task
from tests.conftest import CohortFiles
from tests.mil.test_run import ONE, RECIPE, fold_of, split

TILES = {"instances": 3}


@pytest.fixture(scope="module")
def cohort_of_bags(cohort: CohortFiles, bags: Path) -> Cohort:
    return gather(read_labels(cohort.labels), bags, skip_missing=False)


@pytest.mark.parametrize(
    "settings",
    [{}, {"embed": (4,)}, {"pooling": "logsumexp"}, {"instance_chunk": 5}, {"precision": "bf16", "embed": (4,)}],
)
def test_nothing_changes_but_the_time(
    cohort_of_bags: Cohort, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.but(freeze="all", augment=False, lr=1e-2, **settings)
    once = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    monkeypatch.setattr("mil.training.MOST_BYTES", 0)
    always = fold_of(cohort_of_bags, split(cohort_of_bags, 0), recipe)
    np.testing.assert_allclose(once.probabilities, always.probabilities, rtol=1e-3 if "precision" in settings else 1e-5)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"freeze": "all", "augment": False}, 1),
        ({"freeze": "all", "flip": False, "quarter_turns": False, "drop_instances": 0.5}, 1),
        ({"freeze": "all"}, 3),
        ({"freeze": 4, "augment": False, "channels": "g"}, 1),
        ({"freeze": 1, "augment": False}, 3),
        ({"augment": False}, 3),
    ],
)
def test_tiles_go_through_once_where_they_stay_the_same(
    cohort_of_bags: Cohort, settings: dict[str, object], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs and the test; validation sees slides of its own, so that a slide goes through once or two times."""
    seen: list[int] = []
    monkeypatch.setattr("mil.backbone.Backbone.forward", _counting(seen))
    recipe: Recipe = RECIPE.but(epochs=3, **settings)
    part = split(cohort_of_bags, 0)
    fold_of(cohort_of_bags, part, recipe)
    slides = len(part.train) * passes + len(part.valid) * passes + len(part.test)
    assert sum(seen) == 6 * slides


CHIPNET = Recipe.of(
    arch="chipnet", backbone="test_resnet", overview_px=64, freeze="all", epochs=3, lr=1e-2, patience=9, batch_size=3,
    device="cpu",
)  # fmt: skip


def test_maps_of_overviews_are_turned_in_place_of_pixels(
    cohort_of_bags: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept or not, which changes how often a square goes through: once for itself, or in each epoch and its check."""
    seen: list[int] = []
    monkeypatch.setattr("mil.backbone.Backbone.forward", _counting(seen))
    part = split(cohort_of_bags, 0)
    overviews = cohort_of_bags._replace(bag_spec={"overviews": True}, sizes=[1] * len(cohort_of_bags.bags))
    once = fold_of(overviews, part, CHIPNET)
    chips, slides = sum(seen), len(part.train) + len(part.valid) + len(part.test)
    assert chips == 4 * slides
    monkeypatch.setattr("mil.training.MOST_BYTES", 0)
    always = fold_of(overviews, part, CHIPNET)
    assert sum(seen) - chips > 2 * chips
    np.testing.assert_allclose(once.probabilities, always.probabilities, rtol=1e-5)
    still = fold_of(overviews, part, CHIPNET.but(augment=False))
    assert not np.allclose(once.probabilities, still.probabilities, rtol=1e-3)


@pytest.mark.parametrize("has_weights", [True, False])
def test_folds_share_what_the_same_weights_said(
    cohort_of_bags: Cohort, has_weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights are others in each fold."""
    file = tmp_path / "w.safetensors"
    save_file(build_model(RECIPE.model, Task(("a", "b")), TILES).encoder.backbone.net.state_dict(), file)
    recipe = RECIPE.but(freeze="all", augment=False, weights=str(file) if has_weights else None)
    parts = [split(cohort_of_bags, 0), split(cohort_of_bags, 1)]
    alone = [fold_of(cohort_of_bags, part, recipe).probabilities for part in parts]
    seen: list[int] = []
    monkeypatch.setattr("mil.backbone.Backbone.forward", _counting(seen))
    encodings, read = Encodings(), reader_of(cohort_of_bags, recipe, ONE)
    for part, expected in zip(parts, alone, strict=True):
        result = train_fold(cohort_of_bags, part, recipe, read, ONE, encodings=encodings)
        np.testing.assert_allclose(result.probabilities, expected, rtol=1e-5)
    assert sum(seen) == sum(cohort_of_bags.sizes) * (1 if has_weights else 2)


def _counting(seen: list[int]) -> object:
    from mil.backbone import Backbone

    forward = Backbone.forward

    def counting(self: Backbone, tiles: torch.Tensor) -> torch.Tensor:
        seen.append(len(tiles))
        return forward(self, tiles)

    return counting


def test_bags_come_back_as_maps() -> None:
    net = build_model(RECIPE.model, Task(("a", "b")), TILES)
    net.encoder.backbone.freeze(None)  # type: ignore[operator]
    torch.manual_seed(0)
    tiles = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    batch = Batch(tiles, mask, torch.zeros(2), torch.zeros(2, 0), torch.tensor([1, 0]))
    bags = [Path("a"), Path("b")]
    read = encode_once(net, [batch], bags, 5, 2**20, {})
    assert read is not None
    first, second = read(bags[0]), read(bags[1])
    assert (len(first), len(second)) == (3, 2)  # type: ignore[arg-type]
    maps = net.eval().through_frozen(tiles)
    assert torch.equal(torch.cat([second, first]), maps)  # type: ignore[list-item]
    expected = net(tiles, mask).logits_BK
    assert torch.equal(net(maps, mask).logits_BK, expected)
    assert encode_once(net, [batch], bags, 5, maps.nbytes - 1, {}) is None
