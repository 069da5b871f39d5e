"""How good predictions are, with intervals that resample patients (not slides, which are not independent).

Probabilities are (N, K). Targets are int (N,), the place of the true class; or, where a slide may have any of K labels,
float (N, K), 1 or 0, nan where a label is unknown: figures are then means over the labels, each on what is known of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1000


class Estimate(NamedTuple):
    """A figure and its 95 % interval; nan where it has no meaning (an AUC of one class)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


Metric = Callable[[np.ndarray, np.ndarray], float]


def auc(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve; for more than two classes the mean of one-against-the-rest, for labels their mean.

    Nan where a class is missing, or a label is not both there and not.
    """
    classes = probabilities.shape[1]
    if targets.ndim == 2:
        return _mean_over_labels(_label_auc, probabilities, targets)
    if len(np.unique(targets)) < classes:
        return float("nan")
    if classes == 2:
        return _rank_auc(probabilities[:, 1], targets == 1)
    return float(np.mean([_rank_auc(probabilities[:, k], targets == k) for k in range(classes)]))


def _label_auc(chances: np.ndarray, targets: np.ndarray) -> float:
    return _rank_auc(chances, targets == 1) if len(np.unique(targets)) == 2 else float("nan")


def _mean_over_labels(metric: Metric, probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The mean of a metric of one label, each on the rows where it is known."""
    known_of = zip(probabilities.T, targets.T, ~np.isnan(targets.T), strict=True)
    return float(np.mean([metric(chances[known], label[known]) for chances, label, known in known_of]))


def _rank_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs in the right order, ties counting half (Mann and Whitney 1947); fast enough to resample."""
    positives = int(positive.sum())
    rank_sum = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(rank_sum / (positives * (len(positive) - positives)))


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative logarithm of the probability given to what is true; nothing is clamped."""
    with np.errstate(divide="ignore"):
        if targets.ndim == 2:
            return _mean_over_labels(_label_loss, probabilities, targets)
        return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())


def _label_loss(chances: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(np.where(targets == 1, chances, 1 - chances)).mean()) if len(targets) else float("nan")


def accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Share of rows whose most probable class is the true one; of labels that are right when cut at one half."""
    if targets.ndim == 2:
        return _mean_over_labels(_label_accuracy, probabilities, targets)
    return float((probabilities.argmax(axis=1) == targets).mean())


def _label_accuracy(chances: np.ndarray, targets: np.ndarray) -> float:
    return float(((chances >= 0.5) == (targets == 1)).mean()) if len(targets) else float("nan")


METRICS: dict[str, Metric] = {"auc": auc, "log_loss": log_loss, "accuracy": accuracy}


def estimate(
    metric: Metric, probabilities: np.ndarray, targets: np.ndarray, patients: np.ndarray, seed: int = 0
) -> Estimate:
    """The metric with its percentile bootstrap interval over patients (Efron and Tibshirani 1993, chapter 13).

    Resamples in which the metric has no meaning are left out. A perfect AUC of two classes or a perfect accuracy,
    whose resamples are all perfect, gets a lower limit that does not claim certainty.
    """
    rows_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    random = np.random.default_rng(seed)
    values = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = np.concatenate([rows_of[j] for j in random.integers(len(rows_of), size=len(rows_of))])
        values[i] = metric(probabilities[rows], targets[rows])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    value = metric(probabilities, targets)
    of_classes = targets.ndim == 1
    if value == 1 and of_classes and (metric is accuracy or (metric is auc and probabilities.shape[1] == 2)):
        low = _lower_limit_of_one(metric, targets, patients)
    return Estimate(value, float(low), float(high))


def estimate_all(probabilities: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> dict[str, Estimate]:
    """Every metric by name."""
    return {name: estimate(metric, probabilities, targets, patients) for name, metric in METRICS.items()}


def _lower_limit_of_one(metric: Metric, targets: np.ndarray, patients: np.ndarray) -> float:
    """The lower 95 % limit of an AUC or accuracy of exactly 1, of which every resample is 1 again.

    For an accuracy it is that of Clopper and Pearson (1934), for the AUC of two classes that of Newcombe (2006,
    method 5); both count patients, not slides.
    """
    if metric is accuracy:
        return float(0.025 ** (1 / len(np.unique(patients))))
    negatives, positives = (len(np.unique(patients[targets == k])) for k in (0, 1))
    extra = (negatives + positives) / 2 - 1
    theta = np.linspace(0.5, 1, 100_001)
    variance = theta * (1 - theta) * (1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta))
    inside = 1 - theta <= 1.959964 * np.sqrt(variance / (negatives * positives))
    return float(theta[inside].min())


def prior_log_loss(targets: np.ndarray) -> float:
    """The log loss of always giving each class its share: what a useful model must beat."""
    if targets.ndim == 2:
        labels = [targets[~np.isnan(targets[:, k]), k] for k in range(targets.shape[1])]
        return float(np.mean([prior_log_loss(label.astype(int)) for label in labels]))
    shares = np.bincount(targets) / len(targets)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
