"""Figures that say how good predictions are, each taken under many weightings of the slides at once.

Probabilities are float (N, K). Targets are int (N,), the place of the true class; or, where a slide may have any of K
labels, float (N, K), 1 or 0, nan where a label is unknown: figures are then means over the labels, each on the slides
of which it is known. Of more than two classes, figures that tell one class from the rest are their plain (macro) mean;
of two they are those of the second, the positive one. A figure is nan where it has no meaning: with no slide, or where
a class it looks at has none. No probability is clamped.

A row of weights (B, N) says how often each slide counts. A resample is such a row, so that a thousand of them cost a
few passes of array arithmetic; `mil.intervals` draws them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CALIBRATION_BINS = 15


class Problem(NamedTuple):
    """One decision for each of n slides: which of K classes it has. A label is a problem of two classes.

    `rows` (n,) are the places of its slides among all that have weights; `confidence` (n,) is the probability
    whose calibration is judged, and `came_true` bool (n,) whether that was so.
    """

    rows: np.ndarray
    probabilities_NK: np.ndarray
    targets: np.ndarray
    decided: np.ndarray
    confidence: np.ndarray
    came_true: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A figure of a problem under B weightings: `of` takes the problem and weights (B, n) and gives float (B,)."""

    of: Callable[[Problem, np.ndarray], np.ndarray]

    def __call__(self, probabilities: np.ndarray, targets: np.ndarray) -> float:
        """The figure, each slide counting once."""
        return float(self.weighted(problems(probabilities, targets), np.ones((1, len(targets))))[0])

    def weighted(self, parts: Sequence[Problem], weights_BN: np.ndarray) -> np.ndarray:
        """The mean figure of some problems, float (B,)."""
        return np.mean([self.of(part, _at(part.rows, weights_BN)) for part in parts], axis=0)


def problems(probabilities: np.ndarray, targets: np.ndarray) -> list[Problem]:
    """What is decided: one of the classes, or each label by itself, which a slide has from a half on.

    What is calibrated is the probability of the class decided on (Guo et al. 2017), or that of the label.
    """
    if targets.ndim == 2:
        return [_label(chances, label) for chances, label in zip(probabilities.T, targets.T, strict=True)]
    decided = probabilities.argmax(axis=1)
    return [
        Problem(np.arange(len(targets)), probabilities, targets, decided, probabilities.max(axis=1), decided == targets)
    ]


def one_against_rest(probabilities: np.ndarray, targets: np.ndarray) -> list[Problem]:
    """Each class told from all others, a slide having the class that is decided on; or each label by itself."""
    if targets.ndim == 2:
        return problems(probabilities, targets)
    decided, rows = probabilities.argmax(axis=1), np.arange(len(targets))
    return [_yes_or_no(rows, chances, targets == k, decided == k) for k, chances in enumerate(probabilities.T)]


def _label(chances: np.ndarray, label: np.ndarray) -> Problem:
    known = np.flatnonzero(~np.isnan(label))
    return _yes_or_no(known, chances[known], label[known] == 1, chances[known] >= 0.5)


def _yes_or_no(rows: np.ndarray, chances: np.ndarray, truth: np.ndarray, decided: np.ndarray) -> Problem:
    both = np.stack([1 - chances, chances], axis=1)
    return Problem(rows, both, truth.astype(int), decided.astype(int), chances, truth)


def _auc(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    """The share of pairs in the right order, ties counting half (Mann and Whitney 1947)."""
    return _over_classes(_ranked_auc, part, weights_BN)


def _ranked_auc(scores: np.ndarray, truth: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    return _share(*_pairs(scores, truth, weights_BN))


def _pairs(scores: np.ndarray, truth: np.ndarray, weights_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of the pairs of a positive and a negative that are in the right order, and of all pairs; (B,)."""
    positive_BG, negative_BG = _by_score(scores, truth, weights_BN)
    positives_B, negatives_B = positive_BG.sum(axis=1), negative_BG.sum(axis=1)
    beaten_BG = negatives_B[:, None] - np.cumsum(negative_BG, axis=1) + negative_BG / 2
    return np.einsum("bg,bg->b", positive_BG, beaten_BG), positives_B * negatives_B


def auc_within_folds(fold_of: np.ndarray) -> Metric:
    """The AUC of the pairs of slides that the same fold has tested; `fold_of` (N,) says which has tested each.

    Folds are weighted by their pairs. A model that tells no slide from another gets 1/2 of it; of `auc` less, where
    folds differ in their class shares: the more positives a fold has, the fewer it leaves to be trained on.
    """

    def within(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
        fold_of_n = fold_of[part.rows]
        rows_of = [np.flatnonzero(fold_of_n == fold) for fold in np.unique(fold_of_n)]

        def figure(scores: np.ndarray, truth: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
            pairs = np.zeros((2, len(weights_BN)))
            for rows in rows_of:
                if 0 < truth[rows].sum() < len(rows):
                    pairs += _pairs(scores[rows], truth[rows], weights_BN[:, rows])
            return _share(*pairs)

        return _over_classes(figure, part, weights_BN)

    return Metric(within)


def _average_precision(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    """The mean precision at the rank of each positive, without interpolation, as in scikit-learn."""
    return _over_classes(_ranked_precision, part, weights_BN)


def _ranked_precision(scores: np.ndarray, truth: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    positive_BG, negative_BG = _by_score(scores, truth, weights_BN)
    found_BG = np.cumsum(positive_BG, axis=1)
    taken_BG = np.maximum(found_BG + np.cumsum(negative_BG, axis=1), 1e-300)  # none taken: none of them positive
    return _share(np.einsum("bg,bg->b", positive_BG, found_BG / taken_BG), positive_BG.sum(axis=1))


def _by_score(scores: np.ndarray, truth: np.ndarray, weights_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of what is true, and of what is not, at each of G different scores, highest first; each (B, G)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    weights_BN, truth = weights_BN[:, order], truth[order]
    all_BG = weights_BN if len(starts) == len(order) else np.add.reduceat(weights_BN, starts, axis=1)
    true_BN = weights_BN * truth
    true_BG = true_BN if len(starts) == len(order) else np.add.reduceat(true_BN, starts, axis=1)
    return true_BG, all_BG - true_BG


def _over_classes(
    figure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], part: Problem, weights_BN: np.ndarray
) -> np.ndarray:
    """The figure of the second of two classes, or the mean over more of them, each against the rest."""
    classes = part.probabilities_NK.shape[1]
    chosen = [1] if classes == 2 else range(classes)
    return np.mean([figure(part.probabilities_NK[:, k], part.targets == k, weights_BN) for k in chosen], axis=0)


def _accuracy(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    return _mean((part.decided == part.targets).astype(float), weights_BN)


def _hits(part: Problem, weights_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weight of each class where it is true and decided on, where it is true, where it is decided on; (B, K)."""
    one_of = np.eye(part.probabilities_NK.shape[1])
    true_NK, decided_NK = one_of[part.targets], one_of[part.decided]
    return weights_BN @ (true_NK * decided_NK), weights_BN @ true_NK, weights_BN @ decided_NK


def _recalls(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    hit_BK, true_BK, _ = _hits(part, weights_BN)
    return _share(hit_BK, true_BK)


def _balanced_accuracy(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    return _recalls(part, weights_BN).mean(axis=1)


def _sensitivity(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    return _recalls(part, weights_BN)[:, 1]


def _specificity(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    return _recalls(part, weights_BN)[:, 0]


def _precision(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    hit_BK, _, decided_BK = _hits(part, weights_BN)
    return _share(hit_BK, decided_BK)[:, 1]


def _f1(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    hit_BK, true_BK, decided_BK = _hits(part, weights_BN)
    f1_BK = np.where(true_BK > 0, _share(2 * hit_BK, true_BK + decided_BK), np.nan)
    return f1_BK[:, 1] if f1_BK.shape[1] == 2 else f1_BK.mean(axis=1)


def _kappa(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    """Agreement beyond that of chance, all errors alike (Cohen 1960)."""
    hit_BK, true_BK, decided_BK = _hits(part, weights_BN)
    total_B = true_BK.sum(axis=1)
    by_chance_B = np.einsum("bk,bk->b", true_BK, decided_BK)
    return _share(hit_BK.sum(axis=1) * total_B - by_chance_B, total_B**2 - by_chance_B)


def _log_loss(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    return _mean(_losses(part), weights_BN)


def _class_weighted_log_loss(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    """Each class's mean negative log-likelihood, averaged over the classes."""
    of_class = [part.targets == k for k in range(part.probabilities_NK.shape[1])]
    losses = _losses(part)
    return np.mean([_mean(losses[there], weights_BN[:, there]) for there in of_class], axis=0)


def _losses(part: Problem) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(part.probabilities_NK[np.arange(len(part.targets)), part.targets])


def _ece(part: Problem, weights_BN: np.ndarray) -> np.ndarray:
    """The mean distance, weighted by slides, of confidence and what came true in each bin (Guo et al. 2017, eq. 3)."""
    bin_NM = calibration_bin(part.confidence)[:, None] == np.arange(CALIBRATION_BINS)
    gap_NM = np.where(bin_NM, (part.confidence - part.came_true)[:, None], 0)
    return _share(np.abs(weights_BN @ gap_NM).sum(axis=1), weights_BN.sum(axis=1))


def calibration_bin(confidence: np.ndarray) -> np.ndarray:
    """Int (n,): in which of 15 bins of equal width each probability lies, a border in the one below."""
    return np.digitize(confidence, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], right=True)


def _at(rows: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """The weights of a problem's slides, without a copy where these are all."""
    return weights_BN if len(rows) == weights_BN.shape[1] else weights_BN[:, rows]


def _mean(values: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """The weighted mean (B,), infinite where a value that counts is."""
    infinite = np.isinf(values)
    total_B = weights_BN @ np.where(infinite, 0, values)
    if infinite.any():
        total_B = np.where(weights_BN @ infinite > 0, np.inf, total_B)
    return _share(total_B, weights_BN.sum(axis=1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Their quotient, nan where the whole is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


auc = Metric(_auc)
average_precision = Metric(_average_precision)
accuracy = Metric(_accuracy)
balanced_accuracy = Metric(_balanced_accuracy)
f1 = Metric(_f1)
kappa = Metric(_kappa)
log_loss = Metric(_log_loss)
class_weighted_log_loss = Metric(_class_weighted_log_loss)
ece = Metric(_ece)
sensitivity = Metric(_sensitivity)
specificity = Metric(_specificity)
precision = Metric(_precision)

METRICS: dict[str, Metric] = {
    "auc": auc,
    "average_precision": average_precision,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "kappa": kappa,
    "log_loss": log_loss,
    "class_weighted_log_loss": class_weighted_log_loss,
    "ece": ece,
}
# Of a class against the rest, or of a label, also these: they take the second of two classes for the positive one.
CLASS_METRICS: dict[str, Metric] = METRICS | {
    "sensitivity": sensitivity, "specificity": specificity, "precision": precision,
}  # fmt: skip
