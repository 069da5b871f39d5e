"""Probabilities on the scale on which evidence adds up, and back; nothing is lost but what float64 has lost before."""

import numpy as np
from scipy.special import expit, softmax

from mil.task import ANY_OF, Task

# A probability of 0 or 1 stands for all that round to it in float64, and is taken for one of them, so that sums stay
# finite: a quarter of the smallest number there is, and half the distance of 1 to the number before it.
_OF_ZERO = -1076 * np.log(2)
_OF_ONE = 54 * np.log(2)


def log_odds(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """Float64 (…, K) of probabilities (…, K): the logit of each label, or the logarithm of each class's probability.

    Of classes that exclude each other only differences have a meaning: that of two is the logarithm of their odds.
    """
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probabilities, dtype=np.float64), _OF_ZERO)
        if task.kind != ANY_OF:
            return logs
        return np.minimum(logs - np.log1p(-probabilities), _OF_ONE)


def chances(task: Task, logits: np.ndarray) -> np.ndarray:
    """The probabilities float64 (…, K) that have these `log_odds`: a sigmoid for each label, or a softmax."""
    return expit(logits) if task.kind == ANY_OF else softmax(logits, axis=-1)


def logit_problems(task: Task, logits_NK: np.ndarray, targets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is decided, as logits (n, C) of a softmax and the place of what is true, int (n,).

    Classes that exclude each other are one such decision; each label is one of two classes, on the slides of which it
    is known.
    """
    if task.kind != ANY_OF:
        return [(logits_NK, targets)]
    known_NK = ~np.isnan(targets)
    return [
        (np.stack([np.zeros(known.sum()), logits[known]], axis=1), truth[known].astype(int))
        for logits, truth, known in zip(logits_NK.T, targets.T, known_NK.T, strict=True)
    ]
