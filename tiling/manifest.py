"""manifest.csv beside the bags, one for each shard: what became of each slide."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from tiling.cells import plain
from tiling.errors import InputError
from tiling.names import is_plain
from tiling.output import write_table
from tiling.progress import short
from tiling.shards import WHOLE, Shard

MANIFEST = "manifest.csv"
NOT_TILED = "it was never tiled; run `python -m tiling` again"

_NAME = re.compile(r"manifest(?:-(\d+)-of-(\d+))?\.csv")


_LONGEST = 200  # characters of a manifest that an error repeats
STATUSES = ("done", "empty", "failed", "waiting")


class ManifestRow(NamedTuple):
    """What became of a slide; `error` says why it has no bag, `note` what is to be known of one that it has.

    `status` is done, empty (no tissue), failed, or waiting (the batch has not come to it yet, or was ended before).
    What in a note holds for its slide alone, such as a figure, stands in brackets.
    """

    slide_id: str
    path: str
    status: str
    tiles: int
    seconds: float
    error: str
    note: str = ""

    @property
    def kind_of_note(self) -> str:
        """The note without what is in brackets, the same for all slides to which the same has happened."""
        return re.sub(r" *\([^()]*\)", "", self.note)


def checked(row: ManifestRow) -> ManifestRow:
    """The row; raises ValueError where it is of other types, or its slide_id cannot be the name of a file."""
    for name, kind in ManifestRow.__annotations__.items():
        value = getattr(row, name)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"a row has the {name} {value!r}")
    if not is_plain(row.slide_id):
        raise ValueError(f"a row has the slide_id {row.slide_id!r}, which cannot be the name of a file")
    if row.status not in STATUSES:
        raise ValueError(f"a row has the status {row.status!r}, none of {', '.join(STATUSES)}")
    return row


class Manifest(NamedTuple):
    """One manifest of a folder, the shard that wrote it, and when (seconds since 1970)."""

    shard: Shard
    written_s: float
    rows: dict[str, ManifestRow]


def manifest_name(shard: Shard) -> str:
    """The name of a shard's manifest: each has its own, so that no two jobs write one file."""
    return MANIFEST if shard == WHOLE else f"manifest-{shard.number}-of-{shard.of}.csv"


def read_manifests(folder: Path) -> list[Manifest]:
    """The manifests of a folder, the last written last."""
    names = {path: found for path in folder.glob("manifest*.csv") if (found := _NAME.fullmatch(path.name))}
    manifests = [
        Manifest(Shard(int(found[1]), int(found[2])) if found[1] else WHOLE, path.stat().st_mtime, _read(path))
        for path, found in sorted(names.items())
    ]
    return sorted(manifests, key=lambda manifest: manifest.written_s)


def read_manifest(folder: Path) -> dict[str, ManifestRow]:
    """The rows of all manifests of a folder by slide_id; of two rows for a slide, that of the file written last."""
    return {slide_id: row for manifest in read_manifests(folder) for slide_id, row in manifest.rows.items()}


def read_own(folder: Path, shard: Shard) -> dict[str, ManifestRow]:
    """The rows of one shard's manifest; none where there is no such file."""
    path = folder / manifest_name(shard)
    return _read(path) if path.exists() else {}


def write_manifest(folder: Path, rows: dict[str, ManifestRow], shard: Shard = WHOLE) -> None:
    """Write the manifest, sorted by slide_id, whole or not at all."""
    table = [rows[slide_id]._replace(seconds=round(rows[slide_id].seconds, 3)) for slide_id in sorted(rows)]
    write_table(folder / manifest_name(shard), ManifestRow._fields, table)


def _read(path: Path) -> dict[str, ManifestRow]:
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{str(path)!r} is no file, and so no manifest; delete it")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                plain(row["slide_id"]): checked(
                    ManifestRow(
                        plain(row["slide_id"]),
                        plain(row["path"]),
                        row["status"],
                        int(row["tiles"]),
                        float(row["seconds"]),
                        plain(row["error"]),
                        plain(row.get("note") or ""),  # older manifests have none
                    )
                )
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} is no manifest of this program ({short(error, _LONGEST)}); delete it"
        ) from error
