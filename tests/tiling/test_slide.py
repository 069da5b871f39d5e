"""Regions come back with the pixels and in the frame that was asked for, whoever reads them."""

import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from PIL import Image

from tiling.errors import SlideError
from tiling.slide import Slide, open_slide, write_pyramid
from tiling.spec import TileSpec
from tiling.tile import tile_slide


def coordinates(width: int, height: int) -> np.ndarray:
    """RGB uint8 whose pixel (x, y) is (x, y, 128) modulo 256."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, np.full_like(x, 128)], axis=2).astype(np.uint8)


def lossless_tiff(path: Path, rgb: np.ndarray, **options: object) -> Path:
    height, width = rgb.shape[:2]
    image = pyvips.Image.new_from_memory(rgb.tobytes(), width, height, 3, "uchar").copy(interpretation="srgb")
    image.tiffsave(str(path), compression="deflate", **options)
    return path


class TestReadRegion:
    def test_full_resolution_is_exact(self, tmp_path: Path) -> None:
        rgb = coordinates(200, 150)
        slide = open_slide(lossless_tiff(tmp_path / "a.tiff", rgb))
        assert (slide.width_px, slide.height_px, slide.vendor) == (200, 150, "tiff")
        region = slide.read_region(30, 40, 64, 64, (64, 64))
        np.testing.assert_array_equal(region, rgb[40:104, 30:94])

    def test_outside_is_white(self, tmp_path: Path) -> None:
        rgb = coordinates(100, 80)
        slide = open_slide(lossless_tiff(tmp_path / "a.tiff", rgb))
        region = slide.read_region(-10, 60, 32, 32, (32, 32))
        assert (region[:, :10] == 255).all()
        assert (region[20:] == 255).all()
        np.testing.assert_array_equal(region[:20, 10:], rgb[60:80, :22])
        assert (slide.read_region(500, 500, 8, 8, (8, 8)) == 255).all()

    def test_reduces_in_place(self, tmp_path: Path) -> None:
        rgb = np.kron(coordinates(40, 40), np.ones((8, 8, 1), np.uint8))  # blocks of 8 x 8 equal pixels
        slide = open_slide(lossless_tiff(tmp_path / "a.tiff", rgb))
        region = slide.read_region(80, 160, 160, 80, (20, 10))
        np.testing.assert_allclose(region.astype(int), rgb[160:240:8, 80:240:8].astype(int), atol=2)

    def test_neighbours_join_without_a_seam(self, tmp_path: Path) -> None:
        slide = open_slide(
            lossless_tiff(tmp_path / "a.tiff", np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
        )
        whole = slide.read_region(30, 30, 240, 120, (80, 40))
        halves = [slide.read_region(30 + 120 * i, 30, 120, 120, (40, 40)) for i in range(2)]
        np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)

    def test_large_regions_are_read_in_parts_that_join(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        y, x = np.mgrid[:310, :290]
        waves = (127 + 60 * np.sin(x / 17) + 60 * np.cos(y / 13)).astype(np.uint8)
        slide = open_slide(lossless_tiff(tmp_path / "a.tiff", np.stack([waves, waves // 2, 255 - waves], 2)))
        whole = slide.read_region(-20, -10, 330, 340, (55, 68)).astype(int)
        monkeypatch.setattr("tiling.slide._MOST_PX_AT_ONCE", 1000)
        parts = []
        level = slide.levels[0]
        spied = slide._replace(
            levels=(level._replace(read=lambda x, y, w, h: parts.append(w * h) or level.read(x, y, w, h)),)
        )
        difference = np.abs(spied.read_region(-20, -10, 330, 340, (55, 68)) - whole)
        assert np.percentile(difference, 99) <= 2
        assert len(parts) > 100
        assert max(parts) < 3000  # a thousand pixels and the margin around them

    def test_reads_the_level_that_is_just_fine_enough(self, tmp_path: Path) -> None:
        write_pyramid(tmp_path / "a.tiff", np.full((2048, 2048, 3), 200, np.uint8))
        slide = open_slide(tmp_path / "a.tiff")
        assert [level.width_px for level in slide.levels] == [2048, 1024, 512, 256]
        sources = [slide.source_for(downsample) for downsample in (0.5, 1, 1.9, 2, 3.9, 8, 15.5, 17, 100)]
        assert [(level.width_px, reduction) for level, reduction in sources] == [
            (2048, 1), (2048, 1), (2048, 1), (1024, 1), (1024, 1), (256, 1), (256, 1), (256, 2), (256, 8),
        ]  # fmt: skip

    @pytest.mark.parametrize("reduction", [1, 2, 8])
    def test_level_that_is_not_read_by_the_tile_gives_the_same(
        self, tmp_path: Path, reduction: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        y, x = np.mgrid[:310, :290]
        waves = (127 + 60 * np.sin(x / 17) + 60 * np.cos(y / 13)).astype(np.uint8)
        path = lossless_tiff(tmp_path / "a.tiff", np.stack([waves, waves // 2, 255 - waves], 2), tile=True)
        by_hand = open_slide(path).levels[0]
        by_vips = by_hand._replace(tiled=None)
        assert by_hand.tiled is not None
        monkeypatch.setattr("tiling.slide._MOST_PX_AT_ONCE", 5000)
        box = (8, 4, 290 // reduction - 8, 310 // reduction - 4)
        np.testing.assert_array_equal(by_hand.read_reduced(*box, reduction), by_vips.read_reduced(*box, reduction))

    def test_what_a_tile_holds_beyond_the_slide_is_not_seen(self, tmp_path: Path) -> None:
        """The last tiles of a slide of 301 px are filled up, by libvips with black."""
        write_pyramid(tmp_path / "a.tiff", np.full((301, 301, 3), 200, np.uint8))
        slide = open_slide(tmp_path / "a.tiff")
        for downsample in (1, 2, 4, 8):
            out_px = -(-301 // downsample) + 2
            region = slide.read_region(-downsample, -downsample, *[out_px * downsample] * 2, (out_px, out_px))
            assert region.min() >= 185  # JPEG rings beside the black


class TestFormats:
    def test_openslide_and_vips_give_the_same_pixels(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (600, 700, 3)).astype(np.uint8)
        write_pyramid(tmp_path / "a.tiff", noise)
        slide = open_slide(tmp_path / "a.tiff")
        assert slide.vendor == "generic-tiff"
        with openslide.OpenSlide(tmp_path / "a.tiff") as reference:
            expected = np.asarray(reference.read_region((100, 50), 0, (300, 200)).convert("RGB"))
        np.testing.assert_array_equal(slide.levels[0].read(100, 50, 300, 200), expected)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_plain_image(self, tmp_path: Path, suffix: str) -> None:
        rgb = coordinates(60, 50)
        Image.fromarray(rgb).save(tmp_path / f"a{suffix}")
        slide = open_slide(tmp_path / f"a{suffix}")
        assert (slide.width_px, slide.height_px, slide.mpp) == (60, 50, None)
        np.testing.assert_array_equal(slide.read_region(0, 0, 60, 50, (60, 50)), rgb)

    def test_grey_and_alpha(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((20, 20), 77, np.uint8)).save(tmp_path / "grey.png")
        assert (open_slide(tmp_path / "grey.png").read_region(0, 0, 20, 20, (20, 20)) == 77).all()
        Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(tmp_path / "clear.png")
        assert (open_slide(tmp_path / "clear.png").read_region(0, 0, 20, 20, (20, 20)) == 255).all()

    def test_pages_of_a_tiff_that_openslide_refuses_are_levels(self, tmp_path: Path) -> None:
        path = lossless_tiff(tmp_path / "a.tiff", coordinates(512, 512), pyramid=True, tile=True, bigtiff=False)
        slide = open_slide(path)
        assert [level.width_px for level in slide.levels] == [512, 256, 128]

    @pytest.mark.parametrize(("mpp", "expected"), [(0.25, 0.25), (2.0, 2.0), (352.8, None), (None, None)])
    def test_mpp(self, tmp_path: Path, mpp: float | None, expected: float | None) -> None:
        write_pyramid(tmp_path / "a.tiff", np.full((300, 300, 3), 200, np.uint8), mpp)
        found = open_slide(tmp_path / "a.tiff").mpp
        with openslide.OpenSlide(tmp_path / "a.tiff") as reference:
            assert (openslide.PROPERTY_NAME_MPP_X in reference.properties) == (mpp is not None)
        assert found is None if expected is None else found == pytest.approx(expected, rel=1e-5)


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SlideError, match="no such file"):
            open_slide(tmp_path / "a.tiff")

    def test_no_slide(self, tmp_path: Path) -> None:
        (tmp_path / "a.svs").write_text("not a slide")
        with pytest.raises(SlideError, match=r"a\.svs' is no slide that can be read"):
            open_slide(tmp_path / "a.svs")

    def test_truncated(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
        write_pyramid(tmp_path / "a.tiff", noise)
        data = (tmp_path / "a.tiff").read_bytes()
        for share in (0.01, 0.3, 0.6):
            (tmp_path / "a.tiff").write_bytes(data[: int(len(data) * share)])
            with pytest.raises(SlideError, match=r"a\.tiff"):
                open_slide(tmp_path / "a.tiff").read_region(0, 0, 1024, 1024, (1024, 1024))

    def test_truncated_behind_the_full_resolution(self, tmp_path: Path) -> None:
        """Where only reduced levels are lost, the pixels that are read are the right ones."""
        noise = np.random.default_rng(1).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
        write_pyramid(tmp_path / "a.tiff", noise)
        whole = open_slide(tmp_path / "a.tiff").read_region(0, 0, 1024, 1024, (1024, 1024))
        data = (tmp_path / "a.tiff").read_bytes()
        (tmp_path / "a.tiff").write_bytes(data[: int(len(data) * 0.95)])
        slide = open_slide(tmp_path / "a.tiff")
        assert len(slide.levels) == 1
        np.testing.assert_array_equal(slide.read_region(0, 0, 1024, 1024, (1024, 1024)), whole)

    def test_compression_that_nothing_reads(self, tmp_path: Path, real_data: Path) -> None:
        with pytest.raises(SlideError, match="TIFF code 52479"):
            open_slide(real_data / "slides_odd" / "unopenable.tiff")


def test_plain_jpeg_2000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = coordinates(200, 150)
    Image.fromarray(rgb).save(tmp_path / "a.jp2", irreversible=False)
    slide = open_slide(tmp_path / "a.jp2")
    assert (slide.width_px, slide.height_px, slide.mpp, slide.vendor) == (200, 150, None, "jpeg2000")
    np.testing.assert_array_equal(slide.read_region(30, 40, 64, 64, (64, 64)), rgb[40:104, 30:94])
    data = (tmp_path / "a.jp2").read_bytes()
    (tmp_path / "cut.jp2").write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideError, match=r"cut\.jp2' is damaged"):
        open_slide(tmp_path / "cut.jp2").read_region(0, 0, 64, 64, (64, 64))
    (tmp_path / "no.jp2").write_text("no picture")
    with pytest.raises(SlideError, match=r"no\.jp2' is no slide that can be read"):
        open_slide(tmp_path / "no.jp2")
    monkeypatch.setattr("tiling.slide._MOST_WHOLE_PX", 29_999)
    with pytest.raises(SlideError, match=r"has more pixels than can be decoded at once in JPEG2000 \(29,999\)"):
        open_slide(tmp_path / "a.jp2")


def test_thumbnail_before_the_slide_is_not_taken_for_it(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.full((100, 120, 3), 9, np.uint8), photometric="rgb")
        tiff.write(np.full((500, 600, 3), 200, np.uint8), photometric="rgb")
    slide = open_slide(tmp_path / "a.tif")
    assert [(level.width_px, level.height_px) for level in slide.levels] == [(600, 500), (120, 100)]
    assert (slide.read_region(0, 0, 600, 500, (600, 500)) == 200).all()


def test_colours_that_are_not_rgb_are_left_to_openslide(tmp_path: Path) -> None:
    ycbcr = np.full((256, 256, 3), (150, 120, 170), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(ycbcr, photometric="ycbcr", tile=(128, 128), subsampling=(1, 1))
    with openslide.OpenSlide(tmp_path / "a.tif") as reference:
        expected = np.asarray(reference.read_region((0, 0), 0, (256, 256)).convert("RGB"))
    np.testing.assert_array_equal(open_slide(tmp_path / "a.tif").read_region(0, 0, 256, 256, (256, 256)), expected)


def test_planes_are_left_to_openslide(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        planes = np.stack([np.full((256, 256), value, np.uint8) for value in (200, 110, 170)])
        tiff.write(planes, photometric="rgb", planarconfig="separate", tile=(128, 128))
    assert open_slide(tmp_path / "a.tif").read_region(0, 0, 9, 9, (9, 9))[4, 4].tolist() == [200, 110, 170]


def test_channels_that_are_no_colours(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.zeros((64, 64, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(SlideError, match=r"a\.tif' is no slide that can be read .*channels, which are no colours"):
        open_slide(tmp_path / "a.tif")


def test_region_far_outside_is_white_at_once(tmp_path: Path) -> None:
    slide = open_slide(lossless_tiff(tmp_path / "a.tiff", coordinates(100, 80)))
    region = slide.read_region(-(10**6), -(10**6), 2 * 10**6, 2 * 10**6, (500, 500))
    assert region.shape == (500, 500, 3)
    assert (np.delete(region.reshape(-1, 3), slice(124_000, 126_500), axis=0) == 255).all()


def claims(tags: dict[int, int]) -> bytes:
    """A TIFF of a million by a million pixels in 8-bit RGB that has nothing but these tags more."""
    tags = {256: 10**6, 257: 10**6, 258: 8, 277: 3, **tags}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, count, value)
        for tag, value in sorted(tags.items())
        for count in [3907**2 if tag in (324, 325) else 1]
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(5000)


@pytest.mark.parametrize(
    "tags",
    [
        {259: 7, 262: 6, 322: 256, 323: 256},
        {259: 7, 262: 6, 322: 256, 323: 256, 324: 8, 325: 8},
        {259: 1, 262: 2, 278: 10**6, 273: 8, 279: 100},
    ],
    ids=["no tiles", "tables cut off", "one strip"],
)
def test_file_that_claims_a_terapixel(tmp_path: Path, tags: dict[int, int]) -> None:
    (tmp_path / "a.tiff").write_bytes(claims(tags))
    with pytest.raises(SlideError, match=r"a\.tiff' is (no slide that can be read|damaged)"):
        tile_slide(tmp_path / "a.tiff", TileSpec())


def test_tile_of_no_bytes_is_background(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", np.full((600, 600, 3), 120, np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tiff", mode="r+") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["TileByteCounts"].overwrite([0, *counts[1:]])
    slide = open_slide(tmp_path / "a.tiff")
    pixels = slide.read_region(0, 0, 600, 600, (600, 600))
    assert (pixels[:256, :256] == 255).all()
    np.testing.assert_allclose(pixels[:256, 256:512].mean(), 120, atol=1)


def test_dicom_that_says_rgb_and_is_ycbcr(real_data: Path) -> None:
    """A conversion of CMU-1-Small-Region.svs whose photometric tag is wrong has the colours of its original."""
    dicom = open_slide(real_data / "slides_vendor" / "dicom_cmu1" / "level-0-frames-0-30.dcm")
    original = open_slide(real_data / "slides_vendor" / "CMU-1-Small-Region.svs")
    regions = [slide.read_region(600, 800, 512, 512, (512, 512)).astype(int) for slide in (dicom, original)]
    np.testing.assert_allclose(regions[0].mean(axis=(0, 1)), regions[1].mean(axis=(0, 1)), atol=1)
    assert np.abs(regions[0] - regions[1]).mean() < 8  # it was compressed once more


def test_real_pixels_know_where_they_are(real_data: Path) -> None:
    """The XYC pictures carry their coordinates: red and green are x and y of an 8 px block."""
    for name in ("XYC.png", "XYC-half-mpp.tiff", "XYC-lzw.ome.tiff"):
        slide = open_slide(real_data / "slides_odd" / name)
        reference = np.asarray(Image.open(real_data / "slides_odd" / "XYC.png").convert("RGB"))
        np.testing.assert_array_equal(slide.read_region(40, 72, 128, 64, (128, 64)), reference[72:136, 40:168])


class TestStreamed:
    """Large pictures that can only be decoded from their top."""

    @pytest.fixture(params=["a.png", "a.tif", "tiled.tif"])
    def streamed(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slide:
        monkeypatch.setattr("tiling.slide._MOST_PX_AT_ONCE", 10_000)
        y, x = np.mgrid[:310, :290]
        waves = (127 + 60 * np.sin(x / 17) + 60 * np.cos(y / 13)).astype(np.uint8)
        self.rgb = np.stack([waves, waves // 2, 255 - waves], 2)
        options = {"tile": True, "tile_width": 64, "tile_height": 64} if "tiled" in request.param else {}
        image = pyvips.Image.new_from_array(self.rgb)
        image.write_to_file(
            str(tmp_path / request.param), **({"compression": "lzw"} if "tif" in request.param else {}), **options
        )
        slide = open_slide(tmp_path / request.param)
        assert slide.levels[0].streamed is not None
        return slide

    def test_rectangles_in_any_order_are_exact(self, streamed: Slide) -> None:
        for x, y, side in ((10, 20, 64), (200, 20, 64), (100, 60, 64), (0, 246, 64), (5, 0, 64), (226, 200, 64)):
            region = streamed.read_region(x, y, side, side, (side, side))
            np.testing.assert_array_equal(region, self.rgb[y : y + side, x : x + side])

    @pytest.mark.parametrize("downsample", [2, 4, 8, 10])
    def test_reduced_is_the_mean(self, streamed: Slide, downsample: int) -> None:
        out_px = 290 // downsample, 310 // downsample
        whole = streamed.read_region(0, 0, out_px[0] * downsample, out_px[1] * downsample, out_px)
        inside = self.rgb[: out_px[1] * downsample, : out_px[0] * downsample].astype(float)
        means = inside.reshape(out_px[1], downsample, out_px[0], downsample, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(whole[1:-1, 1:-1], means[1:-1, 1:-1], atol=8)

    def test_whole_slide_is_decoded_twice_at_most(self, streamed: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
        page = streamed.levels[0].streamed
        assert page is not None
        opened, real = [], type(page)._open
        monkeypatch.setattr(
            type(page), "_open", lambda page, reduction: opened.append(reduction) or real(page, reduction)
        )
        monkeypatch.setattr("tiling.tile.open_slide", lambda path: streamed)
        bag = tile_slide(streamed.path, TileSpec(size=32, downsample=2, min_tissue=0))
        assert len(bag) == 16
        assert len(opened) <= 2


class TestWhatLibvipsTries:
    """It goes by a file's content, whatever it is called."""

    @pytest.mark.parametrize(
        "content",
        [
            '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>',
            "%PDF-1.4\n%%EOF\n",
            "#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n" + "a" * 256,
            "P2\n2 2\n255\n1 2 3 4\n",
        ],
    )
    @pytest.mark.parametrize("name", ["a.tif", "a.png"])
    def test_other_formats_are_not(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(SlideError, match="is no slide that can be read .*not a known file format"):
            open_slide(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.avif"])
    def test_those_of_our_list_are(self, tmp_path: Path, name: str) -> None:
        rgb = np.full((32, 48, 3), (200, 100, 50), np.uint8)
        Image.fromarray(rgb).save(tmp_path / name)
        back = open_slide(tmp_path / name).read_region(0, 0, 48, 32, (48, 32))
        assert np.abs(back.astype(int) - rgb).max() <= 4


def test_photograph_that_is_too_large_to_be_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(coordinates(200, 150)).save(tmp_path / "a.jpg", exif=exif)
    slide = open_slide(tmp_path / "a.jpg")
    assert (slide.width_px, slide.height_px) == (150, 200)
    monkeypatch.setattr("tiling.slide._MOST_WHOLE_PX", 29_999)
    with pytest.raises(SlideError, match=r"has more pixels than can be turned upright at once \(29,999\)"):
        open_slide(tmp_path / "a.jpg")


def test_path_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SlideError, match="no such file"):
            open_slide(tmp_path / name)
