"""What is fitted to out-of-fold predictions, judged on slides to which it was not fitted."""

from collections.abc import Callable

import numpy as np

from mil.labels import Labels
from mil.task import Task

Fitted = Callable[[Task, np.ndarray], np.ndarray]
"""Makes probabilities (N, K) of those of several models (R, N, K)."""


def cross_fitted(
    labels: Labels, members_RNK: np.ndarray, fold_of: np.ndarray,
    fit: Callable[[Labels, np.ndarray, np.ndarray], Fitted],
) -> np.ndarray:  # fmt: skip
    """Probabilities (N, K): those of each fold from what was fitted to the slides of all others.

    `fold_of` int (N,); no patient may be in two folds. `fit` takes labels, probabilities and folds of some slides.
    """
    found = np.full(members_RNK.shape[1:], np.nan)
    for fold in np.unique(fold_of):
        rest, own = np.flatnonzero(fold_of != fold), fold_of == fold
        fitted = fit(labels.at(rest), members_RNK[:, rest], fold_of[rest])
        found[own] = fitted(labels.task, members_RNK[:, own])
    return found


def has_all(labels: Labels, fold_of: np.ndarray) -> bool:
    """Whether there are two folds or more, and without each of them every class is left, or each label's both sides."""
    return not any(labels.at(fold_of != fold).absent for fold in np.unique(fold_of)) and len(np.unique(fold_of)) > 1
