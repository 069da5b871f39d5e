"""The report of scores: a page for each slide, a table of them all, and the model card; opened from disk by a browser.

- index.html: the table; written last, so that all it links to is there
- model.html, model/: the model card and its plots; written first
- slides/NAME.html, slides/NAME/: a slide's page and its pictures; NAME is `mil.markup.file_name` of its slide_id
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mil.about import copy_plots
from mil.about_ensemble import about_all
from mil.card import About
from mil.errors import cause
from mil.listing import FEW_CLASSES, columns, counts, ordered
from mil.markup import file_name, open_folder, write, write_page
from mil.portrait import portray, read_record, save_record
from mil.predict import Prediction
from mil.predictions import OK
from mil.task import Task
from tiling.bag import Bag
from tiling.documents import read_json
from tiling.errors import InputError
from tiling.features import FeatureBag

SLIDES, NAMES = "slides", "model/names.json"


class Pages:
    """A report in the making: slides are added one at a time, `close` writes the pages.

    Of a slide nothing stays in memory but its row. What was added in an earlier life of the folder, or by a process
    beside this one, counts as long as the slide's row is the same: so a scoring that goes on where it stopped, or that
    is shared out, has all its pages. Of the processes that share one only the last closes, with all rows.
    """

    def __init__(self, folder: Path, task: Task, paths: Sequence[Path]) -> None:
        """Begin a report in `folder` on scores for `task`, with the model card of the runs or the ensemble there.

        Raises InputError where nothing can be written, or the folder holds another page; RunError where a run has no
        model.
        """
        said = [each for path in paths for each in about_all(path)]
        open_folder(folder)
        self.folder, self.task = folder, task
        self.rows: dict[str, dict[str, Any]] = {}
        with _writing(folder):
            _write_model(folder, [path.resolve().name for path in paths], said)

    def add(
        self, slide_id: str, row: Mapping[str, Any], bag: Bag | FeatureBag | Exception | None = None,
        prediction: Prediction | None = None, metadata: pd.DataFrame | None = None,
    ) -> str | None:  # fmt: skip
        """Take in a scored or failed slide with its row of the predictions table; what went wrong, None if nothing did.

        Whatever it is, the slide has a page: without pictures where they cannot be made. `metadata` is a table of one
        row.
        """
        self.rows[slide_id] = dict(row)
        return add_slide(self.folder, row, bag, prediction, metadata)

    def close(self, rows: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Write the pages of slides and the index of these rows, or of the slides added; see `close_pages`."""
        close_pages(self.folder, self.task, [*self.rows.values()] if rows is None else rows)


def close_pages(folder: Path, task: Task, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the pages of slides into a report that has been begun, the index last; can be done again.

    Raises InputError where they cannot be written, or the report was not begun.
    """
    names = " and ".join(model_names(folder))
    with _writing(folder):
        entries = write_slides(folder, task, map(dict, rows))
        write_page(
            folder / "index.html", "index.html", title=f"Slides scored by {names}" if names else "Slides scored",
            **index_values(task, entries),
        )  # fmt: skip


def model_names(folder: Path) -> list[str]:
    """What scored the slides of a report; raises InputError for a folder in which none was begun."""
    try:
        return [str(name) for name in read_json(folder / NAMES)]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no report was begun in {str(folder)!r}; give the folder that infer.py --report had"
        ) from error


def _write_model(folder: Path, names: Sequence[str], said: Sequence[About]) -> None:
    for place, each in enumerate(said):
        each.plots = copy_plots(each, folder / "model" / str(place))
    write_page(folder / "model.html", "model.html", runs=said, here="model/")
    (folder / NAMES).parent.mkdir(exist_ok=True)
    write(folder / NAMES, json.dumps(list(names)) + "\n")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the report in {str(folder)!r} ({error.strerror}); make room and run it again"
        ) from error


class Entry(NamedTuple):
    """A slide of the table: its row as `mil.listing.ordered` completes it, its page, its small picture."""

    row: dict[str, Any]
    page: str
    thumb: dict[str, Any] | None


def add_slide(
    folder: Path, row: Mapping[str, Any], bag: Bag | FeatureBag | Exception | None = None,
    prediction: Prediction | None = None, metadata: pd.DataFrame | None = None,
) -> str | None:  # fmt: skip
    """Write pictures and record of a slide into the folder of a report; what went wrong, None if nothing did."""
    own = folder / SLIDES / file_name(row["slide_id"])
    said: dict[str, Any] = {"row": _text(row)}
    try:
        if metadata is not None:
            said["metadata"] = [[str(name), str(value)] for name, value in metadata.iloc[0].items()]
        if prediction is not None and prediction.members_EK is not None:
            said["members"] = prediction.members_EK.tolist()
        save_record(own, said | _shown(own, bag, prediction))
    except Exception as error:  # noqa: BLE001  # the slide has a page all the same, and the others go on
        with suppress(OSError):
            save_record(own, {"row": _text(row), "problem": cause(error)})
        return cause(error)
    return None


def _shown(folder: Path, bag: Bag | FeatureBag | Exception | None, prediction: Prediction | None) -> dict[str, Any]:
    if isinstance(bag, FeatureBag):
        return {"shown": None, "facts": [["Features", f"{len(bag)} instances of {bag.header.channels} channels"]]}
    if not isinstance(bag, Bag) or not len(bag):
        return {}
    attention, map_GG = (None, None) if prediction is None else (prediction.attention, prediction.map_GG)
    return {"shown": portray(folder, bag, attention, map_GG)}


def write_slides(
    folder: Path, task: Task, rows: Iterable[Mapping[str, Any]], table: str = "index.html", every: bool = True
) -> list[Entry]:
    """Write the pages of slides, which lead to each other in the order of the table; that table's entries.

    `table` is the page with the table; unless `every` slide gets a page, those with pictures do.
    """
    complete = ordered(task, rows)
    records = folder / SLIDES
    records.mkdir(exist_ok=True)
    entries = []
    for row in complete:
        name = file_name(row["slide_id"])
        record = _record(records / name, row, task)
        page = f"{SLIDES}/{name}.html" if every or record["shown"] else ""
        entries.append(Entry(row, page, _thumb(name, record)))
    with_page = [entry for entry in entries if entry.page]
    for place, entry in enumerate(with_page):
        name = file_name(entry.row["slide_id"])
        record = _record(records / name, entry.row, task)
        before = with_page[place - 1] if place else None
        after = with_page[place + 1] if place + 1 < len(with_page) else None
        write_page(
            folder / entry.page, "slide.html", row=entry.row, record=record, facts=_facts(entry.row, record),
            pictures=f"{name}/", before=before, after=after, place=place + 1, of=len(with_page), task=task,
            table=table,
        )  # fmt: skip
    return entries


def index_values(task: Task, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the template of a table of slides needs to know."""
    rows = [entry.row for entry in entries]
    failed = sum(row["status"] != OK for row in rows)
    return {
        "entries": entries, "columns": columns(task, rows), "wide": len(task.classes) > FEW_CLASSES, "task": task,
        "scored": len(rows) - failed, "failed": failed, "classes": counts(task, rows, "classes"),
        "outcomes": counts(task, rows, "outcome"), "statuses": counts(task, rows, "status"),
    }  # fmt: skip


def _record(folder: Path, row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The record of a slide, an empty one where there is none or where it is of another scoring."""
    empty: dict[str, Any] = {"shown": None, "members": [], "metadata": [], "problem": None, "facts": []}
    found = read_record(folder)
    if found is None or any(_text(row).get(name) != value for name, value in found.get("row", {"": ""}).items()):
        return empty
    return empty | found


def _thumb(name: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    if not record["shown"]:
        return None
    thumb = record["shown"]["thumb"]
    return {**thumb, "file": f"{SLIDES}/{name}/{thumb['file']}"}


def _facts(row: Mapping[str, Any], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a slide beside its pictures, a name and a value each."""
    shown = record["shown"]["facts"] if record["shown"] else record["facts"]
    of_row = [("Patient", "patient_id"), ("Fold", "fold"), ("Model", "model")]
    found = [(name, str(row[key])) for name, key in of_row if row.get(key)]
    return [*found, *map(tuple, record["metadata"]), *map(tuple, shown)]


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as its text in a table, whether it was read from one or not."""
    return {
        str(name): "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
        for name, value in row.items()
    }
