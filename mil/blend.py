"""Several models as one: a weighted mean of their probabilities or of their log odds, and the weights that fit best."""

from typing import Literal

import numpy as np

from mil.log_odds import chances, log_odds
from mil.metrics import METRICS
from mil.task import Task

Average = Literal["probabilities", "logits"]
SMALL_IS_GOOD = ("log_loss", "class_weighted_log_loss", "ece")
_STEPS = 0.5 ** np.arange(1, 9)  # of a search for weights: to 1/256
_BETTER = 1e-12  # less is rounding


def average(task: Task, members_RNK: np.ndarray, weights: np.ndarray, of: Average) -> np.ndarray:
    """Probabilities (N, K): the mean over R models of theirs, or those of the mean log odds; weights (R,) sum to 1.

    The mean of logits is the geometric mean of the probabilities, normalised: one model that is certain outweighs
    others that are not.
    """
    if of == "probabilities":
        return np.einsum("r,rnk->nk", weights, members_RNK)
    return chances(task, np.einsum("r,rnk->nk", weights, log_odds(task, members_RNK)))


def fit_weights(task: Task, members_RNK: np.ndarray, targets: np.ndarray, of: Average, metric: str) -> np.ndarray:
    """Weights (R,), none negative, with sum 1, that make a figure of METRICS best; targets as `mil.metrics` has them.

    A search along the edges of the simplex (Kolda, Lewis and Torczon 2003): from equal weights, the best of all moves
    of a half from one model to another, as long as one is better, then of a quarter, down to 1/256. It needs no
    derivative, which an AUC does not have, and finds the smallest log loss, which has a single minimum. Models that
    make no difference keep equal weights.
    """
    sign = 1 if metric in SMALL_IS_GOOD else -1

    def loss(weights: np.ndarray) -> float:
        blended = average(task, members_RNK, weights, of)
        # An infinite loss on one slide would make all weights alike.
        return sign * METRICS[metric](np.clip(blended, np.finfo(float).tiny, 1 - 2**-53), targets)

    weights = np.full(len(members_RNK), 1 / len(members_RNK))
    best = loss(weights)
    for step in _STEPS:
        while True:
            tried = [(loss(each), place, each) for place, each in enumerate(_moves(weights, step))]
            value, _, moved = min(tried, default=(np.inf, 0, weights))
            if not value < best - _BETTER:
                break
            best, weights = value, moved
    return weights


def _moves(weights: np.ndarray, step: float) -> list[np.ndarray]:
    """The weights with a step, or all there is, taken from one model and given to another."""
    found = []
    for giver in np.flatnonzero(weights > 0):
        for taker in range(len(weights)):
            if taker != giver:
                moved = weights.copy()
                moved[giver] = max(0.0, weights[giver] - step)
                moved[taker] += weights[giver] - moved[giver]
                found.append(moved / moved.sum())
    return found
