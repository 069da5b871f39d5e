"""The class shares of the slides that a run was trained on: what is known of a slide that could not be scored."""

from pathlib import Path

import numpy as np
import pandas as pd

from mil.errors import RunError
from mil.run_folder import FOLDS, read_text
from mil.task import ANY_OF, Task


def training_prior(run: Path, task: Task) -> np.ndarray:
    """Float64 (K,): the share of each class among all slides of a run's folds.csv; they sum to 1.

    Of several labels it is the share of the slides with the label among those of which that is known. Raises RunError
    where the run has no folds.csv, or it is of other classes.
    """
    columns = list(task.classes) if task.kind == ANY_OF else ["label"]
    table = read_text(run / FOLDS, *columns)
    if task.kind == ANY_OF:
        known = table[columns].replace("", None).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        prior_K = np.nansum(known, axis=0) / np.maximum(np.count_nonzero(~np.isnan(known), axis=0), 1)
    else:
        counts = table["label"].value_counts()
        prior_K = np.array([counts.get(name, 0) for name in task.classes]) / max(len(table), 1)
    if not prior_K.all():
        missing = task.classes[int(np.argmin(prior_K))]
        raise RunError(f"{str(run / FOLDS)!r} has no slide of the class {missing!r} of the run's models; train again")
    return prior_K
