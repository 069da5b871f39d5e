"""The folder of a run: who may begin it or go on with it, and what is written before anything is trained.

- config.yaml, bags.json, folds.csv, skipped.csv: written before anything is trained; pseudo.csv where there are
  pseudo labels
- fold_0/checkpoint.safetensors, log.csv: while that fold trains
- fold_0/model.safetensors, model.json, oof.csv: when it is done, oof.csv last
- oof.csv, log.csv, metrics.json, *.png: put together when all folds are done, metrics.json last
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mil.cohort import Cohort
from mil.errors import RunError, cause
from mil.folds import Folds
from mil.labels import target_column
from mil.recipe import Recipe
from mil.soft import PSEUDO_FOLD, VALID_IN, SoftLabels, chance_column
from mil.task import ANY_OF, Task
from tiling.bag import differing
from tiling.documents import read_json, read_yaml, regular
from tiling.output import placing, replacing, sweep, write_table
from tiling.sheets import read_sheet

CONFIG, BAGS, FOLDS, SKIPPED, OOF, LOG = "config.yaml", "bags.json", "folds.csv", "skipped.csv", "oof.csv", "log.csv"
PSEUDO = "pseudo.csv"
REPORT = "report"
SOURCES = f"{REPORT}/sources.json"  # what the bags say of their slides
# What may differ between the jobs of one run: where things are, and who reads and watches.
FREE = ("bags", "labels", "device", "cache", "loader_workers", "checkpoint_minutes", "tracker")


def open_run(
    out: Path, cohort: Cohort, recipe: Recipe, folds: Folds, sources: Mapping[str, str], resume: bool, fold: int | None
) -> None:
    """Make the folder of a run, or see that the one which is there is of the same run.

    Raises RunError where it exists and neither `resume` nor a fold of its own was asked for, where it is of another
    run, and where it cannot be made.
    """
    config = {**sources, **_config(recipe)}
    try:
        refuse_taken(out, resume, fold)
        out.mkdir(parents=True, exist_ok=True)
        if not (out / CONFIG).exists():
            _begin(out, config, cohort, folds, recipe.table.metadata)
        _refuse_other(out, config, cohort, folds, recipe.table.metadata)
        sweep(out)
    except OSError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"cannot make the run folder {str(out)!r} ({error.strerror}); choose another --out") from error


def _config(recipe: Recipe) -> dict[str, Any]:
    """The settings as YAML has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in recipe.flat().items()}


def _begin(out: Path, config: dict[str, Any], cohort: Cohort, folds: Folds, metadata: Sequence[str]) -> None:
    """Write what a run begins with, its settings last; those of a job that was faster stay."""
    write_table(out / FOLDS, *_folds_table(cohort, folds, metadata))
    if cohort.labels.soft is not None:
        write_table(out / PSEUDO, *_pseudo_table(cohort.labels.soft, cohort.labels.task))
    missing = cohort.missing[["slide_id", "patient_id", "label", "error"]]
    write_table(out / SKIPPED, missing.columns.tolist(), missing.itertuples(index=False))
    with replacing(out / BAGS) as temporary:
        temporary.write_text(json.dumps(cohort.bag_spec, indent=2) + "\n", encoding="utf-8")
    with placing(out / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def refuse_run(out: Path, cohort: Cohort, recipe: Recipe, folds: Folds, resume: bool, fold: int | None) -> None:
    """Raise RunError where a folder is taken, or of another run; nothing is written."""
    refuse_taken(out, resume, fold)
    if (out / CONFIG).exists():
        _refuse_other(out, _config(recipe), cohort, folds, recipe.table.metadata)


def refuse_taken(out: Path, resume: bool, fold: int | None) -> None:
    """Raise RunError where a folder is there, and is not a run to go on with or to add a fold to."""
    if not out.exists():
        return
    if not (_is_run(out) and (resume or (fold is not None and not (out / f"fold_{fold}").exists()))):
        raise RunError(
            f"the run folder {str(out)!r} exists; give --resume to go on with a run, or choose another --out, or "
            "delete it"
        )


def _is_run(out: Path) -> bool:
    """Whether a folder is of a run; also where this or another job has just begun it."""
    names = {path.name for path in out.iterdir()}  # first, for the settings may come into place meanwhile
    begun = all(name in (BAGS, FOLDS, SKIPPED, PSEUDO) or name.startswith(".") for name in names)
    return begun or (out / CONFIG).exists()


def _folds_table(cohort: Cohort, folds: Folds, metadata: Sequence[str]) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """Header and rows of folds.csv: of several labels each has a column, empty where it is unknown; then metadata."""
    table, task = cohort.labels.table, cohort.labels.task
    table = table.assign(fold=folds.name_of())
    columns = ["slide_id", "patient_id", "label", "fold", *([VALID_IN] if VALID_IN in table else [])]
    if task.kind == ANY_OF:
        known = {name: table[target_column(name)] for name in task.classes}
        table = table.assign(**{name: value.map({0.0: "0", 1.0: "1"}).fillna("") for name, value in known.items()})
        columns += task.classes
    columns += metadata
    return columns, table[columns].itertuples(index=False)


def _pseudo_table(soft: SoftLabels, task: Task) -> tuple[list[str], list[Sequence[Any]]]:
    """Header and rows of pseudo.csv: a row for each slide and each fold that learns something of it."""
    rows: list[Sequence[Any]] = []
    for fold in soft.folds:
        places = soft.of_fold(fold)
        slides = soft.table.iloc[places][["slide_id", "patient_id"]].itertuples(index=False)
        for slide, chances in zip(slides, soft.chances(fold, places), strict=True):
            rows.append([*slide, fold, *("" if np.isnan(chance) else float(chance) for chance in chances)])
    return ["slide_id", "patient_id", PSEUDO_FOLD, *map(chance_column, task.classes)], rows


def read_config(run: Path) -> dict[str, Any]:
    """The settings of a run by name; raises RunError where its config.yaml is missing or damaged."""
    try:
        config = read_yaml(run / CONFIG)
        return {str(name): value for name, value in config.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{CONFIG} of the run {str(run)!r} cannot be read ({cause(error)}); train again") from error


def read_text(path: Path, *columns: str) -> pd.DataFrame:
    """A table of a run, all of it text; raises RunError where it is missing, damaged, or lacks one of these columns."""
    try:
        header, rows = read_sheet(regular(path))
    except FileNotFoundError as error:
        raise RunError(f"{str(path.parent)!r} is no run of train.py: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read ({cause(error)}); train again") from error
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise RunError(f"{str(path)!r} is no table of a run: it has the column {min(twice)!r} twice; train again")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    once = ["slide_id", PSEUDO_FOLD] if path.name == PSEUDO else ["slide_id"]
    if {*once} <= {*table} and (again := table["slide_id"][table.duplicated(once)]).size:
        raise RunError(f"{str(path)!r} has the slide {again.iloc[0]!r} twice; train again")
    if lacking := [name for name in columns if name not in table]:
        raise RunError(f"{str(path)!r} is no table of a run: it lacks the column {lacking[0]!r}; train again")
    return table


def _refuse_other(out: Path, config: dict[str, Any], cohort: Cohort, folds: Folds, metadata: Sequence[str]) -> None:
    """Raise RunError where the folder is of a run with other settings or other slides."""
    try:
        found = read_yaml(out / CONFIG)
        others = sorted(name for name in {*found, *config} - {*FREE} if found.get(name) != config.get(name))
        bags = read_json(out / BAGS)
        other_bags = differing(bags, json.loads(json.dumps(cohort.bag_spec)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{CONFIG} or {BAGS} of {str(out)!r} cannot be read ({cause(error)}); choose another --out"
        ) from error
    if other_bags:
        raise RunError(
            f"the run {str(out)!r} was begun with bags of another {', '.join(other_bags)}; give the bags it was begun "
            "with, or choose another --out"
        )
    if others:
        name = others[0]
        raise RunError(
            f"the run {str(out)!r} was begun with {name} {found.get(name)!r}, not {config.get(name)!r}; give what it "
            "was begun with, or choose another --out"
        )
    _, rows = _folds_table(cohort, folds, metadata)
    if read_text(out / FOLDS).to_numpy().tolist() != [list(row) for row in rows]:
        raise RunError(
            f"the run {str(out)!r} was begun with other slides, labels, metadata or folds than --labels and --bags "
            "have now; choose another --out"
        )
    soft = cohort.labels.soft
    _, pseudo = ([], []) if soft is None else _pseudo_table(soft, cohort.labels.task)
    begun = read_text(out / PSEUDO).to_numpy().tolist() if (out / PSEUDO).exists() else []
    if begun != [list(map(str, row)) for row in pseudo]:
        raise RunError(
            f"the run {str(out)!r} was begun with other pseudo labels than --labels has now; choose another --out"
        )
