"""The same rows as in a CSV, of the types they are; without pyarrow a sentence says so."""

from pathlib import Path

import numpy as np
import pytest

from mil import parquet
from mil.errors import TableError
from mil.parquet import is_parquet
from mil.predictions import failed_row, read_rows, score_columns, score_row, write_rows
from mil.task import Task

TASK = Task(("0", "1"))


def test_rows_come_back(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as reader

    rows = [
        score_row("=a", "p\rq", TASK, "abc", 16, np.array([1 / 3, 2 / 3]), 0.1),
        failed_row("a\udce9", "q", TASK, "abc", np.array([0.25, 0.75]), "lost"),
    ]
    folder = tmp_path / "part=1"  # which data sets would take for a column
    folder.mkdir()
    for rows_there in (rows, []):
        path = folder / "scores.PARQUET"
        write_rows(path, score_columns(TASK), rows_there)
        assert read_rows(path) == rows_there
        schema = reader.read_schema(path)
        assert schema.field("tiles").type == pyarrow.int64()
        assert schema.field("uncertainty").type == schema.field("prob_1").type == pyarrow.float64()
        assert [path.name for path in folder.iterdir()] == ["scores.PARQUET"]


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "scores.parquet").write_text("slide_id\n")
    with pytest.raises(TableError, match="cannot read the table .*scores.parquet"):
        read_rows(tmp_path / "scores.parquet")


def test_what_is_larger_than_it_looks(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    path = tmp_path / "scores.parquet"
    for columns, sentence in (
        ({"slide_id": ["x" * 10**6] * 1000}, "its text is larger than 256 MiB"),  # a thousand times the same
        ({"slide_id": pyarrow.nulls(3_000_000)}, "it says that it holds 3000000 rows of 1 columns"),
        ({"slide_id": [["a"]]}, "its column 'slide_id' holds list"),
        ({"slide_id": [{"a": 1}]}, "its column 'slide_id' holds struct"),
        ({"slide_id": [1]}, "the column 'slide_id' has '1', which is no text"),
        ({"slide_id": ["a"], "tiles": ["b"]}, "the column 'tiles' has 'b', which it cannot have"),
        ({"slide_id": ["a"], "prob_0": [float("nan")]}, "the column 'prob_0' has 'nan', which it cannot have"),
    ):
        writer.write_table(pyarrow.table(columns), path)
        assert path.stat().st_size < 2**20
        with pytest.raises(TableError, match=sentence):
            read_rows(path)


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "find_spec", lambda _: None)
    assert not is_parquet(Path("scores.csv"))
    with pytest.raises(TableError, match=r"'scores.parquet' is a Parquet file, .* pip install 'gigabag\[parquet\]'"):
        is_parquet(Path("scores.parquet"))
