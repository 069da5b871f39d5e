import numpy as np
import pytest
import torch

from mil import luminosity as module
from mil.backbone import Backbone
from mil.errors import ModelError
from mil.luminosity import standard_luminosity
from mil.model import build_model
from mil.settings import ModelSpec
from mil.task import Task


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (…, 3) of sRGB (…, 3) from 0 to 255, as the standards have it (IEC 61966-2-1, CIE 15, D65)."""
    rgb = rgb.astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    ratio = linear @ matrix.T / [0.950456, 1, 1.088754]
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), (841 / 108) * ratio + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def tile(*rows: tuple[tuple[int, int, int], int]) -> torch.Tensor:
    """A tile of one row with so many pixels of each colour."""
    pixels = [colour for colour, count in rows for _ in range(count)]
    return torch.tensor(pixels, dtype=torch.uint8).T.view(1, 3, 1, -1)


def pixels_of(tiles: torch.Tensor) -> np.ndarray:
    return tiles[0].flatten(1).T.numpy()


@pytest.mark.parametrize("grey", [40, 128, 200, 255])
def test_grey_becomes_white(grey: int) -> None:
    out = standard_luminosity(torch.full((2, 3, 4, 4), grey, dtype=torch.uint8))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full((2, 3, 4, 4), 255.0), atol=0.02, rtol=0)


def test_white_stays_and_so_does_all_beside_it() -> None:
    given = tile(((255, 255, 255), 10), ((180, 90, 160), 50), ((3, 0, 9), 40))
    torch.testing.assert_close(standard_luminosity(given), given.float(), atol=0.02, rtol=0)


def test_black_stays_black() -> None:
    assert standard_luminosity(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).max() < 1e-3


def test_lightness_is_scaled_and_colour_stays() -> None:
    # The 95th percentile of these hundred pixels is the grey of 200.
    given = tile(((130, 70, 110), 60), ((20, 10, 30), 20), ((200, 200, 200), 17), ((220, 220, 220), 3))
    before, after = lab(pixels_of(given)), lab(pixels_of(standard_luminosity(given)))
    factor = 100 / lab(np.array([200, 200, 200]))[0]
    assert factor == pytest.approx(1.2406, abs=1e-4)
    np.testing.assert_allclose(after[:80, 0], factor * before[:80, 0], atol=0.01)
    np.testing.assert_allclose(after[:80, 1:], before[:80, 1:], atol=0.02)
    np.testing.assert_allclose(after[80:], [[100, 0, 0]] * 20, atol=0.02)


@pytest.mark.parametrize(("bright", "white"), [(4, 100), (5, 100), (6, 220)])
def test_a_twentieth_may_be_brighter(bright: int, white: int) -> None:
    given = tile(((100, 100, 100), 100 - bright), ((220, 220, 220), bright))
    factor = 100 / lab(np.array([white] * 3))[0]
    after = lab(pixels_of(standard_luminosity(given)))
    assert after[0, 0] == pytest.approx(min(100, factor * lab(np.array([100] * 3))[0]), abs=0.01)


def test_each_tile_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tiles[::2] //= 2
    together = standard_luminosity(tiles)
    alone = torch.cat([standard_luminosity(tile) for tile in tiles.split(1)])
    torch.testing.assert_close(together, alone)
    monkeypatch.setattr(module, "_PIXELS_AT_A_TIME", {"cpu": 4 * 16 * 16 + 1})
    torch.testing.assert_close(standard_luminosity(tiles), alone)


def test_half_precision_is_not_used() -> None:
    tiles = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = standard_luminosity(tiles)
    assert half.equal(standard_luminosity(tiles))


@pytest.mark.parametrize("channels", ["rgb", "g"])
def test_the_backbone_is_given_what_is_standard(channels: str) -> None:
    tiles = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)) // 2
    backbone = Backbone("test_resnet", 32, channels, luminosity=True)
    plain = Backbone("test_resnet", 32, channels)
    assert backbone.scaled(tiles).equal(plain.scaled(standard_luminosity(tiles)))
    assert not backbone.scaled(tiles).equal(plain.scaled(tiles))


@pytest.mark.parametrize("guided", [None, "softmax"])
def test_a_model_scores_a_bright_tile_as_a_dim_one(guided: str | None) -> None:
    settings = {"backbone": "test_resnet", "train_px": 64, "guided": guided}
    grey = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (60, 230)])
    alone = torch.ones(2, 1, dtype=torch.bool)
    with torch.inference_mode():
        for luminosity in (True, False):
            torch.manual_seed(0)
            spec = ModelSpec(**settings, luminosity=luminosity)
            model = build_model(spec, Task(("a", "b")), {"instances": 1}).eval()
            dim, bright = model(grey, alone).logits_BK
            assert torch.allclose(dim, bright, atol=1e-4) == luminosity


def test_features_have_no_luminosity() -> None:
    spec = ModelSpec(luminosity=True)
    with pytest.raises(ModelError, match="--luminosity is for bags of tiles, and these hold features; leave it out"):
        build_model(spec, Task(("a", "b")), {"features": 6})
