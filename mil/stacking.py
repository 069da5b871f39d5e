"""Several models as one: a logistic regression on what each says (stacking; Wolpert 1992)."""

from typing import NamedTuple

import numpy as np

from mil.log_odds import chances, log_odds
from mil.task import ANY_OF, Task

_Rows = tuple[tuple[float, ...], ...]
_STRENGTH = 1.0  # C of scikit-learn: a Gaussian of deviation 1 around 0 for each coefficient


class Stack(NamedTuple):
    """A logit for each class or label: `intercepts` (K,) and `coefficients` (K, F) of the features that it looks at.

    The features of a label are the log odds that R models give it: F = R. Those of classes are for each model, of two
    the log odds of the second, of more the log probabilities less their mean: F = R or R K.
    """

    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]

    def __call__(self, task: Task, members_RNK: np.ndarray) -> np.ndarray:
        """The probabilities (N, K) of slides, from those of the models."""
        features_KNF = _features(task, members_RNK)
        return chances(task, np.einsum("knf,kf->nk", features_KNF, np.array(self.coefficients)) + self.intercepts)


def fit_stack(task: Task, members_RNK: np.ndarray, targets: np.ndarray) -> Stack:
    """The stack fitted to slides with these targets, which must have every class, or both sides of every label."""
    features_KNF = _features(task, members_RNK)
    if task.kind == ANY_OF:
        fits = [
            _regression(features_NF[known], truth[known].astype(int))
            for features_NF, truth, known in zip(features_KNF, targets.T, ~np.isnan(targets.T), strict=True)
        ]
        return Stack(*(tuple(part[0] for part in parts) for parts in zip(*fits, strict=True)))
    coefficients, intercepts = _regression(features_KNF[0], targets)
    if len(task.classes) == 2:  # scikit-learn gives the second class alone a logit, beside one of 0
        coefficients = ((0.0,) * len(coefficients[0]), *coefficients)
        intercepts = (0.0, *intercepts)
    return Stack(coefficients, intercepts)


def features_of(task: Task, runs: int) -> int:
    """How many features a class or label has in a stack of so many models."""
    return runs if task.kind == ANY_OF or len(task.classes) == 2 else runs * len(task.classes)


def _regression(features_NF: np.ndarray, targets: np.ndarray) -> tuple[_Rows, tuple[float, ...]]:
    from sklearn.linear_model import LogisticRegression  # takes a second, which a command line has not

    found = LogisticRegression(C=_STRENGTH, tol=1e-8, max_iter=10_000).fit(features_NF, targets)
    return tuple(tuple(map(float, row)) for row in found.coef_), tuple(map(float, found.intercept_))


def _features(task: Task, members_RNK: np.ndarray) -> np.ndarray:
    """Float (K, N, F), the same for each class."""
    logits_RNK = log_odds(task, members_RNK)
    if task.kind == ANY_OF:
        return logits_RNK.transpose(2, 1, 0)
    if len(task.classes) == 2:
        features_NF = (logits_RNK[..., 1] - logits_RNK[..., 0]).T
    else:
        centred_RNK = logits_RNK - logits_RNK.mean(axis=2, keepdims=True)
        features_NF = centred_RNK.transpose(1, 0, 2).reshape(members_RNK.shape[1], -1)
    return np.broadcast_to(features_NF, (len(task.classes), *features_NF.shape))
