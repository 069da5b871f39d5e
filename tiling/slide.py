"""Open a slide and read any region of it at any scale, in level-0 pixels.

OpenSlide knows the vendors' formats; libvips opens plain images and the TIFFs that OpenSlide refuses. The pixels of
tiled TIFFs are decoded tile by tile, which gives OpenSlide's own pixels about four times faster, and reduced ones
faster still. This is the only module that imports openslide and pyvips.
"""

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import pyvips
from PIL import Image

from tiling.errors import SlideError
from tiling.resample import resize
from tiling.tiff import Page, TiledPage, TileError, erase_resolution, read_pages, tiff_code

# libvips picks its reader by a file's content, and has some for formats that run programs, fetch files or are rarely
# looked at (SVG, PDF, ImageMagick's, MATLAB's): only those of the formats listed below are left.
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in ("Jpeg", "Png", "Tiff", "Webp", "Nsgif", "Heif"):
    pyvips.operation_block_set(f"VipsForeignLoad{_format}", False)
pyvips.cache_set_max(0)  # libvips would otherwise keep the last hundred operations, and so slides, open

OPENSLIDE_EXTENSIONS = frozenset(".svs .tif .tiff .ndpi .vms .vmu .scn .mrxs .svslide .bif .dcm .czi".split())
VIPS_EXTENSIONS = frozenset(".tif .tiff .qptiff .jpg .jpeg .jpe .jfif .png .webp .gif .heic .heif .avif".split())
_PILLOW_FORMATS = {
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".j2c"), "JPEG2000"), ".bmp": "BMP", ".ppm": "PPM"
}  # fmt: skip
EXTENSIONS = OPENSLIDE_EXTENSIONS | VIPS_EXTENSIONS | _PILLOW_FORMATS.keys()

_PLAIN_PAGES = frozenset({"aperio", "generic-tiff"})  # vendors whose levels are plain TIFF pages
_VIPS_COMPRESSIONS = frozenset(
    tiff_code(name)
    for name in "NONE LZW JPEG DEFLATE ADOBE_DEFLATE PACKBITS WEBP ZSTD LZMA CCITTRLE CCITT_T4 CCITT_T6".split()
)
_DICOM_HEAD_BYTES = 1 << 20  # the first frame begins within
_PLAUSIBLE_MPP = (0.02, 50.0)  # outside: a screen's dpi or a wrong unit, not the scale of a microscope
_PLAUSIBLE_MAGNIFICATION = (0.5, 200.0)
_FULL_SCALE_SLACK_PX = 1.0  # a level whose region is this close to the wanted size is taken as it is
_NEARLY = 1.01  # times the wanted downsample; a level that coarse is as good

_PILLOW_ERRORS = (OSError, SyntaxError, ValueError)  # of a file that is damaged or of a kind that it does not know
_MOST_WHOLE_PX = 64_000_000  # decoded at once, which takes 15 bytes each in JPEG 2000
_MOST_PAGES = 10_000  # a slide has some twenty
_ROWS_AT_ONCE = 16  # decoded of a picture that is read from its top
_MOST_PX_AT_ONCE = 16_000_000  # of a level; a larger region that is to be reduced is read in parts

ReadPixels = Callable[[int, int, int, int], np.ndarray]


class StreamedPage:
    """A large picture that is decoded from its top to its end: a JPEG, a PNG, a TIFF in strips.

    Rows must be asked for from the top down, for the file is decoded again where they are not. The rows of the last
    rectangle are kept, over the whole width: another beside it costs nothing.
    """

    REDUCTIONS = (1, 2, 4, 8, 16, 32, 64)

    def __init__(self, path: Path, reductions: tuple[int, ...], options: dict[str, Any]) -> None:
        self.reductions = reductions
        self._path, self._options = path, options
        self._reduction = 0
        self._top = 0
        self._rows = np.empty((0, 0, 3), np.uint8)
        self._region: pyvips.Region = None

    def read(self, x: int, y: int, width: int, height: int, reduction: int = 1) -> np.ndarray:
        """RGB uint8 (height, width, 3) of a rectangle of the reduced picture, all inside it."""
        if reduction != self._reduction or y < self._top:
            image = self._open(reduction)
            if y == 0 and height >= image.height - 1:  # libvips may count a broken pixel at the end
                return np.asarray(image.numpy()[:height, x : x + width])
            self._region, self._reduction, self._top = pyvips.Region.new(image), reduction, 0
            self._rows = np.empty((0, image.width, 3), np.uint8)
        end = self._top + len(self._rows)
        if y + height > end:
            kept = self._rows[y - self._top :]
            new = (
                _fetch(self._region, 0, row, self._rows.shape[1], min(_ROWS_AT_ONCE, y + height - row))
                for row in range(y + len(kept), y + height, _ROWS_AT_ONCE)
            )
            self._rows, self._top = np.concatenate([kept, *new]), y
        return self._rows[y - self._top : y - self._top + height, x : x + width]

    def _open(self, reduction: int) -> pyvips.Image:
        """The picture from its top, reduced as much as the decoder can do itself and the rest by means."""
        options = {"access": "sequential", "fail_on": "error", **self._options}
        image = pyvips.Image.new_from_file(str(self._path), **options)
        in_decoder = 1
        if str(image.get("vips-loader")).startswith("jpeg"):
            in_decoder = min(reduction, 8)
            image = pyvips.Image.jpegload(str(self._path), shrink=in_decoder, **options)
        rest = reduction // in_decoder
        return _as_rgb(image).shrink(rest, rest) if rest > 1 else _as_rgb(image)


class Level(NamedTuple):
    """One resolution of a slide; `read(x, y, width, height)` takes pixels of this level, all inside it.

    `tiled` is the page of a TIFF that has the same pixels, where there is one that can be read by the tile, `streamed`
    what reads a picture that can only be decoded from its top to its end.
    """

    width_px: int
    height_px: int
    read: ReadPixels
    tiled: TiledPage | None = None
    streamed: StreamedPage | None = None

    @property
    def reductions(self) -> tuple[int, ...]:
        """By how much the level can be reduced as it is decoded."""
        faster = self.tiled or self.streamed
        return tuple(sorted({1, *faster.reductions})) if faster is not None else (1,)

    def read_reduced(self, x: int, y: int, width: int, height: int, reduction: int) -> np.ndarray:
        """RGB uint8 (height, width, 3) of a rectangle of this level reduced by one of `reductions`, all inside it."""
        if self.streamed is not None and reduction in self.streamed.reductions:
            return self.streamed.read(x, y, width, height, reduction)
        if self.tiled is not None:
            with suppress(TileError):  # the library tells what is wrong, or knows better
                return self.tiled.read(x, y, width, height, reduction)
        if reduction == 1:
            return self.read(x, y, width, height)
        rows = max(1, _MOST_PX_AT_ONCE // (width * reduction**2))
        parts = [
            self._reduce(x, top, width, min(rows, y + height - top), reduction) for top in range(y, y + height, rows)
        ]
        return np.concatenate(parts)

    def _reduce(self, x: int, y: int, width: int, height: int, reduction: int) -> np.ndarray:
        rgb = self.read(x * reduction, y * reduction, width * reduction, height * reduction)
        return np.asarray(Image.fromarray(rgb).reduce(reduction))


class Slide(NamedTuple):
    """An open slide. Sizes are level-0 pixels.

    `mpp` is µm per level-0 pixel, `magnification` that of the objective it was scanned with; None where unknown.
    """

    path: Path
    width_px: int
    height_px: int
    mpp: float | None
    magnification: float | None
    vendor: str
    levels: tuple[Level, ...]

    def read_region(
        self, x0: float, y0: float, width0_px: float, height0_px: float, out_px: tuple[int, int]
    ) -> np.ndarray:
        """RGB uint8 (out height, out width, 3) of the level-0 rectangle, reduced or enlarged to `out_px`.

        `out_px` is (width, height). What lies outside the slide is white. Raises SlideError where the file
        cannot be decoded.
        """
        if x0 >= self.width_px or y0 >= self.height_px or x0 + width0_px <= 0 or y0 + height0_px <= 0:
            return np.full((out_px[1], out_px[0], 3), 255, np.uint8)
        level, reduction = self.source_for(width0_px / out_px[0])
        scale_x = level.width_px / self.width_px / reduction
        scale_y = level.height_px / self.height_px / reduction
        left, top = x0 * scale_x, y0 * scale_y
        width, height = width0_px * scale_x, height0_px * scale_y
        if abs(width - out_px[0]) < _FULL_SCALE_SLACK_PX and abs(height - out_px[1]) < _FULL_SCALE_SLACK_PX:
            return self.read_level(level, reduction, round(left), round(top), *out_px)
        if width * height > _MOST_PX_AT_ONCE and max(out_px) > 1:
            return self._read_halves(x0, y0, width0_px, height0_px, out_px)
        # A margin of what the filter reaches lets it see across the border, so that neighbours join without a seam.
        margin_x, margin_y = (max(2, math.ceil(each / out)) for each, out in zip((width, height), out_px, strict=True))
        hull_left, hull_top = math.floor(left) - margin_x, math.floor(top) - margin_y
        hull_right = math.ceil(left + width) + margin_x
        hull_bottom = math.ceil(top + height) + margin_y
        hull_px = hull_right - hull_left, hull_bottom - hull_top
        hull = self.read_level(level, reduction, hull_left, hull_top, *hull_px)
        box = (left - hull_left, top - hull_top, left - hull_left + width, top - hull_top + height)
        return resize(hull, out_px, box)

    def read_whole(self, out_px: tuple[int, int]) -> np.ndarray:
        """RGB uint8 (out height, out width, 3) of the whole slide; raises SlideError where it cannot be decoded.

        Unlike a region that ends where the slide does, it has no white of the outside mixed into its border.
        """
        level, reduction = self.source_for(min(self.width_px / out_px[0], self.height_px / out_px[1]))
        width, height = level.width_px // reduction, level.height_px // reduction
        if width * height > _MOST_PX_AT_ONCE:
            return self.read_region(0, 0, self.width_px, self.height_px, out_px)
        return resize(self.read_level(level, reduction, 0, 0, width, height), out_px)

    def _read_halves(
        self, x0: float, y0: float, width0_px: float, height0_px: float, out_px: tuple[int, int]
    ) -> np.ndarray:
        """The region read as two, so that a slide without a pyramid never stands in memory whole."""
        columns, rows = out_px
        if columns >= rows:
            cut = columns // 2
            cut0_px = width0_px * cut / columns
            left = self.read_region(x0, y0, cut0_px, height0_px, (cut, rows))
            right = self.read_region(x0 + cut0_px, y0, width0_px - cut0_px, height0_px, (columns - cut, rows))
            return np.concatenate([left, right], axis=1)
        cut = rows // 2
        cut0_px = height0_px * cut / rows
        top = self.read_region(x0, y0, width0_px, cut0_px, (columns, cut))
        bottom = self.read_region(x0, y0 + cut0_px, width0_px, height0_px - cut0_px, (columns, rows - cut))
        return np.concatenate([top, bottom])

    def source_for(self, downsample: float) -> tuple[Level, int]:
        """The coarsest level that is at least as fine as `downsample` (or nearly so), and by how much to reduce it."""
        most = downsample * _NEARLY
        fine_enough = [each for each in self.levels if self.width_px <= most * each.width_px]
        level = min(fine_enough or self.levels[:1], key=lambda each: each.width_px)
        level_downsample = self.width_px / level.width_px
        smallest = min(level.width_px, level.height_px)
        fitting = [each for each in level.reductions if each <= smallest and each * level_downsample <= most]
        return level, max(fitting, default=1)

    def read_level(self, level: Level, reduction: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """RGB uint8 (height, width, 3) of a rectangle of the reduced level, in its own pixels; white outside of it.

        Raises SlideError where the file cannot be decoded.
        """
        left, top = max(x, 0), max(y, 0)
        # A reduced pixel across the border would be mixed with what a compressed tile holds beyond it.
        right, bottom = min(x + width, level.width_px // reduction), min(y + height, level.height_px // reduction)
        if left >= right or top >= bottom:
            return np.full((height, width, 3), 255, np.uint8)
        try:
            inside = level.read_reduced(left, top, right - left, bottom - top, reduction)
        except (openslide.OpenSlideError, pyvips.Error, TileError) as error:
            raise SlideError(
                f"{str(self.path)!r} is damaged: the pixels at x {left * reduction}, y {top * reduction} of its "
                f"{level.width_px} × {level.height_px} px level cannot be decoded ({_cause(error, self.path)}); "
                "copy or export the file again"
            ) from error
        if inside.shape == (height, width, 3):
            return inside
        out = np.full((height, width, 3), 255, np.uint8)
        out[top - y : bottom - y, left - x : right - x] = inside
        return out


def open_slide(path: str | os.PathLike[str]) -> Slide:
    """The open slide at `path`; raises SlideError where no library can open it."""
    path = Path(path)
    try:
        is_file = path.is_file()
    except OSError:  # its name is too long, or nobody may look into its folder
        is_file = False
    if not is_file:
        raise SlideError(f"no such file: {str(path)!r}; check the path")
    try:
        return _open_with_openslide(path)
    except (openslide.OpenSlideError, pyvips.Error) as error:
        refusal = _cause(error, path)
    pillow_format = _PILLOW_FORMATS.get(path.suffix.lower())
    try:
        return _open_with_vips(path) if pillow_format is None else _open_with_pillow(path, pillow_format)
    except (pyvips.Error, TileError) as error:
        raise SlideError(
            f"{str(path)!r} is no slide that can be read (OpenSlide: {refusal}; "
            f"{'Pillow' if pillow_format else 'libvips'}: {_cause(error, path)}); "
            "it may be cut short or of another format: copy it again or convert it to a pyramidal TIFF"
        ) from error


def series_uid(path: Path) -> str | None:
    """The DICOM series that a file belongs to (one series is one slide), None where it cannot be told."""
    with suppress(openslide.OpenSlideError), openslide.OpenSlide(path) as slide:
        return slide.properties.get("dicom.SeriesInstanceUID")
    return None


def write_pyramid(path: Path, rgb: np.ndarray, mpp: float | None = None, tile_px: int = 256, quality: int = 85) -> None:
    """Write RGB uint8 (H, W, 3) as a tiled pyramidal JPEG TIFF, with its scale in µm per pixel where given."""
    height, width = rgb.shape[:2]
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(rgb).data, width, height, 3, "uchar")
    scale = {} if mpp is None else {"xres": 1000 / mpp, "yres": 1000 / mpp, "resunit": "cm"}
    image.copy(interpretation="srgb").tiffsave(
        str(path), tile=True, tile_width=tile_px, tile_height=tile_px, pyramid=True,
        compression="jpeg", Q=quality, **scale,
    )  # fmt: skip
    if mpp is None:
        erase_resolution(path)  # libvips would have other readers believe in 25.4 dpi


def _open_with_openslide(path: Path) -> Slide:
    slide = openslide.OpenSlide(path)
    properties = slide.properties
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
    is_ycbcr = _is_mislabelled_ycbcr(path, properties)
    background = "#" + properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")

    def reader(index: int) -> ReadPixels:
        scale = slide.level_downsamples[index]

        def read(x: int, y: int, width: int, height: int) -> np.ndarray:
            rgba = slide.read_region((round(x * scale), round(y * scale)), index, (width, height))
            if is_ycbcr:
                rgba = _from_ycbcr(rgba)
            # Parts that the scanner left out are transparent.
            return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB"))

        return read

    pages = _pages_by_size(path) if vendor in _PLAIN_PAGES and background == "#ffffff" else {}

    def level(index: int, size_px: tuple[int, int]) -> Level:
        if size_px not in pages:
            return Level(*size_px, reader(index))
        number, page = pages[size_px]
        if page.tiled is not None:
            page.tiled.blanks = vendor != "aperio" or index == 0
            return Level(*size_px, reader(index), page.tiled)
        if not page.is_rgb or page.compression not in _VIPS_COMPRESSIONS:
            return Level(*size_px, reader(index))
        return _vips_level(path, number, _tiff_page(path, number), page)

    levels = tuple(level(index, size_px) for index, size_px in enumerate(slide.level_dimensions))
    mpp = _number(properties.get(openslide.PROPERTY_NAME_MPP_X), _PLAUSIBLE_MPP)
    magnification = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER), _PLAUSIBLE_MAGNIFICATION)
    return Slide(path, *slide.dimensions, mpp, magnification, vendor, levels)


def _is_mislabelled_ycbcr(path: Path, properties: Mapping[str, str]) -> bool:
    """Whether a DICOM file says that its JPEGs are RGB though they are JFIF, and so YCbCr: OpenSlide believes it."""
    if properties.get("dicom.PhotometricInterpretation") != "RGB":
        return False
    with path.open("rb") as file:
        head = file.read(_DICOM_HEAD_BYTES)
    jpeg = head.find(b"\xff\xd8\xff\xe0")
    return jpeg >= 0 and head[jpeg + 6 : jpeg + 10] == b"JFIF"


def _from_ycbcr(rgba: Image.Image) -> Image.Image:
    """The picture whose red, green and blue are really luma and two chromas, put right."""
    *ycbcr, alpha = rgba.split()
    right = Image.merge("YCbCr", ycbcr).convert("RGB")
    right.putalpha(alpha)
    return right


def _open_with_pillow(path: Path, format: str) -> Slide:
    """A plain picture that libvips does not open here; it is decoded whole when it is first read."""
    try:
        with Image.open(path, formats=[format]) as image:
            width_px, height_px = image.size
    except Image.DecompressionBombError:
        width_px = height_px = _MOST_WHOLE_PX
    except _PILLOW_ERRORS as error:
        raise TileError(str(error)) from error
    if width_px * height_px > _MOST_WHOLE_PX:
        raise SlideError(
            f"{str(path)!r} has more pixels than can be decoded at once in {format} ({_MOST_WHOLE_PX:,}); "
            "convert it to a tiled TIFF"
        )

    @cache
    def decoded() -> np.ndarray:
        try:
            with Image.open(path, formats=[format]) as image:
                return np.asarray(image.convert("RGB"))
        except _PILLOW_ERRORS as error:
            raise TileError(str(error)) from error

    def read(x: int, y: int, width: int, height: int) -> np.ndarray:
        return decoded()[y : y + height, x : x + width]

    return Slide(path, width_px, height_px, None, None, format.lower(), (Level(width_px, height_px, read),))


def _open_with_vips(path: Path) -> Slide:
    pages = read_pages(path)
    _refuse_unknown_compression(path, pages)
    image = pyvips.Image.new_from_file(str(path), fail_on="error")
    loader = str(image.get("vips-loader")).removesuffix("load")
    count = int(image.get("n-pages")) if loader == "tiff" and "n-pages" in image.get_fields() else 1
    if count > _MOST_PAGES:
        raise SlideError(f"{str(path)!r} has {count} pages, and a slide at most {_MOST_PAGES}; take it apart")
    is_photograph = loader != "tiff" or (count == 1 and not any(page.is_tiled for page in pages))
    if is_photograph and "orientation" in image.get_fields() and image.get("orientation") != 1:
        return _turned_upright(path, image, loader)
    images = {0: image, **{index: _tiff_page(path, index) for index in range(1, count)}}
    # A thumbnail may stand before the slide.
    first, image = max(images.items(), key=lambda item: item[1].width * item[1].height)
    reduced = [index for index, each in images.items() if index != first and _is_reduced(each, image)]
    levels = tuple(
        _vips_level(path, index, images[index], pages[index] if index < len(pages) else None)
        for index in (first, *reduced)
    )
    mpp = _number(1000 / image.xres, _PLAUSIBLE_MPP) if image.xres > 0 else None
    return Slide(path, image.width, image.height, mpp, None, loader, levels)


def _turned_upright(path: Path, image: pyvips.Image, vendor: str) -> Slide:
    """A photograph that its camera was not held upright for, decoded whole."""
    if image.width * image.height > _MOST_WHOLE_PX:
        raise SlideError(
            f"{str(path)!r} has more pixels than can be turned upright at once ({_MOST_WHOLE_PX:,}); turn it, or "
            "convert it to a tiled TIFF"
        )
    image = image.autorot()
    level = Level(image.width, image.height, _vips_reader(image))
    return Slide(path, image.width, image.height, None, None, vendor, (level,))


def _pages_by_size(path: Path) -> dict[tuple[int, int], tuple[int, Page]]:
    """The number and the page of each size (width, height), the first one where two have it."""
    pages = list(enumerate(read_pages(path)))
    return {(page.width_px, page.height_px): (number, page) for number, page in reversed(pages)}


def _refuse_unknown_compression(path: Path, pages: list[Page]) -> None:
    """Raises SlideError for a TIFF whose pixels libvips would silently give as black."""
    for page in pages[:1]:
        if page.tiled is None and page.compression not in _VIPS_COMPRESSIONS:
            raise SlideError(
                f"{str(path)!r} has pixels compressed by a method (TIFF code {page.compression}) that neither "
                "OpenSlide nor libvips reads here; convert it to a JPEG pyramid"
            )


def _vips_level(path: Path, index: int, image: pyvips.Image, page: Page | None) -> Level:
    """A page of a file: read by the tile where that is possible, at any place or from its top where it is not."""
    size_px = image.width, image.height
    if page is not None and page.tiled is not None:
        is_read = page.compression in _VIPS_COMPRESSIONS
        return Level(*size_px, _vips_reader(image) if is_read else page.tiled.read, page.tiled)
    if image.width * image.height <= _MOST_PX_AT_ONCE:
        return Level(*size_px, _vips_reader(image))
    options = {"page": index} if str(image.get("vips-loader")).startswith("tiff") else {}
    if page is not None and page.is_tiled:
        return Level(*size_px, _vips_reader(image), streamed=StreamedPage(path, StreamedPage.REDUCTIONS[3:], options))
    streamed = StreamedPage(path, StreamedPage.REDUCTIONS, options)
    return Level(*size_px, streamed.read, streamed=streamed)


def _tiff_page(path: Path, page: int) -> pyvips.Image:
    return pyvips.Image.tiffload(str(path), page=page, fail_on="error")


def _is_reduced(page: pyvips.Image, whole: pyvips.Image) -> bool:
    """Whether a page is the whole picture again at a lower resolution (and not a label or a macro photograph)."""
    if page.width >= whole.width or page.bands != whole.bands:
        return False
    downsample = whole.width / page.width
    return abs(downsample * page.height - whole.height) <= 2 * downsample


def _vips_reader(image: pyvips.Image) -> ReadPixels:
    region = pyvips.Region.new(_as_rgb(image))

    def read(x: int, y: int, width: int, height: int) -> np.ndarray:
        return _fetch(region, x, y, width, height)

    return read


def _as_rgb(image: pyvips.Image) -> pyvips.Image:
    if image.interpretation != "srgb" or image.format != "uchar":
        image = image.colourspace("srgb").cast("uchar")
    image = image.flatten(background=255) if image.hasalpha() else image
    if image.bands != 3:
        raise pyvips.Error(f"it has {image.bands} channels, which are no colours")
    return image


def _fetch(region: pyvips.Region, x: int, y: int, width: int, height: int) -> np.ndarray:
    return np.frombuffer(region.fetch(x, y, width, height), np.uint8).reshape(height, width, 3)


def _number(text: str | float | None, plausible: tuple[float, float]) -> float | None:
    """The number that a file gives, None where it gives none or an impossible one."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if plausible[0] <= value <= plausible[1] else None


def _cause(error: Exception, path: Path) -> str:
    """The line of a library's message that names the cause (libvips begins with what it tried), without the path."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[:2][-1].replace(f'"{path}"', "this").replace(str(path), "this").rstrip(".")
