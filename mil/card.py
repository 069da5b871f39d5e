"""The parts of a model card: what is said of a run or an ensemble in its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mil.task import Task


class Figure(NamedTuple):
    """A metric by slide and by patient, each {value, low, high, baseline} as metrics.json has it, and what is told.

    `verdict` is `better` or `worse` than the constant answer where the interval lies beyond it, else `open`; it is
    empty where the two cannot be compared.
    """

    name: str
    slides: Mapping[str, Any]
    patients: Mapping[str, Any]
    verdict: str


class Plot(NamedTuple):
    """A picture: its file, its size in pixels, and what it shows."""

    file: str
    width: int
    height: int
    words: str


class Fold(NamedTuple):
    """A fold: its name, how many slides and patients it tested, and two figures by slide, None where there are none."""

    name: str
    slides: Any
    patients: Any
    auc: float | None
    log_loss: float | None


class ClassRow(NamedTuple):
    """A class in the training data: slides and patients with it, and the AUC of it against the rest, by slide."""

    name: str
    slides: int
    patients: int
    auc: Mapping[str, Any]


@dataclass
class About:
    """All that a model card says of a run or an ensemble in a folder; lists that are empty are not shown.

    `prior` are the class shares (K,) for which probabilities were corrected, None where that was not done.
    """

    folder: Path
    kind: str
    name: str
    task: Task
    model: list[tuple[str, str]]
    prior: Sequence[float] | None = None
    slides: int = 0
    patients: int = 0
    left_out: int = 0
    skipped: int = 0
    classes: list[ClassRow] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    interval: str = ""
    positive: str | None = None
    sources: list[tuple[str, str]] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    plots: list["Plot"] = field(default_factory=list)

    @property
    def by_patient(self) -> bool:
        """Whether figures by patient are others than those by slide."""
        return self.patients != self.slides
