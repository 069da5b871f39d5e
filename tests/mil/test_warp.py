import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from mil.warp import blur, rotate, symmetry


def noise(count: int = 2, px: int = 32) -> torch.Tensor:
    return 255 * torch.rand(count, 3, px, px, generator=torch.Generator().manual_seed(0))


def test_the_eight_symmetries() -> None:
    tile = torch.arange(3 * 9, dtype=torch.uint8).view(3, 3, 3)
    asked = torch.tensor(list(itertools.product([False, True], repeat=3)))
    out = symmetry(tile.expand(8, 3, 3, 3), *asked.unbind(1))
    turns = [torch.rot90(tile, turn, (1, 2)) for turn in range(4)]
    expected = {tuple(each.flatten().tolist()) for each in [*turns, *(each.flip(2) for each in turns)]}
    assert len(expected) == 8
    assert {tuple(each.flatten().tolist()) for each in out} == expected
    assert out.dtype == torch.uint8


def test_each_flag_of_a_symmetry() -> None:
    tile = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(1, 3, 2, 2)
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert symmetry(tile, no, no, no)[0, 0].tolist() == [[1, 2], [3, 4]]
    assert symmetry(tile, yes, no, no)[0, 0].tolist() == [[1, 3], [2, 4]]
    assert symmetry(tile, no, yes, no)[0, 0].tolist() == [[2, 1], [4, 3]]
    assert symmetry(tile, no, no, yes)[0, 0].tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_symmetries_of_many_tiles_keep_their_order(kind: torch.dtype) -> None:
    """As tile by tile, from the flags one after the other."""
    tiles = noise(37, 6).to(kind)
    asked = torch.rand(3, 37, generator=torch.Generator().manual_seed(1)) < 0.5
    given = tiles.clone()
    out = symmetry(tiles, *asked)
    assert torch.equal(tiles, given)
    assert (out.dtype, out.is_contiguous()) == (kind, True)
    for tile, (transposed, mirrored, upended), moved in zip(tiles, asked.T.tolist(), out, strict=True):
        tile = tile.mT if transposed else tile
        tile = torchvision.horizontal_flip(tile) if mirrored else tile
        assert torch.equal(moved, torchvision.vertical_flip(tile) if upended else tile)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_rotation_by_right_angles_is_exact_and_counter_clockwise(turns: int) -> None:
    tiles = noise()
    out = rotate(tiles, torch.full((2,), 90.0 * turns))
    torch.testing.assert_close(out, torch.rot90(tiles, turns, (2, 3)), atol=0.05, rtol=0)


def test_rotation_as_torchvision_where_there_is_a_picture() -> None:
    tiles, degrees = blur(noise(px=64), torch.tensor([2.0, 2.0]), 2.0), torch.tensor([17.0, -33.0])
    across = torch.arange(64) - 31.5
    inside = (across.square() + across[:, None].square()) < 30**2
    for tile, angle, mine in zip(tiles, degrees, rotate(tiles, degrees), strict=True):
        theirs = torchvision.rotate(tile, float(angle), torchvision.InterpolationMode.BILINEAR)
        torch.testing.assert_close(mine[:, inside], theirs[:, inside], atol=0.05, rtol=0)


def test_corners_show_a_reflection() -> None:
    tiles = torch.full((1, 3, 16, 16), 200.0)
    assert rotate(tiles, torch.tensor([45.0])).round().equal(tiles)
    tiles[:, :, 7:9, 7:9] = 0
    assert rotate(tiles, torch.tensor([45.0]))[0, :, [0, 0, 15, 15], [0, 15, 0, 15]].min() > 199


def test_blur_as_torchvision() -> None:
    tiles, sigmas = noise(3), torch.tensor([0.5, 1.3, 2.0])
    out = blur(tiles, sigmas, 2.0)
    for tile, sigma, mine in zip(tiles, sigmas, out, strict=True):
        torch.testing.assert_close(mine, torchvision.gaussian_blur(tile, [13, 13], [float(sigma)]), atol=1e-3, rtol=0)


def test_blur_keeps_what_is_plain() -> None:
    tiles = torch.full((2, 3, 9, 9), 123.0)
    torch.testing.assert_close(blur(tiles, torch.tensor([0.1, 2.0]), 2.0), tiles)


def test_blur_of_a_tile_smaller_than_its_kernel() -> None:
    tiles = torch.full((1, 3, 4, 4), 123.0)
    torch.testing.assert_close(blur(tiles, torch.tensor([2.0]), 2.0), tiles)
