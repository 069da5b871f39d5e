import math

import pytest
import torch

from mil.overlay import draw_hairs, drop_pixels, drop_rectangles

WHITE = 255.0
STRAIGHT = {"x": 0.5, "y": 0.505, "length": 0.5, "width": 0.08, "angle": 0.0, "bow": 0.0, "twist": 0.0, "dark": 1.0}


def hashed(number: int) -> int:
    """The finaliser of MurmurHash3, as its author wrote it, for unsigned numbers of 32 bits."""
    number = (number ^ number >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    number = (number ^ number >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return number ^ number >> 16


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_pixels_go_by_their_hash(share: float) -> None:
    seeds = [0, 1234567, -987654321]
    tiles = torch.full((3, 3, 5, 7), 9, dtype=torch.uint8)
    out = drop_pixels(tiles, torch.tensor(seeds, dtype=torch.int32), share)
    for seed, tile in zip(seeds, out, strict=True):
        signed = [hashed((seed + pixel) % 2**32) for pixel in range(35)]
        signed = [each - 2**32 if each >= 2**31 else each for each in signed]
        gone = torch.tensor([each < round(share * 2**32) - 2**31 for each in signed]).view(5, 7)
        assert (tile == 0).equal(gone.expand(3, 5, 7))
        assert (tile[:, ~gone] == 9).all()


def test_share_of_pixels() -> None:
    tiles = torch.full((4, 1, 256, 256), 1.0)
    out = drop_pixels(tiles, torch.arange(4, dtype=torch.int32) * 100_000, 0.1)
    share = (out == 0).float().mean(dim=(1, 2, 3))
    assert share.tolist() == pytest.approx([0.1] * 4, abs=4 * math.sqrt(0.1 * 0.9 / 65536))
    assert not out[0].equal(out[1])


def test_no_pixels() -> None:
    tiles = torch.ones(1, 3, 8, 8)
    assert drop_pixels(tiles, torch.zeros(1, dtype=torch.int32), 0.0).equal(tiles)


def test_rectangles() -> None:
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.5], [0.0, -1.0, 0.25, 0.25]], [[0.5, 0.5, 0.5, 0.5]] * 2])
    out = drop_rectangles(torch.ones(2, 3, 4, 4, dtype=torch.uint8), boxes)
    assert out[0, 1].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert out[1].all()


def hair(px: int = 100, **changes: float) -> torch.Tensor:
    """How much of each pixel of a white tile a black hair hides."""
    values = torch.tensor(list((STRAIGHT | changes).values())).view(1, 1, 8)
    return (WHITE - draw_hairs(torch.full((1, 3, px, px), WHITE), values, torch.zeros(1, 3)))[0, 0] / WHITE


def test_a_straight_hair() -> None:
    seen = hair()
    assert seen[50, 26:74].min() == 1  # half the tile, about its middle
    assert max(seen[:, :25].max(), seen[:, 75:].max()) < 1e-3
    assert seen[:45].max() == seen[56:].max() == 0
    # 8 pixels wide at its root, 2 at its tip, and 5 in between.
    assert seen[:, [25, 49, 74]].sum(0).tolist() == pytest.approx([8, 5, 2], abs=0.3)


def test_hairs_are_alike_at_every_size() -> None:
    smaller, larger = hair(64, bow=0.3, angle=1.0), hair(128, bow=0.3, angle=1.0)
    pooled = torch.nn.functional.avg_pool2d(larger[None, None], 2)[0, 0]
    assert (smaller - pooled).abs().max() < 0.3
    assert float(smaller.sum()) == pytest.approx(float(pooled.sum()), rel=0.05)


def test_direction_and_bow() -> None:
    torch.testing.assert_close(hair(y=0.5, angle=math.pi), hair(y=0.5).flip(1))  # root and tip change places
    down = hair(y=0.5, angle=math.pi / 2)
    torch.testing.assert_close(down, hair(y=0.5).T, atol=1e-3, rtol=0)
    # Half of half its length out of the chord: an eighth of the tile.
    bent = hair(bow=0.5)
    assert bent[50, 50] == 0
    assert bent[62:63, 50].item() == 1
    # Twisted, it crosses the chord in its middle, and goes one way before and the other behind.
    twisted = hair(twist=0.5)
    assert twisted[50, 50] == 1
    assert float(twisted[:50, 35].sum()) > 3 > 1 > float(twisted[51:, 35].sum())
    assert float(twisted[51:, 65].sum()) > 2 > 1 > float(twisted[:50, 65].sum())


def test_colour_and_darkness() -> None:
    values = torch.tensor(list((STRAIGHT | {"dark": 0.5}).values())).expand(2, 1, 8).clone()
    values[1, 0, 7] = 0
    out = draw_hairs(torch.full((2, 3, 100, 100), 200.0), values, torch.tensor([[100.0, 50, 0]] * 2))
    assert out[0, :, 50, 50].tolist() == [150, 125, 100]
    assert (out[1] == 200).all()


def test_hairs_that_cross_hide_no_more_than_one() -> None:
    values = torch.tensor([list(STRAIGHT.values()), list((STRAIGHT | {"angle": 1.5, "dark": 0.5}).values())])[None]
    out = draw_hairs(torch.full((1, 3, 100, 100), WHITE), values, torch.zeros(1, 3))
    assert out.min() == 0
    assert out[0, 0, 50, 50] == 0
