"""A photograph as one tile: the whole of it, its shape kept, whatever it shows."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import paint
from tiling.__main__ import main
from tiling.bag import read_bag
from tiling.errors import InputError, SlideError
from tiling.manifest import read_manifest
from tiling.slide import open_slide
from tiling.spec import TileSpec
from tiling.tile import tile_slide

RED, GREEN, BLUE, DARK = (200, 30, 20), (20, 160, 60), (30, 40, 220), (40, 30, 35)


def corners(width_px: int, height_px: int) -> np.ndarray:
    """RGB uint8 skin colour with a red, a green, a blue and a dark square in its corners, the first upper left."""
    side, right, bottom = min(width_px, height_px) // 4, width_px, height_px
    rgb = np.full((height_px, width_px, 3), (222, 170, 145), np.uint8)
    for y, x, colour in ((0, 0, RED), (0, right - side, GREEN), (bottom - side, 0, BLUE), (-side, -side, DARK)):
        rgb[y:, x:][:side, :side] = colour
    return rgb


def save(path: Path, rgb: np.ndarray, **options: object) -> Path:
    Image.fromarray(rgb).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("size_px", "corner", "side0_px", "picture"),
    [  # picture: left, top, width, height in the tile
        ((600, 450), (0, -75), 600, (0, 32, 256, 192)),
        ((450, 600), (-75, 0), 600, (32, 0, 192, 256)),
        ((2000, 1500), (0, -250), 2000, (0, 32, 256, 192)),
        ((512, 512), (0, 0), 512, (0, 0, 256, 256)),
        ((100, 80), (0, -10), 100, (0, 25, 256, 205)),
        ((301, 200), (0, -51), 301, (0, 43, 256, 170)),
        ((3000, 8), (0, -1496), 3000, (0, 127, 256, 1)),
    ],
)
def test_tile_is_the_picture_and_black_beside_it(
    tmp_path: Path, size_px: tuple[int, int], corner: tuple[int, int], side0_px: int, picture: tuple[int, ...]
) -> None:
    path = save(tmp_path / "a.png", corners(*size_px))
    bag = tile_slide(path, TileSpec(size=256, whole="black", codec="png"))
    assert len(bag) == 1
    assert (bag.x0.tolist(), bag.y0.tolist()) == ([corner[0]], [corner[1]])
    assert (bag.header.side0_px, bag.header.width_px, bag.header.height_px) == (side0_px, *size_px)
    left, top, width, height = picture
    inside = np.zeros((256, 256), bool)
    inside[top : top + height, left : left + width] = True
    assert (bag.tile(0)[~inside] == 0).all()
    wanted = Image.fromarray(corners(*size_px)).resize((width, height), Image.Resampling.BOX)
    difference = np.abs(bag.tile(0)[inside].reshape(height, width, 3).astype(int) - np.asarray(wanted))
    assert difference.mean() < 2  # no white of the outside, and nothing moved
    assert bag.score.tolist() == bag.tissue.tolist() == [width * height / 256**2]


@pytest.mark.parametrize(("padding", "above"), [("black", 0), ("white", 255), ("edge", 77)])
def test_padding(tmp_path: Path, padding: str, above: int) -> None:
    path = save(tmp_path / "a.png", np.full((32, 64, 3), 77, np.uint8))
    tile = tile_slide(path, TileSpec(size=64, whole=padding, codec="png")).tile(0)  # type: ignore[arg-type]
    assert (tile[:16] == above).all()
    assert (tile[16:48] == 77).all()
    assert (tile[48:] == above).all()


def test_no_picture_is_background(tmp_path: Path) -> None:
    """Black, white, ink-blue and grey ones, in a folder, through the command."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"black": (0, 0, 0), "white": (255, 255, 255), "pen": (20, 20, 230)}.items():
        save(folder / f"{name}.png", paint(60, 40, (0, 0, 60, colour)))
    Image.fromarray(corners(60, 40)).convert("L").save(folder / "grey.jpg")
    Image.fromarray(corners(60, 40)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(corners(60, 40)).quantize(16).save(folder / "palette.png")
    Image.fromarray(corners(60, 40)).save(folder / "old.bmp")
    Image.fromarray(corners(60, 40)).save(folder / "plain.ppm")
    Image.fromarray(corners(60, 40)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    assert main([str(folder), "--out", str(tmp_path / "bags"), "--whole", "black", "--size", "32"]) == 0
    rows = read_manifest(tmp_path / "bags")
    assert {(row.status, row.tiles) for row in rows.values()} == {("done", 1)}
    assert len(rows) == 9
    for name in ("old", "plain"):
        bag = read_bag(tmp_path / "bags" / f"{name}.h5")
        np.testing.assert_allclose(bag.tile(0)[8, 2], RED, atol=12)


def test_transparent_is_white(tmp_path: Path) -> None:
    rgba = np.dstack([corners(64, 64), np.full((64, 64), 255, np.uint8)])
    rgba[:32, :, 3] = 0
    tile = tile_slide(save(tmp_path / "a.png", rgba), TileSpec(size=64, whole="black", codec="png")).tile(0)
    assert (tile[:32] == 255).all()
    np.testing.assert_array_equal(tile[32:], corners(64, 64)[32:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_stands_upright(tmp_path: Path, orientation: int) -> None:
    """As Pillow turns it: the overview and the tile are what a viewer shows."""
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path / "a.jpg", corners(120, 80), exif=exif, quality=95, subsampling=0)
    bag = tile_slide(path, TileSpec(size=120, whole="black", codec="png"))
    upright = {1: (120, 80), 0: (80, 120)}[orientation < 5]
    assert (bag.header.width_px, bag.header.height_px) == upright
    colours = {1: (RED, GREEN), 2: (GREEN, RED), 3: (DARK, BLUE), 4: (BLUE, DARK)}
    colours |= {5: (RED, BLUE), 6: (BLUE, RED), 7: (DARK, GREEN), 8: (GREEN, DARK)}
    x, y = (120 - upright[0]) // 2, (120 - upright[1]) // 2
    first, second = bag.tile(0)[y + 5, x + 5], bag.tile(0)[y + 5, x + upright[0] - 6]
    np.testing.assert_allclose([first, second], colours[orientation], atol=12)
    assert bag.overview_rgb().shape == (upright[1], upright[0], 3)


def test_a_photograph_in_tiff_stands_upright_and_a_slide_stays(tmp_path: Path) -> None:
    rgb = corners(120, 80)
    strips = save(tmp_path / "a.tif", rgb, tiffinfo={274: 6})
    bag = tile_slide(strips, TileSpec(size=120, whole="black", codec="png"))
    np.testing.assert_array_equal(bag.tile(0), np.pad(np.rot90(rgb, -1), ((0, 0), (20, 20), (0, 0))))
    page, options = Image.fromarray(rgb), {"tiffinfo": {274: 6}}
    page.save(tmp_path / "b.tif", save_all=True, append_images=[page.resize((60, 40))], **options)
    tifffile.imwrite(tmp_path / "c.tif", rgb, tile=(16, 16), extratags=[(274, "H", 1, 6, True)])
    for name in ("b.tif", "c.tif"):
        assert open_slide(tmp_path / name).width_px == 120


def test_overview_has_no_padding_and_is_not_enlarged(tmp_path: Path) -> None:
    for width, height, size, wanted in (
        (600, 450, 256, (192, 256)),
        (100, 80, 256, (80, 100)),
        (3000, 600, 2048, (205, 1024)),
    ):
        path = save(tmp_path / f"{width}.png", corners(width, height))
        bag = tile_slide(path, TileSpec(size=size, whole="edge"))
        assert bag.overview_rgb().shape == (*wanted, 3)
        assert bag.header.overview_downsample == pytest.approx(width / wanted[1], rel=0.01)
        assert bag.header.overview_seen == 1


def test_slide_with_a_pyramid_is_read_at_a_coarse_level(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "slides_vendor" / "CMU-1-Small-Region.svs"  # 2220 x 2967 px
    bag = tile_slide(path, TileSpec(size=64, whole="white"))
    assert (bag.header.side0_px, len(bag)) == (2967, 1)


def test_small_copies(tmp_path: Path) -> None:
    bag = tile_slide(save(tmp_path / "a.png", corners(90, 60)), TileSpec(size=64, whole="black", train_px=32))
    assert bag.small is not None
    assert bag.tile(0, 32).shape == (32, 32, 3)


def test_a_bag_of_one_instance(tmp_path: Path) -> None:
    """By which a network knows how many there may be; what the bag says gives the same spec again."""
    bag = tile_slide(save(tmp_path / "a.png", corners(90, 60)), TileSpec(size=64, whole="black"))
    assert bag.header.spec["instances"] == 1
    assert TileSpec(**bag.header.spec) == TileSpec(size=64, whole="black") == TileSpec(1, 64, whole="black")


def test_what_says_nothing_of_one_tile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one scale, not 2"):
        TileSpec(whole="black", downsample=2)
    with pytest.raises(InputError, match="--rank and --min-tissue choose among tiles, and --whole gives one"):
        TileSpec(whole="black", rank="texture")
    with pytest.raises(InputError, match="--whole gives one tile, not --instances 5; leave one of them out"):
        TileSpec(whole="black", instances=5)
    assert TileSpec(whole="black").longest_edge is None
    with pytest.raises(SlideError, match="has only 20 × 10 px and would be enlarged 26 times"):
        tile_slide(save(tmp_path / "a.png", corners(20, 10)), TileSpec(size=512, whole="black"))


def bmp_header(depth: int) -> bytes:
    """That of a picture of 4 × 4 pixels."""
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 102, 0, 54, 40, 4, 4, 1, depth, 0, 48, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.ppm", b"P6\n4 4\n255\n1234"),
        ("header.ppm", b"P6\n4 four\n255\n" + bytes(48)),
        ("depth.ppm", b"P6\n4 4\n99999\n" + bytes(48)),
        ("junk.ppm", b"P3\n1 1\n255\n1 two 3\n"),
        ("high.ppm", b"P3\n1 1\n255\n1 2 300\n"),
        ("none.ppm", b""),
        ("depth.bmp", bmp_header(depth=7) + bytes(48)),
        ("short.bmp", bmp_header(depth=24)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_picture_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=f"{name}' is (no slide that can be read|damaged: the pixels at)"):
        tile_slide(tmp_path / name, TileSpec(size=8, whole="black"))
