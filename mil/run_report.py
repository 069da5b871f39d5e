"""The report of a run, in its folder: figures, plots, folds, the worst errors with their tiles, and all its slides.

- report/index.html: how good the run is, what it learned from, and its worst errors; written last
- report/slides.html: a table of all slides, out of fold
- report/sources.json: what the bags say of the slides, for model cards
- report/slides/, report/plots/: as in `mil.pages`
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mil.about import about, copy_plots, settings_of
from mil.checkpoint import ModelCard, load_model, read_card
from mil.errors import MilError
from mil.labels import natural
from mil.listing import chances_of
from mil.markup import file_name, open_folder, write, write_page
from mil.pages import SLIDES, Entry, add_slide, index_values, write_slides
from mil.portrait import read_record
from mil.predict import Prediction, Run, pick_device, predict_bag
from mil.predictions import FAILED
from mil.run_folder import FOLDS, OOF, REPORT, SOURCES, read_text
from mil.task import ANY_OF, Task
from tiling.bag import Bag, read_bag, read_header
from tiling.bags import Bags, open_bags
from tiling.errors import TilingError
from tiling.features import FEATURES

TABLE = "slides.html"
WORST, TILES = 12, 4  # errors that are shown, and the tiles of each on the first page


class Error(NamedTuple):
    """A slide that was decided wrongly: its row of oof.csv, and the probability that was given to the truth."""

    row: dict[str, Any]
    given: float


def write_report(run: Path) -> Path:
    """Write the report of a finished run and give its first page.

    The bags are looked for where config.yaml says that they were: of those that are gone nothing is shown. The tiles
    of an error have the attention of the model that had not seen the slide. Raises RunError where the run is damaged,
    InputError where nothing can be written.
    """
    folder = run / REPORT
    open_folder(folder)
    card, config = read_card(run / "fold_0"), settings_of(run)
    rows = _rows(run, card)
    worst = worst_errors(card.task, rows)
    if FEATURES not in card.bag_spec and (bags := _bags(config)) is not None:
        sources = _sources(bags, [row["slide_id"] for row in rows])
        write(run / SOURCES, json.dumps(sources, indent=1) + "\n")
        for error in worst:
            _add(run, folder, error.row, bags, config)
    entries = {entry.row["slide_id"]: entry for entry in write_slides(folder, card.task, rows, TABLE, every=False)}
    said = about(run)
    said.plots = copy_plots(said, folder / "plots")
    write_page(folder / TABLE, "slides.html", name=said.name, **index_values(card.task, [*entries.values()]))
    shown = [_shown(folder, error, entries[error.row["slide_id"]]) for error in worst]
    write_page(folder / "index.html", "run.html", run=said, errors=shown, table=TABLE, here="")
    return folder / "index.html"


def worst_errors(task: Task, rows: Iterable[Mapping[str, Any]]) -> list[Error]:
    """The slides that were decided wrongly, those first whose truth was given the least; twelve at most.

    Of labels it is the least that any known one of the slide's was given.
    """
    found = []
    for row in rows:
        chances, truth = chances_of(task, row), row["truth"]
        known = [place for place, true in enumerate(truth) if true is not None]
        if chances is None or not known:
            continue
        decided = task.kind == ANY_OF
        given = min(
            chances[place] if truth[place] else 1 - chances[place] for place in known if decided or truth[place]
        )
        wrong = given < 0.5 if decided else not truth[task.classes.index(task.predicted(chances))]
        if wrong:
            found.append(Error(dict(row), given))
    return sorted(found, key=lambda error: (error.given, error.row["slide_id"]))[:WORST]


def _rows(run: Path, card: ModelCard) -> list[dict[str, Any]]:
    """The rows of oof.csv, with `truth` of each class, None where it is unknown, `fold_place`, and `metadata`."""
    task = card.task
    folds = read_text(run / FOLDS, "slide_id", "label", "fold").set_index("slide_id", drop=False)
    names = sorted(folds["fold"].unique(), key=natural)
    rows: list[dict[str, Any]] = []
    for row in read_text(run / OOF, "slide_id", "label", "fold", "status").to_dict("records"):
        known = row["status"] != FAILED and row["slide_id"] in folds.index
        truth = _truth(folds.loc[row["slide_id"]], task) if known else [None] * len(task.classes)
        place = names.index(row["fold"]) if known else None
        metadata = {name: folds.loc[row["slide_id"], name] for name in card.metadata.columns} if known else {}
        rows.append(
            {
                **{str(key): value for key, value in row.items()},
                "truth": truth,
                "fold_place": place,
                "metadata": metadata,
            }
        )
    return rows


def _truth(slide: Mapping[str, Any], task: Task) -> list[bool | None]:
    if task.kind == ANY_OF:
        return [{"1": True, "0": False}.get(slide.get(name, "")) for name in task.classes]
    return [name == slide["label"] for name in task.classes]


def _bags(config: Mapping[str, Any]) -> Bags | None:
    try:
        return open_bags(Path(str(config.get("bags"))))
    except TilingError:
        return None


def _sources(bags: Bags, names: Iterable[str]) -> dict[str, str]:
    """What the headers of bags say of the slides, in words: formats with their numbers, and scales."""
    headers = []
    for name in names:
        try:
            headers.append(read_header(bags.refs[name]))
        except (KeyError, TilingError):
            continue
    if not headers:
        return {}
    formats = Counter(header.vendor or "unknown" for header in headers)
    scales = [header.mpp for header in headers if header.mpp is not None]
    ends = dict.fromkeys(f"{end:.3g}" for end in (min(scales), max(scales))) if scales else {}
    words = f"{' to '.join(ends)} µm per pixel" if scales else ""
    if unknown := len(headers) - len(scales):
        words += f"{', ' if words else ''}unknown of {unknown}"
    return {"Formats": ", ".join(f"{name} ({count})" for name, count in sorted(formats.items())), "Scales": words}


def _add(run: Path, folder: Path, row: Mapping[str, Any], bags: Bags, config: Mapping[str, Any]) -> None:
    """Add the pictures of a slide, without attention where its model cannot be asked."""
    metadata = pd.DataFrame([row["metadata"]]) if row["metadata"] else None
    bag: Bag | Exception
    prediction = None
    try:
        bag = read_bag(bags.refs[row["slide_id"]])
    except (KeyError, TilingError) as error:
        bag = error
    else:
        with suppress(MilError, RuntimeError):  # a model that is gone; memory that was enough for smaller tiles
            prediction = _predict(run / f"fold_{row['fold_place']}", bag, metadata, config)
    add_slide(folder, row, bag, prediction, metadata)


def _predict(fold: Path, bag: Bag, metadata: pd.DataFrame | None, config: Mapping[str, Any]) -> Prediction:
    """What the model of one fold says of a bag."""
    model, card = load_model(fold)
    device = pick_device("cpu" if config.get("device") == "cpu" else "auto")
    chunk = config.get("instance_chunk")
    model.to(device).instance_chunk = chunk if isinstance(chunk, int) else None
    return predict_bag(Run((model,), (card,), device), bag, metadata)


def _shown(folder: Path, error: Error, entry: Entry) -> dict[str, Any]:
    """What the first page shows of an error: its entry in the table, what the truth was given, its first tiles."""
    name = file_name(error.row["slide_id"])
    shown = (read_record(folder / SLIDES / name) or {}).get("shown") or {}
    tiles = [{**tile, "file": f"{SLIDES}/{name}/{tile['file']}"} for tile in shown.get("tiles", ())[:TILES]]
    return {"entry": entry, "given": error.given, "tiles": tiles}
