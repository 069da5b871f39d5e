"""Tables as Parquet files; the only import of pyarrow, which not everybody has."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mil.errors import TableError, cause
from tiling.output import replacing

SUFFIX = ".parquet"
_TYPES = {int: "int64", float: "float64", str: "string"}


def is_parquet(path: Path) -> bool:
    """Whether a table of that name is a Parquet file; raises TableError where it is and there is no pyarrow."""
    if path.suffix.lower() != SUFFIX:
        return False
    if find_spec("pyarrow") is None:
        raise TableError(
            f"{str(path)!r} is a Parquet file, and these need pyarrow: pip install 'gigabag[parquet]', or name it .csv"
        )
    return True


def write_parquet(path: Path, columns: Mapping[str, type], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of int, float or str, whole or not at all; None is null."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(_TYPES[kind])) for name, kind in columns.items()])
    table = pyarrow.Table.from_pylist([_text(row) for row in rows], schema)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; raises TableError where it is none."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Not as a data set, which a path with `=` in it would be taken for.
        return parquet.ParquetFile(path).read().to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"cannot read the table {str(path)!r} ({cause(error)}); check the file") from error


def _text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose text is all UTF-8, as in a CSV."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
        for name, value in row.items()
    }
