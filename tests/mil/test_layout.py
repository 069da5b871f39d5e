"""Features of any layout to maps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mil.layout import as_maps, is_channels_last


def net(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(**attributes)


def tokens(count: int) -> torch.Tensor:
    return torch.arange(count).view(1, count, 1).expand(1, count, 8).float()


def test_tokens_go_to_their_place() -> None:
    maps = as_maps(net(num_prefix_tokens=1), tokens(1 + 4), False)
    assert maps is not None
    assert maps.shape == (1, 8, 2, 2)
    assert maps[0, 0].tolist() == [[1, 2], [3, 4]]


def test_a_class_token_nobody_counted() -> None:
    maps = as_maps(net(cls_token=torch.zeros(1, 2, 8)), tokens(2 + 4), False)
    assert maps is not None
    assert maps[0, 0].tolist() == [[2, 3], [4, 5]]


def test_a_grid_that_is_no_square() -> None:
    maps = as_maps(net(patch_embed=net(grid_size=(2, 3))), tokens(6), False)
    assert maps is not None
    assert maps[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tokens_merged_since_the_patches() -> None:
    maps = as_maps(net(patch_embed=net(grid_size=(8, 8))), tokens(4), False)
    assert maps is not None
    assert maps[0, 7].tolist() == [[0, 1], [2, 3]]


def test_an_embedding_is_a_map_of_one_position() -> None:
    maps = as_maps(net(), torch.tensor([[1.0, 2.0]]), False)
    assert maps is not None
    assert maps.tolist() == [[[[1.0]], [[2.0]]]]


def test_channels_last() -> None:
    features = torch.arange(2 * 2 * 3).view(1, 2, 2, 3)
    maps = as_maps(net(), features, True)
    assert maps is not None
    assert maps[0, 1].tolist() == [[1, 4], [7, 10]]


@pytest.mark.parametrize("features", [[tokens(4)], tokens(5), torch.zeros(1, 2, 3, 4, 5), None])
def test_no_map(features: object) -> None:
    assert as_maps(net(), features, False) is None


@pytest.mark.parametrize(
    ("shape", "said", "last"),
    [
        ((1, 4, 4, 9), "NHWC", True),
        ((1, 4, 4, 9), "NCHW", True),  # the shape knows better
        ((1, 9, 4, 4), "NHWC", False),
        ((1, 4, 4, 4), "NHWC", True),
        ((1, 4, 4, 4), "NCHW", False),
        ((1, 9, 2, 4), "NCHW", False),
        ((1, 2, 4, 9), "NHWC", True),
        ((1, 16, 9), "NHWC", False),
    ],
)
def test_where_the_channels_are(shape: tuple[int, ...], said: str, last: bool) -> None:
    assert is_channels_last(net(output_fmt=said), torch.zeros(shape)) is last
