"""Shards cover every slide once, and an array that does not say how it cuts is refused."""

from pathlib import Path

import pytest

from tiling.errors import InputError
from tiling.shards import WHOLE, Shard, parse_shard, shard_of_array
from tiling.sources import SlideRef

SLIDES = [SlideRef(name, Path(name)) for name in "gfedcba"]


def array(element: int, count: int, first: int, last: int) -> dict[str, str]:
    values = {"ID": element, "COUNT": count, "MIN": first, "MAX": last}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def names(shard: Shard) -> str:
    return "".join(slide.slide_id for slide in shard.pick(SLIDES))


def test_parts_are_disjoint_and_whole() -> None:
    assert [names(Shard(number, 3)) for number in (1, 2, 3)] == ["adg", "be", "cf"]
    assert names(WHOLE) == "abcdefg"
    assert [names(Shard(number, 9)) for number in (7, 8, 9)] == ["g", "", ""]


def test_parse() -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    assert parse_shard("1/1") == WHOLE


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", "-1/4", "1/4/2", ""])
def test_wrong_shard(text: str) -> None:
    with pytest.raises(InputError, match=r"--shard is I/N with I from 1 to N"):
        parse_shard(text)


def test_array() -> None:
    assert shard_of_array({}) == WHOLE
    assert [shard_of_array(array(i, 4, 0, 3)) for i in range(4)] == [Shard(i, 4) for i in (1, 2, 3, 4)]
    assert shard_of_array(array(12, 5, 10, 14)) == Shard(3, 5)


@pytest.mark.parametrize("values", [(3, 3, 1, 5), (7, 1, 7, 7), (1, 1, 1, 1)])
def test_array_that_does_not_say_how_it_cuts(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match=r"which does not say what part .* give --shard I/N"):
        shard_of_array(array(*values))
