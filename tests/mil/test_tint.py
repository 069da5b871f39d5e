import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from mil.tint import adjust, restain, stain_change, turn_hue

# As given by Ruifrok and Johnston (2001), table 1.
HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)


def colours(count: int = 4, low: float = 0, high: float = 255) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 2, 2)


def stained(haematoxylin: float, eosin: float, dab: float) -> torch.Tensor:
    """The colour of stains of these optical densities."""
    density = [haematoxylin * h + eosin * e + dab * d for h, e, d in zip(HAEMATOXYLIN, EOSIN, DAB, strict=True)]
    return plain(*(256 * 10**-each - 1 for each in density))


def ones(count: int) -> torch.Tensor:
    return torch.ones(count)


def test_brightness_multiplies() -> None:
    tiles = torch.cat((plain(100, 50, 200), plain(100, 50, 200)))
    out = adjust(tiles, torch.tensor([0.5, 1.1]), ones(2), ones(2))
    torch.testing.assert_close(out, torch.cat((plain(50, 25, 100), plain(110, 55, 220))))


def test_contrast_is_about_the_mean_grey() -> None:
    tile = torch.full((1, 3, 1, 2), 100.0)
    tile[..., 1] = 200
    out = adjust(tile, ones(1), torch.tensor([0.5]), ones(1))
    assert out[0, 0, 0].tolist() == pytest.approx([125, 175], abs=0.05)  # torchvision's weights of grey sum to 0.9999


def test_saturation_is_about_the_pixels_grey() -> None:
    grey = 0.2989 * 100 + 0.587 * 50 + 0.114 * 200
    out = adjust(plain(100, 50, 200), ones(1), ones(1), torch.tensor([0.0]))
    torch.testing.assert_close(out, plain(grey, grey, grey))


def test_adjust_as_torchvision() -> None:
    tiles = colours(4, 80, 120)  # far from black and white, where torchvision cuts off in between
    brightness, contrast, saturation = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.7
    out = adjust(tiles, brightness, contrast, saturation)
    for tile, b, c, s, mine in zip(tiles / 255, brightness, contrast, saturation, out, strict=True):
        theirs = torchvision.adjust_saturation(
            torchvision.adjust_contrast(torchvision.adjust_brightness(tile, float(b)), float(c)), float(s)
        )
        torch.testing.assert_close(mine / 255, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("turn", "expected"), [(0, (200, 50, 50)), (1 / 3, (50, 200, 50)), (-1 / 3, (50, 50, 200)), (0.5, (50, 200, 200))]
)
def test_hue_of_red(turn: float, expected: tuple[int, ...]) -> None:
    torch.testing.assert_close(turn_hue(plain(200, 50, 50), torch.tensor([turn])), plain(*expected))


def test_grey_has_no_hue() -> None:
    for value in (0.0, 77.0, 255.0):
        assert turn_hue(plain(value, value, value), torch.tensor([0.3])).equal(plain(value, value, value))


def test_hue_as_torchvision() -> None:
    tiles, turns = colours(), torch.tensor([-0.5, -0.1, 0.04, 0.33])
    for tile, turn, mine in zip(tiles / 255, turns, turn_hue(tiles, turns), strict=True):
        torch.testing.assert_close(mine / 255, torchvision.adjust_hue(tile, float(turn)), atol=1e-5, rtol=0)


def test_stains_unchanged() -> None:
    every = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    tiles = torch.cat((every, every.flip(2)))
    same = restain(tiles, *stain_change(torch.ones(2, 3), torch.zeros(2, 3)))
    assert same.round().equal(tiles)


@pytest.mark.parametrize("factors", [(1.3, 1, 1), (1, 0.5, 1), (0.8, 1.1, 2.0)])
def test_amounts_are_multiplied(factors: tuple[float, ...]) -> None:
    amounts = (0.3, 0.2, 0.1)
    out = restain(stained(*amounts), *stain_change(torch.tensor([factors]), torch.zeros(1, 3)))
    torch.testing.assert_close(out, stained(*(a * f for a, f in zip(amounts, factors, strict=True))), atol=1e-3, rtol=0)


def test_amounts_are_shifted_by_optical_density() -> None:
    out = restain(stained(0.3, 0.2, 0), *stain_change(torch.ones(1, 3), torch.tensor([[0.05, -0.1, 0.02]])))
    torch.testing.assert_close(out, stained(0.35, 0.1, 0.02), atol=1e-3, rtol=0)


def test_glass_has_no_stain_to_multiply() -> None:
    out = restain(plain(255, 255, 255), *stain_change(torch.tensor([[1.2, 0.8, 1.1]]), torch.zeros(1, 3)))
    torch.testing.assert_close(out, plain(255, 255, 255))


def test_each_tile_is_stained_by_its_own_values() -> None:
    both = torch.cat((stained(0.3, 0.2, 0), stained(0.3, 0.2, 0)))
    out = restain(both, *stain_change(torch.tensor([[1.0, 1, 1], [2, 1, 1]]), torch.zeros(2, 3)))
    torch.testing.assert_close(out, torch.cat((stained(0.3, 0.2, 0), stained(0.6, 0.2, 0))), atol=1e-3, rtol=0)
