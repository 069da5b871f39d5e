"""Tables as Parquet files; the only import of pyarrow, which not everybody has."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mil.errors import TableError, cause
from tiling.output import replacing

SUFFIX = ".parquet"
_MOST_BYTES, _MOST_ROWS, _CELL_BYTES = 2**28, 2_000_000, 8
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
        # Not as a data set, which a path with `=` in it would be taken for. Text of which much is the same is small in
        # the file, and is left so until it is known how large it is.
        with parquet.ParquetFile(path) as file:
            text = [
                name
                for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
                if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
            ]
        with parquet.ParquetFile(path, read_dictionary=text) as file:
            _refuse_large(file)
            batches = list(file.iter_batches())
        if sum(map(_bytes_of, batches)) > _MOST_BYTES:
            raise ValueError(f"its text is larger than {_MOST_BYTES // 2**20} MiB")
        return [row for batch in batches for row in batch.to_pylist()]
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise TableError(f"cannot read the table {str(path)!r} ({cause(error)}); check the file") from error


def _refuse_large(file: Any) -> None:
    """Raise ValueError for what its own account of it says is no table of predictions."""
    import pyarrow

    plain = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_dictionary, pyarrow.types.is_null)
    for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True):
        if not any(each(kind) for each in plain):
            raise ValueError(f"its column {name!r} holds {kind}")
    if len({*file.schema_arrow.names}) < len(file.schema_arrow.names):
        raise ValueError("two of its columns have the same name")
    found = file.metadata
    unpacked = sum(found.row_group(place).total_byte_size for place in range(found.num_row_groups))
    cells_bytes = found.num_rows * found.num_columns * _CELL_BYTES
    if found.num_rows > _MOST_ROWS or max(cells_bytes, unpacked) > _MOST_BYTES:
        raise ValueError(f"it says that it holds {found.num_rows} rows of {found.num_columns} columns")


def _bytes_of(batch: Any) -> int:
    """How much text a batch has, written out."""
    import pyarrow
    from pyarrow import compute

    found = 0
    for column in batch.columns:
        if pyarrow.types.is_dictionary(column.type):
            lengths = compute.binary_length(column.dictionary).take(column.indices)
            found += compute.sum(lengths).as_py() or 0
    return found


def _text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose text is all UTF-8, as in a CSV."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
        for name, value in row.items()
    }
