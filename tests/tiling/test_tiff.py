"""Tiles read by hand have the pixels that the libraries read."""

import zlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile

from tests.tiling.test_slide import coordinates, lossless_tiff
from tiling.slide import open_slide, write_pyramid
from tiling.tiff import TileError, read_pages

NOISE = np.random.default_rng(1).integers(0, 255, (600, 700, 3)).astype(np.uint8)


def test_jpeg_tiles_are_openslides_pixels(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", NOISE)
    page = read_pages(tmp_path / "a.tiff")[0].tiled
    assert page is not None
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        for box in ((0, 0, 700, 600), (100, 50, 300, 200), (255, 255, 2, 2), (699, 599, 1, 1), (256, 256, 256, 256)):
            expected = np.asarray(slide.read_region(box[:2], 0, box[2:]).convert("RGB"))
            np.testing.assert_array_equal(page.read(*box), expected)


@pytest.mark.parametrize("name", ["slides_vendor/CMU-1-Small-Region.svs", "slides/celiac-disease_HE.tiff"])
def test_real_tiles_are_openslides_pixels(real_data: Path, name: str) -> None:
    """The first has shared tables, tiles of 240 px and components that are RGB without saying so."""
    page = read_pages(real_data / name)[0].tiled
    assert page is not None
    with openslide.OpenSlide(real_data / name) as slide:
        expected = np.asarray(slide.read_region((500, 700), 0, (900, 800)).convert("RGB"))
    np.testing.assert_array_equal(page.read(500, 700, 900, 800), expected)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_jpeg_is_the_mean_of_its_pixels(real_data: Path, reduction: int) -> None:
    page = read_pages(real_data / "slides" / "celiac-disease_HE.tiff")[0].tiled
    assert page is not None
    whole = page.read(512, 768, 1024, 512).astype(float)
    means = whole.reshape(512 // reduction, reduction, 1024 // reduction, reduction, 3).mean(axis=(1, 3))
    reduced = page.read(512 // reduction, 768 // reduction, 1024 // reduction, 512 // reduction, reduction)
    assert np.sqrt(((reduced - means) ** 2).mean()) < 1
    assert np.abs((reduced - means).mean(axis=(0, 1))).max() < 0.3


@pytest.mark.parametrize(
    "options",
    [{"compression": "deflate"}, {"compression": "deflate", "predictor": "horizontal"}, {"compression": "none"}],
)
def test_lossless_tiles_are_exact(tmp_path: Path, options: dict[str, str]) -> None:
    rgb = coordinates(300, 200)
    image = pyvips.Image.new_from_memory(rgb.tobytes(), 300, 200, 3, "uchar").copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "a.tiff"), tile=True, tile_width=64, tile_height=64, **options)
    page = read_pages(tmp_path / "a.tiff")[0].tiled
    assert page is not None
    np.testing.assert_array_equal(page.read(10, 20, 270, 170), rgb[20:190, 10:280])
    np.testing.assert_allclose(page.read(8, 8, 4, 4, 2)[..., 0], [[16.5, 18.5, 20.5, 22.5]] * 4, atol=0.5)


def test_jpeg_2000_in_a_tiff_that_libvips_reads_as_black(real_data: Path) -> None:
    slide = open_slide(real_data / "slides_odd" / "CMU-1-Small-Region.jp2.tiff")
    original = open_slide(real_data / "slides_vendor" / "CMU-1-Small-Region.svs")
    regions = [each.read_region(600, 800, 512, 512, (512, 512)).astype(int) for each in (slide, original)]
    assert np.abs(regions[0] - regions[1]).mean() < 4


@pytest.mark.parametrize(
    "options", [{"tile": False}, {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "lzw"}]
)
def test_pages_that_cannot_be_read_by_the_tile(tmp_path: Path, options: dict[str, object]) -> None:
    rgb = coordinates(300, 200)
    pyvips.Image.new_from_array(rgb).tiffsave(str(tmp_path / "a.tiff"), **options)
    (page,) = read_pages(tmp_path / "a.tiff")
    assert (page.width_px, page.height_px, page.tiled) == (300, 200, None)
    np.testing.assert_array_equal(open_slide(tmp_path / "a.tiff").read_region(0, 0, 300, 200, (300, 200)), rgb)


def test_no_tiff_has_no_pages(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(b"II*\0 and then nothing")
    assert read_pages(tmp_path / "a.tiff") == []


class TestDamage:
    def with_counts(self, path: Path, change: dict[int, int]) -> Path:
        write_pyramid(path, NOISE)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            counts = list(tiff.pages[0].databytecounts)
            for index, count in change.items():
                counts[index] = count
            tiff.pages[0].tags["TileByteCounts"].overwrite(counts)
        return path

    @pytest.mark.parametrize("count", [7, 1 << 31])
    def test_tile_that_cannot_be_decoded(self, tmp_path: Path, count: int) -> None:
        page = read_pages(self.with_counts(tmp_path / "a.tiff", {4: count}))[0].tiled
        assert page is not None
        with pytest.raises(TileError):
            page.read(0, 0, 700, 600)
        page.read(0, 0, 700, 256)

    def test_tile_that_aperio_left_to_a_finer_level(self, tmp_path: Path) -> None:
        page = read_pages(self.with_counts(tmp_path / "a.tiff", {4: 0}))[0].tiled
        assert page is not None
        assert (page.read(256, 256, 256, 256) == 255).all()
        page.blanks = False
        with pytest.raises(TileError, match="a tile was left out"):
            page.read(256, 256, 256, 256)

    def test_file_that_ends_in_a_tile(self, tmp_path: Path) -> None:
        write_pyramid(tmp_path / "a.tiff", NOISE)
        page = read_pages(tmp_path / "a.tiff")[0].tiled
        assert page is not None
        data = (tmp_path / "a.tiff").read_bytes()
        (tmp_path / "a.tiff").write_bytes(data[: int(page.offsets[2, 2]) + 10])
        with pytest.raises(TileError, match="the file ends within the tile at byte"):
            page.read(512, 512, 188, 88)

    def test_deflated_tile_of_more_than_it_says(self, tmp_path: Path) -> None:
        lossless_tiff(tmp_path / "a.tiff", coordinates(64, 64), tile=True, tile_width=64, tile_height=64)
        page = read_pages(tmp_path / "a.tiff")[0].tiled
        assert page is not None
        bomb = zlib.compress(bytes(10**7))
        page.offsets[0, 0], page.bytecounts[0, 0] = len((tmp_path / "a.tiff").read_bytes()), len(bomb)
        with (tmp_path / "a.tiff").open("ab") as file:
            file.write(bomb)
        assert page.read(0, 0, 64, 64).max() == 0

    def test_jpeg_tile_that_claims_another_size(self, tmp_path: Path) -> None:
        """Of 65496 px a side, 13 GB of pixels."""
        write_pyramid(tmp_path / "a.tiff", NOISE)
        data = bytearray((tmp_path / "a.tiff").read_bytes())
        page = read_pages(tmp_path / "a.tiff")[0].tiled
        assert page is not None
        at = data.index(b"\xff\xc0", int(page.offsets[0, 0]))
        assert data[at + 5 : at + 9] == b"\1\0\1\0"
        data[at + 5 : at + 9] = b"\xff\xd8\xff\xd8"
        (tmp_path / "a.tiff").write_bytes(data)
        page = read_pages(tmp_path / "a.tiff")[0].tiled
        assert page is not None
        with pytest.raises(TileError, match="a tile says that it has 65496 × 65496 px"):
            page.read(0, 0, 16, 16)
        page.read(256, 0, 16, 16)
