"""The tables of all shards make that of one run, and nothing less than all of them does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mil import merge
from mil.origin import Origin, slides_named
from mil.predictions import failed_row, score_columns, score_row
from mil.score_table import begin, shard_path
from mil.task import Task
from tiling.shards import Shard

TASK = Task(("0", "1"))
NAMES = ["a", "=b", "c", "d", "e"]
ORIGIN = Origin("abc", TASK, {"default_mpp": None}, slides_named(NAMES))


def write(path: Path, names: list[str], origin: Origin) -> None:
    with begin(path, score_columns(TASK), origin, resume=False) as table:
        for name in names:
            prior = np.array([0.25, 0.75])
            table.add(
                failed_row(name, "p", TASK, origin.model, prior, "lost")
                if name == "e"
                else score_row(name, "p", TASK, origin.model, 4, np.array([len(name), 1]) / (len(name) + 1), 1 / 3)
            )


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """Three parts of a table; that of the whole is one.csv."""
    write(tmp_path / "one.csv", NAMES, ORIGIN)
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    paths = [shard_path(tmp_path / "scores.csv", shard) for shard in shards]
    for shard, path in zip(shards, paths, strict=True):
        write(path, sorted(NAMES)[shard.number - 1 :: 3], replace(ORIGIN, shard=shard))
    return list(map(str, paths))


@pytest.fixture
def refused(parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*arguments: str) -> str:
        assert merge.main([*arguments, "--out", str(tmp_path / "all.csv")]) == 2
        assert not (tmp_path / "all.csv").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refused


def test_what_the_shards_did_not_begin_cannot_be_ended(
    parts: list[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "no report was begun in" in refused(*parts, "--report", str(tmp_path))
    assert "are for the table of --patients; give that too" in refused(*parts, "--patient-rule", "max")


@pytest.mark.parametrize("order", [1, -1])
def test_bytes_are_those_of_one_run(parts: list[str], tmp_path: Path, order: int) -> None:
    out = tmp_path / "sub" / "all.csv"
    assert merge.main([*parts[::order], "--out", str(out), "--patients", str(tmp_path / "patients.csv")]) == 1
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert (out.parent / "all.csv.json").read_bytes() == (tmp_path / "one.csv.json").read_bytes()
    assert (tmp_path / "patients.csv").read_text().splitlines()[1].startswith("p,ok,4,16,")


def test_parts_of_one_another(parts: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    assert "of the 3 shards there is no shard 2; give the table of each once" in refused(parts[0], parts[2])
    assert "is that of a whole scoring; give those that --shard I/N wrote" in refused(str(tmp_path / "one.csv"))
    twice = shard_path(tmp_path / "again.csv", Shard(1, 3))
    write(twice, ["a"], replace(ORIGIN, shard=Shard(1, 3)))
    assert "there is shard 1 twice" in refused(*parts, str(twice))
    write(twice, ["a"], replace(ORIGIN, shard=Shard(1, 4)))
    assert "was made with another shard" in refused(parts[1], str(twice))
    write(twice, ["a"], replace(ORIGIN, model="def", shard=Shard(1, 3)))
    assert "was made with another model" in refused(parts[1], parts[2], str(twice))
    write(twice, ["a"], replace(ORIGIN, slides=slides_named("ab"), shard=Shard(1, 3)))
    assert "was made with other slides" in refused(parts[1], parts[2], str(twice))


def test_a_shard_that_was_killed(parts: list[str], refused: Callable[..., str]) -> None:
    part = Path(parts[1])
    part.write_text("\n".join(part.read_text().splitlines()[:-1]) + "\n")
    assert "the tables have 4 slides together, and 5 were to be scored; run the shard" in refused(*parts)


def test_tables_that_were_changed(parts: list[str], refused: Callable[..., str]) -> None:
    part = Path(parts[1])
    whole = part.read_text()
    part.write_text(Path(parts[0]).read_text())
    assert "both have the slide '=b'; score again" in refused(*parts)
    for other in (
        whole.replace(",abc,", ",def,"), whole.replace("slide_id", "name"), whole.replace(",ok,", ",fine,"),
        whole.replace(",4,", ",,"),
    ):  # fmt: skip
        assert other != whole
        part.write_text(other)
        assert "is not as it was written; score its shard again" in refused(*parts)


def test_nothing_is_replaced_unasked(parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.csv"
    out.write_text("mine")
    assert merge.main([*parts, "--out", str(out)]) == 2
    assert "all.csv' exists; choose another place, or --overwrite it" in capsys.readouterr().err
    assert merge.main([*parts, "--out", str(out), "--overwrite"]) == 1
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
