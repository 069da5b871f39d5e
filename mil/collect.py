"""The folds of a run put together: tables, figures, pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mil.checkpoint import read_card
from mil.errors import RunError, cause
from mil.evaluation import Evaluation, evaluate
from mil.labels import natural, of_run
from mil.log import EpochLog, read_log
from mil.oof import refuse_wild
from mil.plots import draw_evaluation, draw_learning_curves
from mil.predict import METRICS_FILE
from mil.predictions import prediction_row, write_predictions
from mil.run_folder import FOLDS, LOG, OOF, SKIPPED, read_text
from tiling.output import replacing, write_table


def collect(out: Path) -> Evaluation:
    """Put the folds of a run together: oof.csv, log.csv, pictures, metrics.json; gives what that says.

    Raises RunError where the folder is no run, a fold is not done, or a file is damaged.
    """
    slides = read_text(out / FOLDS, "slide_id", "patient_id", "label", "fold")
    skipped = read_text(out / SKIPPED, "slide_id", "patient_id", "label", "error")
    if slides.empty:
        raise RunError(f"{str(out / FOLDS)!r} has no rows; train again")
    names = sorted(slides["fold"].unique(), key=natural)
    folders = [out / f"fold_{fold}" for fold in range(len(names))]
    if missing := [str(fold) for fold, folder in enumerate(folders) if not (folder / OOF).exists()]:
        raise RunError(f"the run {str(out)!r} lacks fold {', '.join(missing)}; train it with --fold, then --collect")
    task = read_card(folders[0]).task
    done = pd.concat([read_text(folder / OOF, "slide_id") for folder in folders]).set_index("slide_id")
    try:
        if done.index.has_duplicates:
            raise ValueError(f"the slide {done.index[done.index.duplicated()][0]!r} is in two of them")
        rows = done.loc[slides["slide_id"]].reset_index()
        probabilities = rows[[f"prob_{name}" for name in task.classes]].astype(np.float64).to_numpy()
        labels = of_run(slides, task)
    except (KeyError, ValueError) as error:
        raise RunError(
            f"the folds of the run {str(out)!r} do not fit its {FOLDS} ({cause(error)}); train again"
        ) from error
    refuse_wild(probabilities, labels, out / "fold_*" / OOF)
    logs = [read_log(folder / LOG) for folder in folders]
    fold_of = slides["fold"].map(names.index).to_numpy()
    evaluation = evaluate(labels, probabilities, fold_of, names)
    failed = [
        prediction_row(row["slide_id"], row["patient_id"], task, error=row["error"], label=row["label"], fold="")
        for row in skipped.to_dict("records")
    ]
    table = pd.concat([rows, pd.DataFrame(failed)]) if failed else rows
    write_predictions(out / OOF, table)
    write_table(out / LOG, EpochLog._fields, [row for log in logs for row in log])
    draw_learning_curves(out / "learning_curves.png", logs, names)
    draw_evaluation(out, evaluation)
    with replacing(out / METRICS_FILE) as temporary:
        content = {**evaluation.as_json(), "skipped": len(skipped)}
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return evaluation
