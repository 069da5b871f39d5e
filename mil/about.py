"""What is said of a run on its model card: what it learned from, how good it is, and what it is not for.

All of it comes from the run's folder; what is missing or damaged there is left out, for a report is worth more than
its last line.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from mil.card import About, ClassRow, Figure, Fold, Plot
from mil.checkpoint import ModelCard, read_card
from mil.errors import RunError
from mil.evaluation import NAMES
from mil.limits import limits_of
from mil.markup import write
from mil.predict import METRICS_FILE
from mil.run_folder import FOLDS, PSEUDO, SKIPPED, SOURCES, read_config, read_text
from mil.task import ANY_OF, ONE_VS_NORMAL, Task
from tiling.documents import read_bytes_of, read_json
from tiling.features import FEATURES
from tiling.overview import OVERVIEWS

PLOTS = {
    "reliability.png": "Reliability: of slides that were given a probability, the share that had the class. On the "
    "dashed line probabilities are what they say; below it they promise too much.",
    "roc.png": "Sensitivity over 1 − specificity for every threshold, of all folds together and of each.",
    "precision_recall.png": "Precision over sensitivity for every threshold, of all folds together and of each.",
    "confusion.png": "How many slides of each class were decided to be each class.",
    "learning_curves.png": "Loss in training and on the inner validation slides, with the epoch that was kept.",
}
_MOST_BYTES = 2**24  # of a plot
_LOWER_IS_BETTER = ("log_loss", "class_weighted_log_loss")
_NO_VERDICT = ("ece",)  # its baseline is no answer that is better or worse


def about(folder: Path) -> About:
    """What there is to say of the run in a folder; raises RunError where it has no model."""
    card = read_card(folder / "fold_0")
    config = settings_of(folder)
    made = About(folder, "Run", folder.resolve().name, card.task, _model(card))
    made.settings = [(name, _in_words(value)) for name, value in config.items()]
    made.sources = [(str(name), str(value)) for name, value in _json(folder / SOURCES).items()]
    made.skipped = len(table_of(folder / SKIPPED))
    if unlabelled := table_of(folder / PSEUDO)["slide_id"].nunique():
        made.model.append(("Learned also from", f"pseudo labels of {unlabelled} slides"))
    complete(made, table_of(folder / FOLDS), config)
    return made


def complete(made: About, slides: pd.DataFrame, config: Mapping[str, Any]) -> None:
    """Add what metrics.json says, and what follows from that, from the labelled slides and from the settings."""
    metrics, task = _json(made.folder / METRICS_FILE), made.task
    made.slides = len(slides)
    made.patients = slides["patient_id"].nunique() if len(slides) else 0
    left_out = _mapping(metrics, "patients").get("left_out")
    made.left_out = left_out if isinstance(left_out, int) else 0
    made.classes = [_class(name, slides, task, metrics) for name in task.classes]
    folds = metrics.get("folds")
    made.folds = [_fold(each) for each in (folds if isinstance(folds, list) else ()) if isinstance(each, dict)]
    made.figures = _figures(metrics, by_patient=made.by_patient)
    positive = metrics.get("positive")
    made.interval, made.positive = str(metrics.get("interval", "")), positive if isinstance(positive, str) else None
    made.limits = limits_of(made, config)


def settings_of(run: Path) -> dict[str, Any]:
    """The settings of a run, empty where they cannot be read."""
    try:
        return read_config(run)
    except RunError:
        return {}


def copy_plots(said: About, folder: Path) -> list[Plot]:
    """The plots of a run or an ensemble, copied into a folder of a report's; `file` begins with that folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for name, words in PLOTS.items():
        try:
            data = read_bytes_of(said.folder / name, _MOST_BYTES)
            width, height = Image.open(io.BytesIO(data), formats=("PNG",)).size
        except (OSError, ValueError, Image.DecompressionBombError):  # it is missing, or no picture
            continue
        write(folder / name, data)
        copied.append(Plot(f"{folder.name}/{name}", width, height, words))
    return copied


def _model(card: ModelCard) -> list[tuple[str, str]]:
    spec, bags = card.model, card.bag_spec
    what = "each class told from " + str(card.task.normal) if card.task.kind == ONE_VS_NORMAL else card.task.kind
    found = [("Predicts", f"{what}: {', '.join(card.task.classes)}")]
    if OVERVIEWS in bags:
        found.append(("Looks at", f"the whole slide, {spec.overview_px} px wide"))
    elif FEATURES in bags:
        found.append(
            ("Looks at", f"features: {bags[FEATURES]} of each tile, made by {bags.get('encoder') or 'unknown'}")
        )
    else:
        found.append(("Looks at", f"{bags.get('instances')} tiles a slide, {bags.get('size')} px at {_scale(bags)}"))
        found.append(("Sees them at", f"{spec.train_px} px"))
    found.append(("Network", " + ".join(filter(None, (spec.arch, spec.backbone, f"{spec.pooling} pooling")))))
    if card.metadata.columns:
        found.append(("Metadata", ", ".join(card.metadata.columns)))
    return found


def _scale(bags: Mapping[str, Any]) -> str:
    """The scale of tiles, of which a spec has one."""
    if bags.get("downsample") == 1:
        return "the scan's own scale"
    for name, words in (
        ("mpp", "{:g} µm per pixel"), ("magnification", "{:g} ×"), ("downsample", "1/{:g} of the scan's own scale"),
        ("longest_edge", "a longest edge of {} px"),
    ):  # fmt: skip
        if bags.get(name) is not None:
            return words.format(bags[name])
    return "unknown scale"


def _class(name: str, slides: pd.DataFrame, task: Task, metrics: Mapping[str, Any]) -> ClassRow:
    if slides.empty:
        return ClassRow(name, 0, 0, {})
    has = slides["label"].map(lambda cell: name in (cell.split(";") if task.kind == ANY_OF else [cell]))
    found = _figure(metrics, "slides", "classes", name, "auc")
    return ClassRow(name, int(has.sum()), slides["patient_id"][has].nunique(), found)


def _fold(found: Mapping[str, Any]) -> Fold:
    auc, log_loss = (_number(found.get(name)) for name in ("auc", "log_loss"))
    return Fold(str(found.get("name", "")), found.get("slides", ""), found.get("patients", ""), auc, log_loss)


def _figures(metrics: Mapping[str, Any], by_patient: bool) -> list[Figure]:
    found = []
    for key, name in NAMES.items():
        slides, patients = _figure(metrics, "slides", key), _figure(metrics, "patients", key)
        if slides.get("value") is not None or slides.get("note"):
            found.append(Figure(name, slides, patients, _verdict(key, patients if by_patient else slides)))
    return found


def _figure(metrics: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A figure with its interval: numbers or None, and a note where it is infinite."""
    found = _mapping(metrics, *keys)
    numbers = {name: _number(found[name]) for name in ("value", "low", "high", "baseline") if name in found}
    return numbers | ({"note": str(found["note"])} if "note" in found else {})


def _verdict(key: str, figure: Mapping[str, Any]) -> str:
    low, high, constant = (_number(figure.get(name)) for name in ("low", "high", "baseline"))
    if key in _NO_VERDICT or constant is None or (low is None and high is None):
        return ""
    if low is not None and low > constant:
        return "worse" if key in _LOWER_IS_BETTER else "better"
    if high is not None and high < constant:
        return "better" if key in _LOWER_IS_BETTER else "worse"
    return "open"


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def table_of(path: Path) -> pd.DataFrame:
    """A table of slides and patients, without rows where it cannot be read."""
    try:
        return read_text(path, "slide_id", "patient_id")
    except RunError:
        return pd.DataFrame(columns=["slide_id", "patient_id", "label"], dtype=str)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """What lies at the end of a way through nested mappings, empty where it breaks off."""
    for key in keys:
        found = content.get(key)
        if not isinstance(found, dict):
            return {}
        content = found
    return content


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
