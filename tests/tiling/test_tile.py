"""From a slide to its bag: the right cells, the right pixels, the right frame."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import GLASS, NUCLEI, STROMA, paint
from tiling.bag import Picked
from tiling.errors import InputError, SlideError
from tiling.pick import AttentionMap
from tiling.resample import resize
from tiling.slide import open_slide, write_pyramid
from tiling.spec import TileSpec
from tiling.synthetic.histology import LOOKS, draw_slide
from tiling.tile import glance, tile_slide


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


def test_a_glance_is_the_bag_without_pixels_of_tiles(slide: Path) -> None:
    spec = TileSpec(size=128, downsample=1, train_px=64)
    seen, whole = glance(slide, spec, "a slide"), tile_slide(slide, spec, "a slide")
    assert (seen.tiles, seen.small) == (None, None)
    assert (seen.header, seen.overview) == (whole.header, whole.overview)
    for name in ("x0", "y0", "score", "tissue"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(whole, name))


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
        (TileSpec(size=64, magnification=10), 128),  # 0.5 µm/px is 20 times
        (TileSpec(size=64, longest_edge=1280), 32),
    ],
)
def test_scales(slide: Path, spec: TileSpec, side0_px: int) -> None:
    bag = tile_slide(slide, spec)
    assert bag.header.side0_px == side0_px
    assert bag.tile(0).shape == (64, 64, 3)


def test_given_mpp_wins_over_the_files_and_that_over_the_default(slide: Path, tmp_path: Path) -> None:
    spec = TileSpec(size=64, mpp=1.0)
    write_pyramid(tmp_path / "b.tiff", paint(640, 384, (128, 128, 256, STROMA)))
    for path, given, side0_px, source in (
        (slide, {"mpp": 0.25, "default_mpp": 0.2}, 256, "table"),
        (slide, {"default_mpp": 0.2}, 128, "file"),
        (tmp_path / "b.tiff", {"default_mpp": 0.25}, 256, "default"),
    ):
        header = tile_slide(path, spec, **given).header  # type: ignore[arg-type]
        assert (header.side0_px, header.mpp_from) == (side0_px, source)


def test_magnification_of_the_file_wins_over_its_mpp(real_data: Path) -> None:
    slide = open_slide(real_data / "slides_vendor" / "CMU-1-Small-Region.svs")
    assert (slide.magnification, slide.mpp) == (20, 0.499)
    assert TileSpec(magnification=5).downsample_for(slide, slide.mpp) == 4
    assert TileSpec(magnification=5).downsample_for(slide._replace(magnification=None), 0.25) == 8
    with pytest.raises(SlideError, match="does not say its µm per pixel or its magnification; give it in the column"):
        TileSpec(magnification=5).downsample_for(slide._replace(magnification=None), None)


def test_map_of_scores_ranks(slide: Path) -> None:
    score_map = np.zeros((3, 5))
    score_map[2, 1], score_map[1, 1] = 1, 0.5
    bag = tile_slide(slide, TileSpec(size=128, downsample=1, min_tissue=0.5), score_map=score_map)
    assert list(zip(bag.x0[:2].tolist(), bag.y0[:2].tolist(), strict=True)) == [(128, 256), (128, 128)]
    assert bag.score.tolist() == [1, 0.5, 0, 0]


def test_overview_is_the_whole_slide_without_the_padding(slide: Path) -> None:
    bag = tile_slide(slide, TileSpec(size=128, downsample=1))
    overview, scale = bag.overview_rgb(), bag.header.overview_downsample
    assert overview.shape == (round(384 / scale), round(640 / scale), 3)
    at = [(np.array([500, 50]), GLASS), (np.array([320, 190]), NUCLEI), (np.array([620, 200]), (0, 0, 0))]
    for (x, y), colour in at:
        np.testing.assert_allclose(overview[int(y / scale), int(x / scale)], colour, atol=8)


@pytest.mark.parametrize("look", LOOKS)
def test_darkness_picks_what_the_published_recipe_picks(tmp_path: Path, look: str) -> None:
    """That is done at full resolution: pad to whole tiles with white, cut, sort by the sum of the pixels."""
    rgb, _ = draw_slide((4000, 3000), LOOKS[look], True, False, np.random.default_rng(0))
    write_pyramid(tmp_path / "a.tiff", rgb, quality=95)
    side = 256
    pad = [((-length % side) // 2, (-length % side + 1) // 2) for length in rgb.shape[:2]]
    pixels = open_slide(tmp_path / "a.tiff").levels[0].read(0, 0, 4000, 3000)
    padded = np.pad(pixels, (pad[0][::-1], pad[1][::-1], (0, 0)), constant_values=255)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    sums = padded.reshape(rows, side, columns, side, 3).sum(axis=(1, 3, 4), dtype=np.int64)
    expected = np.argsort(sums, axis=None, kind="stable")[:16]
    bag = tile_slide(tmp_path / "a.tiff", TileSpec(size=side, downsample=1, rank="darkness"))
    chosen = (bag.y0 + pad[0][1]) // side * columns + (bag.x0 + pad[1][1]) // side
    assert set(chosen) == set(expected)


def test_no_tissue_no_tiles(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(512, 512))
    assert len(tile_slide(tmp_path / "a.tiff", TileSpec(size=128, downsample=1))) == 0


def test_scale_that_needs_an_unknown_mpp(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(512, 512))
    with pytest.raises(SlideError, match="does not say its µm per pixel; give it in the column mpp"):
        tile_slide(tmp_path / "a.tiff", TileSpec(size=128, mpp=1.0))


def test_scale_in_another_unit(slide: Path) -> None:
    with pytest.raises(SlideError, match=r"would be reduced 500 times, .*--mpp is in micrometres"):
        tile_slide(slide, TileSpec(size=64, mpp=250))


def test_picture_too_small_for_the_scale(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", paint(300, 200))
    with pytest.raises(SlideError, match="would be enlarged 67 times"):
        tile_slide(tmp_path / "a.tiff", TileSpec())


class TestAttention:
    """The map lies over a square of 640 px, of which the slide fills the middle: 128 px are left above and below."""

    SPEC = TileSpec(size=128, downsample=1, codec="png", min_tissue=0.5, rank="attention")

    @staticmethod
    def looking(*cells: tuple[int, int], rest: float = 0.0) -> Callable[[np.ndarray], AttentionMap]:
        """A map of 5 x 5, whose cells are 128 px: each of these has a half of what is left of the one before."""
        map_GG = np.full((5, 5), rest)
        for place, cell in enumerate(cells):
            map_GG[cell] = 0.5**place
        return lambda overview_rgb: AttentionMap(map_GG / map_GG.sum(), "3", "abc")

    def corners(self, slide: Path, spec: TileSpec, *cells: tuple[int, int]) -> list[tuple[int, int]]:
        bag = tile_slide(slide, spec, look=self.looking(*cells))
        return list(zip(bag.x0.tolist(), bag.y0.tolist(), strict=True))

    def test_tiles_where_it_looks(self, slide: Path) -> None:
        # Row 3 and column 1 of the map are y0 256 and x0 128 on the slide; nothing of column 4 is tissue.
        spec = self.SPEC
        assert self.corners(slide, spec, (2, 4), (3, 1), (2, 1)) == [(128, 256), (128, 128), (256, 128), (256, 256)]
        assert self.corners(slide, replace(spec, attention_share=0.25, instances=3), (3, 1), (2, 1)) == [
            (128, 256), (256, 128), (128, 128),
        ]  # fmt: skip
        assert self.corners(slide, replace(spec, min_distance=1.2), (3, 1), (2, 1)) == [(128, 256), (256, 128)]

    def test_bag_says_who_looked_and_how(self, slide: Path) -> None:
        bag = tile_slide(slide, self.SPEC, look=self.looking((3, 1), (2, 1)))
        shares = np.array([2, 1]) / 3
        # Four cells of the map have tissue, and no other has attention.
        peak = 1 + (shares * np.log(shares)).sum() / np.log(4)
        assert bag.header.picked == Picked("abc", "3", pytest.approx(peak), "attention")
        np.testing.assert_allclose(bag.score, [2 / 3, 1 / 3, 0, 0])
        assert bag.tissue.min() > 0.95

    def test_flat_map_leaves_it_to_tissue(self, slide: Path) -> None:
        bag = tile_slide(slide, self.SPEC, look=self.looking(rest=1.0))
        assert bag.header.picked == Picked("abc", "3", pytest.approx(0, abs=1e-9), "tissue (flat map)")
        tissue = tile_slide(slide, replace(self.SPEC, rank="tissue"))
        assert (bag.x0[0], bag.y0[0]) == (256, 128)
        assert {*zip(bag.x0, bag.y0, strict=True)} == {*zip(tissue.x0, tissue.y0, strict=True)}
        np.testing.assert_allclose(np.sort(bag.score), np.sort(tissue.score), atol=0.01)
        assert tissue.header.picked is None

    def test_sees_the_overview_as_it_is_stored(self, slide: Path) -> None:
        seen = []

        def look(overview_rgb: np.ndarray) -> AttentionMap:
            seen.append(overview_rgb)
            return AttentionMap(np.eye(5) / 5, "all", "abc")

        bag = tile_slide(slide, self.SPEC, look=look)
        np.testing.assert_array_equal(seen[0], bag.overview_rgb())

    def test_nobody_is_asked_where_nothing_can_be_chosen(self, tmp_path: Path) -> None:
        write_pyramid(tmp_path / "bare.tiff", paint(640, 384))
        bag = tile_slide(tmp_path / "bare.tiff", self.SPEC, look=self.looking())
        assert (len(bag), bag.header.picked) == (0, None)

    def test_without_anybody_to_look(self, slide: Path) -> None:
        with pytest.raises(InputError, match="--rank attention needs a ChipNet that looks; give --chipnet RUN"):
            tile_slide(slide, self.SPEC)

    def test_map_of_scores_wins(self, slide: Path) -> None:
        bag = tile_slide(slide, self.SPEC, score_map=np.eye(3))
        assert (len(bag), bag.header.picked) == (4, None)


class TestBox:
    SPEC = TileSpec(size=64, rank="box", codec="png", downsample=1)

    def test_square_around_what_stands_out(self, slide: Path) -> None:
        map_GG = np.zeros((7, 7))
        map_GG[3, 3] = 1
        bag = tile_slide(slide, self.SPEC, look=lambda _: AttentionMap(map_GG, "0", "abc"))
        # The known answer at 224 px is 85 to 139; a pixel there is 640 / 224 of the slide's, and row 0 is 128 above it.
        assert (bag.x0.tolist(), bag.y0.tolist(), bag.header.side0_px) == ([242], [114], 154)
        wanted = open_slide(slide).read_region(242, 114, 154, 154, (64, 64))
        np.testing.assert_array_equal(bag.tile(0), wanted)
        assert bag.header.picked == Picked("abc", "0", 1.0, "attention")

    def test_clipped_square_keeps_its_shape(self, slide: Path) -> None:
        map_GG = np.zeros((7, 7))
        map_GG[2:5, 6] = 1 / 3
        bag = tile_slide(slide, self.SPEC, look=lambda _: AttentionMap(map_GG, "0", "abc"))
        assert (bag.x0.tolist(), bag.y0.tolist(), bag.header.side0_px) == ([440], [43], 297)
        assert bag.tile(0).shape == (64, 64, 3)
        assert (bag.tile(0)[:, 45:] == 255).all()  # 440 + 297 * 44 / 64 is beyond the slide's 640 px

    def test_flat_map_is_the_whole_slide(self, slide: Path) -> None:
        bag = tile_slide(slide, self.SPEC, look=lambda _: AttentionMap(np.full((7, 7), 1 / 49), "0", "abc"))
        assert (bag.x0.tolist(), bag.y0.tolist(), bag.header.side0_px) == ([0], [-128], 640)
        assert bag.header.picked is not None
        assert bag.header.picked.by == "whole (flat map)"
        assert bag.score.tolist() == [1]
