"""Figures with intervals that resample patients, for slides of a patient are not independent of each other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mil.metrics import (
    Metric,
    Problem,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    ece,
    f1,
    kappa,
    precision,
    problems,
    sensitivity,
    specificity,
)

RESAMPLES = 1000
_WEIGHTS = 2**21  # at a time: 16 MB
_ALIKE = 1e-12  # what rounding may make of the same figure
_Limit = Callable[[Problem, np.ndarray], float]


class Estimate(NamedTuple):
    """A figure and its 95 % interval; nan where it has no meaning (an AUC of one class), or no limit is known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "none"
        low, high = ("?" if np.isnan(limit) else f"{limit:.3f}" for limit in (self.low, self.high))
        return f"{self.value:.3f} ({low} to {high})"


def estimate(
    metric: Metric, probabilities: np.ndarray, targets: np.ndarray, patients: np.ndarray, seed: int = 0
) -> Estimate:
    """The metric with its interval, as `estimates` takes it; `patients` (N,) says whose each slide is."""
    return estimates({"": metric}, [problems(probabilities, targets)], patients, seed)[0][""]


def estimates(
    metrics: Mapping[str, Metric], sets: Sequence[Sequence[Problem]], patients: np.ndarray, seed: int = 0
) -> list[dict[str, Estimate]]:
    """For each set of problems, every metric's mean over it, with its percentile bootstrap interval over patients.

    Efron and Tibshirani (1993), chapter 13, with the same 1000 resamples for all. Resamples in which a figure has no
    meaning are left out of it. Resamples that are all alike say nothing of the limits, which are then nan: those of a
    balanced accuracy where one class is always decided on, or of anything with a single patient. A figure that is as
    high or as low as it can be is so again in every resample: it gets a limit that does not claim certainty, nan where
    none is known. A log loss that is infinite in all stays so. Chance is calibration error, so that resamples have
    more of it than the slides have, as these have more than the truth: its lower limit is the basic one (Davison and
    Hinkley 1997, chapter 5), from 0 on. The upper one is the percentile, for the basic one is often below the truth.
    """
    drawn: list[dict[str, list[np.ndarray]]] = [{name: [np.empty(0)] for name in metrics} for _ in sets]
    for weights_BN in _resamples(patients, seed):
        for of_set, parts in zip(drawn, sets, strict=True):
            for name, metric in metrics.items():
                of_set[name].append(metric.weighted(parts, weights_BN))
    return [
        {name: _estimate(metrics[name], np.concatenate(values), parts, patients) for name, values in of_set.items()}
        for of_set, parts in zip(drawn, sets, strict=True)
    ]


def _resamples(patients: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """How often each slide counts in each resample of the patients, float64 (B, N), some resamples at a time."""
    names, patient_of = np.unique(patients, return_inverse=True)
    random, at_a_time = np.random.default_rng(seed), max(1, _WEIGHTS // max(1, len(patients)))
    for start in range(0, RESAMPLES if len(names) else 0, at_a_time):
        resamples = min(at_a_time, RESAMPLES - start)
        drawn = random.integers(len(names), size=(resamples, len(names)))
        drawn += np.arange(resamples)[:, None] * len(names)
        counts = np.bincount(drawn.ravel(), minlength=resamples * len(names)).reshape(resamples, len(names))
        yield counts.astype(np.float64)[:, patient_of]


def _estimate(metric: Metric, drawn: np.ndarray, parts: Sequence[Problem], patients: np.ndarray) -> Estimate:
    value = float(metric.weighted(parts, np.ones((1, len(patients))))[0])
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(drawn):
        return Estimate(value, np.nan, np.nan)
    with np.errstate(invalid="ignore"):  # between two infinities
        limits = np.percentile(drawn, [2.5, 97.5])
        alike = np.ptp(drawn) < _ALIKE
    low, high = np.where(np.isnan(limits), np.inf, limits)
    if metric is ece:
        low, high = max(0, min(value, 2 * value - high)), max(value, high)
    if alike:
        low, high = np.nan, np.nan
    if value == 1 and metric in _LIMIT_OF_ONE:
        low, high = _mean_limit(_LIMIT_OF_ONE[metric], parts, patients), 1
    if value == 0 and metric in _LIMIT_OF_ZERO:
        low, high = 0, _mean_limit(_LIMIT_OF_ZERO[metric], parts, patients)
    return Estimate(value, float(low), float(high))


def _mean_limit(limit: _Limit, parts: Sequence[Problem], patients: np.ndarray) -> float:
    """The mean over some problems of the limits of a figure that is 1, or 0, in each of them: a cautious one."""
    return float(np.mean([limit(part, patients[part.rows]) for part in parts]))


def _of_all(rows: np.ndarray) -> float:
    """The lower limit of a proportion of 1 among some patients (Clopper and Pearson 1934)."""
    return float(0.025 ** (1 / len(np.unique(rows))))


def _of_each_class(part: Problem, patients: np.ndarray) -> float:
    return float(np.mean([_of_all(patients[part.targets == k]) for k in range(part.probabilities_NK.shape[1])]))


def _of_f1(part: Problem, patients: np.ndarray) -> float:
    """With sensitivity and precision both at their limit: F1 is then that limit."""
    if part.probabilities_NK.shape[1] == 2:
        return _of_all(patients[part.targets == 1])
    return _of_each_class(part, patients)


def _of_no_f1(part: Problem, patients: np.ndarray) -> float:
    """With a sensitivity s at its upper limit, and a precision of 1: 2 s / (1 + s)."""
    classes = part.probabilities_NK.shape[1]
    chosen = [1] if classes == 2 else range(classes)
    upper = 1 - np.array([_of_all(patients[part.targets == k]) for k in chosen])
    return float(np.mean(2 * upper / (1 + upper)))


def _of_kappa(part: Problem, patients: np.ndarray) -> float:
    """With the accuracy at its limit, and classes decided on as often as they are there."""
    by_chance = float(np.square(np.bincount(part.targets) / len(part.targets)).sum())
    return (_of_all(patients) - by_chance) / (1 - by_chance)


def _of_auc(part: Problem, patients: np.ndarray) -> float:
    """That of Newcombe (2006, method 5); of more than two classes the mean over each against the rest."""
    classes = part.probabilities_NK.shape[1]
    chosen = [1] if classes == 2 else range(classes)
    return float(np.mean([_newcombe(patients, part.targets == k) for k in chosen]))


def _newcombe(patients: np.ndarray, positive: np.ndarray) -> float:
    negatives, positives = (len(np.unique(patients[positive == there])) for there in (False, True))
    extra = (negatives + positives) / 2 - 1
    theta = np.linspace(0.5, 1, 100_001)
    variance = theta * (1 - theta) * (1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta))
    inside = 1 - theta <= 1.959964 * np.sqrt(variance / (negatives * positives))
    return float(theta[inside].min())


# The lower 95 % limit of a figure of exactly 1. All count patients, not slides.
_LIMIT_OF_ONE: dict[Metric, _Limit] = {
    auc: _of_auc,
    average_precision: lambda part, patients: float("nan"),  # none is known
    accuracy: lambda part, patients: _of_all(patients),
    balanced_accuracy: _of_each_class,
    f1: _of_f1,
    kappa: _of_kappa,
    sensitivity: lambda part, patients: _of_all(patients[part.targets == 1]),
    specificity: lambda part, patients: _of_all(patients[part.targets == 0]),
    precision: lambda part, patients: _of_all(patients[part.decided == 1]),
}


def _from_the_other_side(limit: _Limit) -> _Limit:
    return lambda part, patients: 1 - limit(part, patients)


# The upper one of a figure of exactly 0.
_LIMIT_OF_ZERO: dict[Metric, _Limit] = {
    metric: _from_the_other_side(_LIMIT_OF_ONE[metric])
    for metric in (auc, accuracy, balanced_accuracy, sensitivity, specificity, precision)
} | {f1: _of_no_f1}
