"""manifest.csv beside the bags: what became of each slide."""

import csv
from pathlib import Path
from typing import NamedTuple

from tiling.errors import InputError
from tiling.output import write_table

MANIFEST = "manifest.csv"


class ManifestRow(NamedTuple):
    """What became of a slide: `status` is done, empty (no tissue) or failed, and then `error` says why."""

    slide_id: str
    path: str
    status: str
    tiles: int
    seconds: float
    error: str


def read_manifest(folder: Path) -> dict[str, ManifestRow]:
    """The rows of a folder's manifest by slide_id; none where there is no manifest."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["slide_id"]: ManifestRow(
                    row["slide_id"], row["path"], row["status"], int(row["tiles"]), float(row["seconds"]), row["error"]
                )
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{str(path)!r} is no manifest of this program ({error}); delete it") from error


def write_manifest(folder: Path, rows: dict[str, ManifestRow]) -> None:
    """Write the manifest, sorted by slide_id, whole or not at all."""
    table = [rows[slide_id]._replace(seconds=round(rows[slide_id].seconds, 3)) for slide_id in sorted(rows)]
    write_table(folder / MANIFEST, ManifestRow._fields, table)
