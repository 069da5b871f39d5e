"""Folders that results go to."""

from pathlib import Path
from tempfile import TemporaryFile

from tiling.errors import InputError


def make_writable(folder: Path) -> None:
    """Make the folder where it is missing; raises InputError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {str(folder)!r} ({error.strerror}); choose another place for the output"
        ) from error
