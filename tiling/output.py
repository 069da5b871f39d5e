"""Where results go: folders that can be written, files that appear whole or not at all."""

import csv
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

from tiling.cells import guarded
from tiling.errors import InputError

_TEMPORARY = ".tmp"
_A_DAY_S = 86400.0


def make_writable(folder: Path) -> None:
    """Make the folder where it is missing; raises InputError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {str(folder)!r} ({error.strerror}); choose another place for the output"
        ) from error


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes left in `folder`: those of this machine, and those a day old.

    Where that is not possible they stay.
    """
    for path in folder.glob(f".*.*{_TEMPORARY}"):
        name, _, pid = path.name.removesuffix(_TEMPORARY).rpartition(".")
        with suppress(OSError):
            here = name.endswith(f".{socket.gethostname()}")
            if pid.isdigit() and (not _is_running(int(pid)) if here else _is_old(path)):
                _remove(path)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _A_DAY_S


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, for another user
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    The name holds host and process, for two machines may write the same bag at once.
    """
    with _temporary(path) as temporary:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Like `replacing`, but a `path` that is there already stays: of several jobs the first one's."""
    with _temporary(path) as temporary:
        yield temporary
        _to_disk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a disk without links
            os.replace(temporary, path)


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` for this process alone, gone when the block ends; `sweep` takes what a killed one left.

    For libraries that write under temporary names of their own.
    """
    with _temporary(parent / "folder") as folder:
        folder.mkdir()
        yield folder


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def written_name(name: str) -> str:
    """A name as it stands in a table: what is not text in UTF-8 is escaped there."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class _Plain(csv.excel):
    lineterminator = "\n"


class _Quoted(_Plain):
    quoting = csv.QUOTE_ALL


def csv_line(cells: Iterable[object]) -> str:
    """A row of a CSV with its line feed; no spreadsheet runs what is in it (see `tiling.cells`)."""
    safe = [guarded(cell) for cell in cells]
    # A lone carriage return ends a row for readers, and the writer does not quote it.
    dialect = _Quoted if any("\r" in str(cell) for cell in safe) else _Plain
    line = StringIO()
    csv.writer(line, dialect).writerow(safe)
    return line.getvalue()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text in UTF-8, whole or not at all; what is no text is escaped as in `written_name`."""
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(lines)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV, whole or not at all."""
    write_lines(path, map(csv_line, chain([header], rows)))
