"""What is predicted of a slide: one of several classes, any of several labels, or each class against the normal one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

ONE_OF: Final = "one of"
ANY_OF: Final = "any of"
ONE_VS_NORMAL: Final = "one vs normal"


@dataclass(frozen=True)
class Task:
    """The classes, in the order of the probabilities, and how they relate.

    - `one of`: every slide has one class; a softmax over K logits.
    - `any of`: each class is a label of its own that a slide has or not; K logits, a sigmoid each.
    - `one vs normal`: every slide has one class, and each other class is told from `normal` alone, by a logistic
      regression that the slides of third classes do not touch; K - 1 logits, in the order of the other classes. Such
      a logit is that of a multinomial model whose reference is the normal class (Begg and Gray 1984), so that
      the probabilities are a softmax over them and a zero for it.
    """

    classes: tuple[str, ...]
    kind: Literal["one of", "any of", "one vs normal"] = "one of"
    normal: str | None = None

    @classmethod
    def from_json(cls, content: Any) -> "Task":
        """The task that `dataclasses.asdict` made JSON of; raises KeyError, TypeError or ValueError if it is none."""
        classes, kind, normal = content["classes"], content.get("kind", ONE_OF), content.get("normal")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are no list of names")
        if len(classes) < 2 or len({*classes}) < len(classes):
            raise ValueError("its classes are not two or more, each with a name of its own")
        "".join(classes).encode()  # a ValueError for what no file can hold
        if kind not in (ONE_OF, ANY_OF, ONE_VS_NORMAL):
            raise ValueError(f"{str(kind)[:80]!r} is no kind of task")
        if (normal is not None or kind == ONE_VS_NORMAL) and normal not in classes:
            raise ValueError("its normal class is none of its classes")
        return cls(tuple(classes), kind, normal)

    @property
    def logits(self) -> int:
        """How many logits the head gives."""
        return len(self.classes) - (self.kind == ONE_VS_NORMAL)

    @property
    def normal_index(self) -> int:
        """The place of the normal class."""
        assert self.normal is not None, "only one vs normal has a normal class"
        return self.classes.index(self.normal)

    def predicted(self, chances: Sequence[float] | np.ndarray) -> str:
        """The class of the highest probability, or all labels of at least one half, joined by semicolons."""
        if self.kind == ANY_OF:
            return joined(name for name, chance in zip(self.classes, chances, strict=True) if chance >= 0.5)
        return self.classes[int(np.argmax(chances))]

    def in_words(self, chances: Sequence[float] | np.ndarray) -> str:
        """What is predicted and how probable it is, for a title."""
        if self.kind == ANY_OF:
            return ", ".join(f"{name} {chance:.3f}" for name, chance in zip(self.classes, chances, strict=True))
        return f"class {self.predicted(chances)} with probability {np.max(chances):.3f}"


def joined(names: Iterable[str]) -> str:
    """Several labels in one cell of a table."""
    return ";".join(names)
