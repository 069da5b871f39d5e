"""Which slides there are: files, folders searched through, and slides tables, each slide once under one name."""

import csv
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tiling.cells import plain
from tiling.errors import InputError
from tiling.names import is_plain
from tiling.progress import short
from tiling.settings import is_mpp
from tiling.slide import EXTENSIONS, series_uid

_LONGEST = 200  # characters of a table that an error repeats


class SlideRef(NamedTuple):
    """A slide to work on; `mpp` is µm per level-0 pixel where a table gives it, `default_mpp` where nothing does."""

    slide_id: str
    path: Path
    mpp: float | None = None
    patient_id: str | None = None
    default_mpp: float | None = None


def find_slides(sources: Iterable[Path], default_mpp: float | None = None) -> list[SlideRef]:
    """The slides that files, folders (searched through) and slides tables (.csv) name, in their order.

    `default_mpp` is µm per level-0 pixel of those that have no other. Raises InputError where a source is missing or
    holds no slide, or where two slides have one name.
    """
    found: list[SlideRef] = []
    sources = list(sources)
    named_dicom = [source for source in sources if source.suffix.lower() == ".dcm" and source.is_file()]
    for source in sources:
        if source.is_dir():
            found += _slides_in_folder(source)
        elif source.suffix.lower() == ".csv" and source.is_file():
            found += _slides_in_table(source)
        elif source in named_dicom:
            continue
        elif source.is_file():
            found.append(SlideRef(source.stem, source))
        else:
            raise InputError(f"no such file or folder: {str(source)!r}; check the path")
    found += _dicom_slides(named_dicom)
    _refuse_duplicates(found)
    return [slide._replace(default_mpp=default_mpp) for slide in found]


def _slides_in_folder(folder: Path) -> list[SlideRef]:
    if found := slides_in(folder):
        return found
    raise InputError(
        f"the folder {str(folder)!r} holds no slide (looked for {' '.join(sorted(EXTENSIONS))}); "
        "give another folder, or the files by name"
    )


def slides_in(folder: Path) -> list[SlideRef]:
    """The slides that a folder has now, searched through; there may be none."""
    files = list(_slide_files(folder))
    dicom = [path for path in files if path.suffix.lower() == ".dcm"]
    return [SlideRef(path.stem, path) for path in files if path not in set(dicom)] + _dicom_slides(dicom)


def _slide_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {Path(name).suffix.lower() for name in names}
        # Beside a Hamamatsu VMS file, JPEGs are its pixels and no slides of their own.
        wanted = EXTENSIONS - {".jpg", ".jpeg"} if suffixes & {".vms", ".vmu"} else EXTENSIONS
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in wanted:
                yield Path(root, name)


def _dicom_slides(files: list[Path]) -> list[SlideRef]:
    """One slide a series: any of its files opens the whole. It has the folder's name where it is alone there."""
    first: dict[tuple[Path, str], Path] = {}
    for path in files:
        first.setdefault((path.parent, _series(path) or path.name), path)
    series_in = [parent for parent, _ in first]
    return [
        SlideRef(parent.resolve().name if series_in.count(parent) == 1 else path.stem, path)
        for (parent, _), path in first.items()
    ]


def _series(path: Path) -> str | None:
    """The DICOM series of a file; a folder that is watched is asked for it often."""
    try:
        state = path.stat()
    except OSError:  # it is gone again
        return None
    return _series_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _series_of(path: Path, size: int, mtime_ns: int) -> str | None:
    return series_uid(path)


def _slides_in_table(table: Path) -> list[SlideRef]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the slides table {str(table)!r} ({short(error, _LONGEST)}); save it as CSV in UTF-8"
        ) from error
    missing = {"slide_id", "path"} - set(columns)
    if missing:
        raise InputError(
            f"the slides table {str(table)!r} lacks the column {' and '.join(sorted(missing))}; "
            f"it has {short(', '.join(columns), _LONGEST) or 'none'}"
        )
    if not rows:
        raise InputError(f"the slides table {str(table)!r} has no rows; add a row a slide")
    return [_slide_of_row(table, number, row) for number, row in enumerate(rows, start=2)]


def _slide_of_row(table: Path, number: int, row: dict[str, str]) -> SlideRef:
    slide_id, path = plain(row["slide_id"] or ""), plain(row["path"] or "")
    where = f"row {number} of the slides table {str(table)!r}"
    if not path.strip():
        raise InputError(f"{where} has no path; fill it in or delete the row")
    if "\0" in path:
        raise InputError(f"{where} has the path {short(path, _LONGEST)!r}, which cannot be that of a file")
    if not is_plain(slide_id):
        raise InputError(f"{where} has the slide_id {short(slide_id, _LONGEST)!r}, which cannot be the name of a file")
    try:
        mpp = float(row["mpp"]) if row.get("mpp") else None
    except ValueError:
        raise InputError(
            f"{where} has the mpp {short(row['mpp'], _LONGEST)!r}; give µm per pixel as a number, or leave it empty"
        ) from None
    if mpp is not None and not is_mpp(mpp):
        raise InputError(f"{where} has the mpp {mpp}; give µm per pixel, such as 0.25, or leave it empty")
    # A blank too many would make another patient, whom no fold has held out; labels tables are read so too.
    patient_id = plain((row.get("patient_id") or "").strip())
    return SlideRef(slide_id, table.parent / path, mpp, patient_id or None)


def _refuse_duplicates(slides: list[SlideRef]) -> None:
    seen: dict[str, Path] = {}
    for slide in slides:
        if slide.slide_id in seen:
            raise InputError(
                f"two slides have the name {short(slide.slide_id, _LONGEST)!r}: "
                f"{short(seen[slide.slide_id], _LONGEST)!r} and {short(slide.path, _LONGEST)!r}; rename one, or give a "
                "table with the columns slide_id and path"
            )
        seen[slide.slide_id] = slide.path
