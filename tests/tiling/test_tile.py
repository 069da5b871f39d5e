"""From a slide to its bag: the right cells, the right pixels, the right frame."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import GLASS, NUCLEI, STROMA, paint
from tiling.errors import InputError, SlideError
from tiling.rank import make_grid
from tiling.resample import resize
from tiling.slide import open_slide, write_pyramid
from tiling.tile import TileSpec, read_map, tile_slide


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """640 x 384 px: stroma on four cells of 128 px, a nucleus-coloured square on one of them, a black border."""
    rgb = paint(640, 384, (128, 128, 256, STROMA), (256, 128, 128, NUCLEI))
    rgb[:, 600:] = 0
    write_pyramid(tmp_path / "a.tiff", rgb, mpp=0.5, quality=95)
    return tmp_path / "a.tiff"


def test_tiles_come_best_first_with_their_corners(slide: Path) -> None:
    bag = tile_slide(slide, TileSpec(size=128, downsample=1, codec="png", min_tissue=0.5))
    corners = list(zip(bag.x0.tolist(), bag.y0.tolist(), strict=True))
    assert corners[0] == (256, 128)
    assert sorted(corners[1:]) == [(128, 128), (128, 256), (256, 256)]
    np.testing.assert_allclose(bag.tissue, 1, atol=0.03)
    assert bag.score[0] > bag.score[1] * 1.5
    assert bag.header.side0_px == 128
    assert (bag.header.width_px, bag.header.height_px, bag.header.mpp) == (640, 384, pytest.approx(0.5, rel=1e-4))


def test_pixels_are_the_slides_own(slide: Path) -> None:
    bag = tile_slide(slide, TileSpec(size=128, downsample=1, codec="png"))
    pixels = open_slide(slide).levels[0].read(256, 128, 128, 128)
    np.testing.assert_array_equal(bag.tile(0), pixels)
    np.testing.assert_allclose(bag.tile(0).mean(axis=(0, 1)), NUCLEI, atol=4)


@pytest.mark.parametrize("codec", ["raw", "webp", "png", "jpeg"])
def test_small_copies_are_the_tiles_of_the_slide_reduced(slide: Path, codec: str) -> None:
    spec = TileSpec(size=128, downsample=1, codec=codec, quality=20, train_px=32)  # type: ignore[arg-type]
    bag = tile_slide(slide, spec)
    assert (bag.header.train_px, bag.header.spec["train_px"]) == (32, 32)
    opened = open_slide(slide)
    for index, (x, y) in enumerate(zip(bag.x0.tolist(), bag.y0.tolist(), strict=True)):
        wanted = resize(opened.read_region(x, y, 128, 128, (128, 128)), (32, 32))
        # From the slide's pixels, not from a tile that a quality of 20 has spoilt.
        worst = np.abs(bag.tile(index, 32).astype(int) - wanted).max()
        assert worst <= (6 if codec == "jpeg" else 0)
        assert bag.tile(index, 20).shape == (20, 20, 3)


def test_lossless_codecs_give_the_same_pixels(slide: Path) -> None:
    bags = [tile_slide(slide, TileSpec(size=128, downsample=1, codec=codec)) for codec in ("raw", "webp", "png")]  # type: ignore[arg-type]
    for index in range(len(bags[0])):
        for bag in bags[1:]:
            np.testing.assert_array_equal(bag.tile(index), bags[0].tile(index))
    assert bags[0].small is None


def test_instances_are_the_most_a_bag_holds(slide: Path) -> None:
    spec = TileSpec(size=128, downsample=1, instances=2, min_tissue=0.5)
    bag = tile_slide(slide, spec)
    assert len(bag) == 2
    assert (bag.x0[0], bag.y0[0]) == (256, 128)


@pytest.mark.parametrize(
    ("spec", "side0_px"),
    [
        (TileSpec(size=64, downsample=2), 128),
        (TileSpec(size=64, longest_edge=320), 128),
        (TileSpec(size=64, mpp=1.0), 128),
        (TileSpec(size=64, longest_edge=1280), 32),
    ],
)
def test_scales(slide: Path, spec: TileSpec, side0_px: int) -> None:
    bag = tile_slide(slide, spec)
    assert bag.header.side0_px == side0_px
    assert bag.tile(0).shape == (64, 64, 3)


def test_given_mpp_wins_over_the_files(slide: Path) -> None:
    assert tile_slide(slide, TileSpec(size=64, mpp=1.0), mpp=0.25).header.side0_px == 256


def test_overview_is_the_whole_slide_without_the_padding(slide: Path) -> None:
    bag = tile_slide(slide, TileSpec(size=128, downsample=1))
    overview, scale = bag.overview_rgb(), bag.header.overview_downsample
    assert overview.shape == (round(384 / scale), round(640 / scale), 3)
    at = [(np.array([500, 50]), GLASS), (np.array([320, 190]), NUCLEI), (np.array([620, 200]), (0, 0, 0))]
    for (x, y), colour in at:
        np.testing.assert_allclose(overview[int(y / scale), int(x / scale)], colour, atol=8)


def test_map_has_the_same_square_for_every_cell(slide: Path) -> None:
    opened = open_slide(slide)
    grid = make_grid(640, 384, 1, 128)
    picture = read_map(opened, grid)
    assert picture.shape == (grid.rows * 128, grid.columns * 128, 3)  # 1280 // 5 would enlarge


def test_no_tissue_no_tiles(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(512, 512))
    assert len(tile_slide(tmp_path / "a.tiff", TileSpec(size=128, downsample=1))) == 0


def test_scale_that_needs_an_unknown_mpp(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(512, 512))
    with pytest.raises(SlideError, match="does not say its µm per pixel; give it in the column mpp"):
        tile_slide(tmp_path / "a.tiff", TileSpec(size=128, mpp=1.0))


def test_picture_too_small_for_the_scale(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(300, 200))
    with pytest.raises(SlideError, match="would be enlarged 67 times"):
        tile_slide(tmp_path / "a.tiff", TileSpec())


class TestTileSpec:
    def test_default_is_the_published_scale(self) -> None:
        spec = TileSpec()
        assert (spec.instances, spec.size, spec.longest_edge, spec.mpp, spec.downsample) == (
            16,
            1024,
            20000,
            None,
            None,
        )
        assert TileSpec(mpp=0.5).longest_edge is None

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"mpp": 1.0, "downsample": 2.0}, "give one scale, not 2"),
            ({"instances": 0}, "--instances must be at least 1, not 0"),
            ({"size": -5}, "--size must be at least 8, not -5"),
            ({"mpp": 0.0}, "--mpp must be at least 0.01, not 0.0"),
            ({"downsample": float("nan")}, "--downsample must be a finite number, not nan"),
            ({"min_tissue": 1.5}, "--min-tissue must be from 0 to 1, not 1.5"),
            ({"quality": 101}, "--quality must be from 1 to 100, not 101"),
            ({"chroma": 411}, "--chroma is one of 420, 422, 444, not 411"),
            ({"codec": "jxl"}, "--codec is one of jpeg, webp, png, raw, not 'jxl'"),
            ({"train_px": 0}, "--train-px must be at least 1, not 0"),
            ({"train_px": 1024}, "--train-px must be less than --size, which is 1024, not 1024"),
            ({"rank": "best"}, "--rank is one of tissue, darkness, uniform, not 'best'"),
        ],
    )
    def test_wrong_values(self, wrong: dict[str, object], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            TileSpec(**wrong)  # type: ignore[arg-type]
