"""Which part of a batch is this process's: shards are assigned, so no two ever write one file and nothing is locked."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tiling.errors import InputError

if TYPE_CHECKING:  # readers of manifests need no decoder of slides
    from tiling.sources import SlideRef


class Shard(NamedTuple):
    """One of `of` equal parts of a batch, counted from 1; 1/1 is the whole."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def pick(self, slides: "Sequence[SlideRef]") -> "list[SlideRef]":
        """The slides of this shard: every `of`-th by name, whatever order they were found in."""
        return sorted(slides, key=lambda slide: slide.slide_id)[self.number - 1 :: self.of]


WHOLE = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """The shard that `I/N` means; raises InputError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard is I/N with I from 1 to N, such as 1/4, not {text!r}")
    return Shard(int(found[1]), int(found[2]))


def shard_of_array(environ: Mapping[str, str]) -> Shard:
    """The shard that an element of a Slurm array has, the whole where there is no array.

    Raises InputError where the array does not say how many shards there are: one with gaps, or of one element, which
    is how one element of a larger array is run again.
    """
    names = ("ID", "COUNT", "MIN", "MAX")
    values = [environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names]
    if not all(value.isdigit() for value in values):
        return WHOLE
    element, count, first, last = map(int, values)
    if count == 1 or last - first + 1 != count:
        raise InputError(
            f"the Slurm array has {count} element{'s' * (count > 1)} from {first} to {last}, which does not say what "
            f"part of the slides element {element} has; give --shard I/N, or --shard 1/1 for all of them"
        )
    return Shard(element - first + 1, count)
