"""The table of slides on the first page of a report: its columns, its rows in order, what can be filtered by."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mil.predictions import OK
from mil.task import ANY_OF, ONE_VS_NORMAL, Task, joined

FEW_CLASSES = 6  # with more, the table needs a window of its own


class Column(NamedTuple):
    """A column: its key, its heading, what kind of value it has, and whether narrow screens leave it out."""

    key: str
    heading: str
    kind: str = "text"
    minor: bool = False
    explained: str = ""


def score_name(task: Task) -> str:
    """What the score of a slide is the probability of, for a heading."""
    if len(task.classes) == 2 and task.kind != ANY_OF:
        return task.classes[_positive(task)]
    if task.kind == ONE_VS_NORMAL:
        return f"not {task.normal}"
    return "the likeliest label" if task.kind == ANY_OF else "the class predicted"


def score_of(task: Task, chances: Sequence[float]) -> float:
    """The figure by which slides are put in order, in 0 to 1.

    Of two classes the probability of the positive one; with a normal class among more, that of any other; else the
    highest.
    """
    if len(task.classes) == 2 and task.kind != ANY_OF:
        return float(chances[_positive(task)])
    if task.kind == ONE_VS_NORMAL:
        return float(1 - chances[task.normal_index])
    return float(np.max(chances))


def chances_of(task: Task, row: Mapping[str, Any]) -> list[float] | None:
    """The probabilities of a row of a predictions table, None for a slide that failed, whatever stands there."""
    if row["status"] != OK:
        return None
    chances = [_float(row.get(f"prob_{name}")) for name in task.classes]
    return None if None in chances else [chance for chance in chances if chance is not None]


def columns(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that say something of rows that `ordered` gave; the slide itself comes before them."""
    found = [Column("score", f"Probability of {score_name(task)}", "score")]
    if any(row["outcome"] for row in rows):
        found.append(Column("outcome", "Outcome"))
    if any("label" in row for row in rows):
        found.append(Column("label", "Label"))
    found.append(Column("decided", "Predicted"))
    if any(row["uncertainty"] is not None for row in rows):
        found.append(Column("uncertainty", "Uncertainty", "number", explained="spread over the members"))
    if len(task.classes) > 2 or task.kind == ANY_OF:
        found += [Column(f"prob_{name}", name, "number", True, "probability") for name in task.classes]
    found.append(Column("status", "Status", minor=True))
    if any("fold" in row for row in rows):
        found.append(Column("fold", "Fold", minor=True))
    found.append(Column("tiles", "Tiles", "count", True))
    if any(row.get("patient_id", row["slide_id"]) != row["slide_id"] for row in rows):
        found.append(Column("patient_id", "Patient", minor=True))
    return found


def ordered(task: Task, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what the table says of them, the highest score first.

    To each are added `score`, `chances` (K), `classes` (the places of what is predicted), `decided` (its name), and
    `outcome` (right, wrong, or empty): a row may have `truth`, for each class whether it is true, None where that is
    unknown.
    """
    complete = [_completed(task, row) for row in rows]
    return sorted(complete, key=lambda row: (row["score"] is None, -(row["score"] or 0), row["slide_id"]))


def counts(task: Task, rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, int]]:
    """How many rows have each value of a column, in the order of the classes or of the alphabet; none is left out."""
    if key == "classes":
        return [(name, sum(place in row["classes"] for row in rows)) for place, name in enumerate(task.classes)]
    values = [str(row[key]) for row in rows if row.get(key)]
    return [(value, values.count(value)) for value in sorted(set(values))]


def _completed(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    chances = chances_of(task, row)
    predicted = [] if chances is None else _places(task, chances)
    known = (
        []
        if chances is None
        else [(place, true) for place, true in enumerate(row.get("truth", ())) if true is not None]
    )
    right = all((place in predicted) == true for place, true in known)
    outcome = ("right" if right else "wrong") if known else ""
    score = None if chances is None else score_of(task, chances)
    return {
        **row,
        **{f"prob_{name}": chance for name, chance in zip(task.classes, chances or (), strict=False)},
        "uncertainty": _float(row.get("uncertainty")), "score": score, "chances": chances, "classes": predicted,
        "decided": joined(task.classes[place] for place in predicted), "outcome": outcome,
    }  # fmt: skip


def _places(task: Task, chances: Sequence[float]) -> list[int]:
    if task.kind == ANY_OF:
        return [place for place, chance in enumerate(chances) if chance >= 0.5]
    return [int(np.argmax(chances))]


def _positive(task: Task) -> int:
    return 1 - task.normal_index if task.kind == ONE_VS_NORMAL else 1


def _float(value: Any) -> float | None:
    """A number that may be text, None where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
