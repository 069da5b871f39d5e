"""Where bags are: a folder of them, or one merged file. Whoever takes bags takes both, through `open_bags`.

A folder of feature files is listed in the same way; `tiling.features.is_features` tells which a file is.
"""

from pathlib import Path
from typing import NamedTuple

from tiling.bag import SUFFIX, BagRef, bag_path, merged_ref, read_merged
from tiling.errors import BagError, InputError
from tiling.manifest import NOT_TILED, ManifestRow, checked, read_manifest
from tiling.names import is_plain
from tiling.progress import short

NO_FILE = "there is no file of that name"
_LONGEST = 200  # characters of a manifest that an error repeats
_CLAM_FEATURES = "h5_files"


class Bags(NamedTuple):
    """The bags in a folder or a merged file by name, sorted, and the rows of its manifest.

    Nothing is held open; it can be sent to another process.
    """

    path: Path
    refs: dict[str, BagRef]
    manifest: dict[str, ManifestRow]

    def why_missing(self, name: str) -> str:
        """Why there is no bag of that name."""
        if name not in self.manifest:
            return NOT_TILED if self.manifest else NO_FILE
        return self.manifest[name].error or "its bag is gone"


def open_bags(path: Path) -> Bags:
    """The bags, or feature files, at `path`.

    Raises InputError where there is nothing, BagError where a file is no merged file.
    """
    if path.is_dir():
        names = _names(path)
        if not names and (path / _CLAM_FEATURES).is_dir():  # beside pt_files, in the folder that CLAM is given
            path = path / _CLAM_FEATURES
            names = _names(path)
        return Bags(path, {name: ref_in(path, name) for name in names}, read_manifest(path))
    if not path.exists():
        raise InputError(
            f"no such folder of bags: {str(path)!r} (nor a merged file); check the path, or make it with "
            "`python -m tiling SLIDES --out BAGS`"
        )
    names, rows = read_merged(path)
    try:
        manifest = {row["slide_id"]: checked(ManifestRow(**row, seconds=0.0)) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise BagError(
            f"{str(path)!r} has a manifest that cannot be read ({short(error, _LONGEST)}); merge the bags again"
        ) from error
    return Bags(path, {name: ref_in(path, name) for name in names}, manifest)


def ref_in(path: Path, name: str) -> BagRef:
    """Where the bag of that name is in a folder of bags or a merged file."""
    return BagRef(bag_path(path, name)) if path.is_dir() else merged_ref(path, name)


def _names(folder: Path) -> list[str]:
    names = (each.name.removesuffix(SUFFIX) for each in folder.glob(f"*{SUFFIX}"))
    return sorted(name for name in names if is_plain(name))


def portable(manifest: dict[str, ManifestRow]) -> list[dict[str, object]]:
    """The rows of a manifest as a merged file keeps them: without seconds, for the same bags give the same bytes.

    A note that says nothing is left out too, for older versions know of none.
    """
    rows = [manifest[name]._asdict() for name in sorted(manifest)]
    return [
        {key: value for key, value in row.items() if key != "seconds" and (key, value) != ("note", "")} for row in rows
    ]
