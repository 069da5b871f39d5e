"""What an examination found: lines for a reader, problems that it lists to the last, and what is worth knowing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mil.errors import MilError
from tiling.errors import TilingError
from tiling.progress import visible

T = TypeVar("T")
SHOWN = 10  # of a list


@dataclass
class Report:
    """What was found, line by line; what a training would refuse, each in a sentence; and what a user should know."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether training could start."""
        return not self.problems

    def __str__(self) -> str:
        return visible("\n".join(self._parts()), but="\n")

    def _parts(self) -> list[str]:
        parts = list(self.lines)
        if self.notes:
            parts += ["", "worth knowing:", *(f"- {note}" for note in self.notes)]
        if self.healthy:
            return [*parts, "", "nothing stands in the way of this training"]
        count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "one problem"
        return [*parts, "", f"{count}:", *(f"{n}. {visible(text)}" for n, text in enumerate(self.problems, 1))]

    def attempt(self, work: Callable[[], T]) -> T | None:
        """What `work` gives, or None where it raises an error of a user's, which becomes a problem."""
        try:
            return work()
        except (MilError, TilingError) as error:
            self.problems.append(str(error))
            return None


def some(texts: Sequence[str]) -> list[str]:
    """The first ten of a list and, where there are more, how many."""
    return [*texts[:SHOWN], *([f"… and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else [])]
