"""How good a run is: every figure by slide and by patient, over all classes, of each class, and of each fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mil.intervals import RESAMPLES, Estimate, estimates
from mil.labels import Labels
from mil.metrics import (
    CLASS_METRICS,
    METRICS,
    Problem,
    auc,
    auc_within_folds,
    ece,
    log_loss,
    one_against_rest,
    problems,
)
from mil.task import ANY_OF, ONE_VS_NORMAL, Task
from tiling.progress import short

INTERVAL = f"95 %, over patients, from {RESAMPLES} bootstrap resamples; the models are taken as they are"
INFINITE = "infinite: to something that is true a probability of 0 was given"
NAMES = {
    "auc": "AUC", "auc_within_folds": "AUC within folds", "average_precision": "average precision",
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "F1", "kappa": "kappa",
    "log_loss": "log loss", "class_weighted_log_loss": "class-weighted log loss", "ece": "calibration error",
    "sensitivity": "sensitivity", "specificity": "specificity", "precision": "precision",
}  # fmt: skip

OF_POSITIVE = ("average_precision", "f1")  # which differ between the two classes, and are of the positive one
UNEVEN = 0.45  # where the shares trained on get a lower AUC than this, it is said; stratified folds are above


class Cases(NamedTuple):
    """What was predicted of N slides or of N patients, what was true, whose it is, and the fold that tested it."""

    probabilities: np.ndarray
    targets: np.ndarray
    patients: np.ndarray
    fold_of: np.ndarray


@dataclass(frozen=True)
class Level:
    """The figures of slides or of patients, and those of a class among them.

    `count` of the `known` ones have the class. `baseline` is what constant answers reach, see `baseline`.
    """

    count: int
    known: int
    figures: Mapping[str, Estimate]
    baseline: Mapping[str, float]
    classes: Mapping[str, "Level"] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Strict JSON: what has no value, or an infinite one, is null."""
        counts = {"count": self.count} | ({} if self.classes else {"known": self.known})
        figures = {
            name: _json(**estimate._asdict(), **({"baseline": self.baseline[name]} if name in self.baseline else {}))
            for name, estimate in self.figures.items()
        }
        classes = {name: level.as_json() for name, level in self.classes.items()}
        return counts | figures | ({"classes": classes} if classes else {})


class FoldFigures(NamedTuple):
    """The figures of one fold by slide, without intervals; nan where a class is missing in it."""

    fold: int
    name: str
    slides: int
    patients: int
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is said of a run's out-of-fold predictions, and these themselves by slide, as `cases`.

    `left_out` patients have slides of different classes and are not among `patients`. Of two classes `positive` is the
    one whose average precision and F1 are given; it is None for more, where they are means.
    """

    slides: Level
    patients: Level
    left_out: int
    folds: tuple[FoldFigures, ...]
    positive: str | None
    cases: Cases

    def as_json(self) -> dict[str, Any]:
        """What metrics.json says, strict JSON: `slides`, `patients`, `folds`, `positive`, `interval`."""
        return {
            "slides": self.slides.as_json(),
            "patients": self.patients.as_json() | {"left_out": self.left_out},
            "positive": self.positive,
            "interval": INTERVAL,
            "folds": [
                {"fold": fold.fold, "name": fold.name, "slides": fold.slides, "patients": fold.patients}
                | _json(**fold.figures)
                for fold in self.folds
            ],
        }

    def lines(self) -> list[str]:
        """The figures as a table for people, with those of each class where there are more than two or labels."""
        levels = {"by slide": self.slides}
        if self.patients.count != self.slides.count:
            levels["by patient"] = self.patients
        header = f"out of fold, {self.slides.count} slides of {self.patients.count + self.left_out} patients"
        rows = [["", *levels, "constant answer"]]
        for name in self.slides.figures:
            cells = [str(level.figures[name]) for level in levels.values()]
            if name == "auc_within_folds" and set(cells) == {"none"}:
                continue  # no fold has slides of both sides
            rows.append([NAMES[name], *cells, f"{self.slides.baseline[name]:.3f}"])
        if self.positive is None:
            for name, of_class in self.slides.classes.items():
                cells = [str(level.classes[name].figures["auc"]) for level in levels.values()]
                rows.append([f"AUC of {short(name, 40)} ({of_class.count} of {of_class.known})", *cells, "0.500"])
        lines = [f"{header}, with 95 % intervals over patients:", *_aligned(rows)]
        if (of_shares := _auc_of_shares(self.cases)) < UNEVEN:
            within = not np.isnan(self.slides.figures["auc_within_folds"].value)
            advice = "judge by the AUC within folds" if within else "and no fold has both sides for one within folds"
            what = f"answering those trained on gets an AUC of {of_shares:.3f}"
            lines.append(f"folds differ in their class shares, so that {what}: {advice}")
        if self.left_out:
            lines.append(
                f"{self.left_out} patients have slides of different classes and are left out of what is by patient"
            )
        return lines


def evaluate(labels: Labels, probabilities: np.ndarray, fold_of: np.ndarray, fold_names: Sequence[str]) -> Evaluation:
    """How good out-of-fold probabilities float (slides, K) are.

    `fold_of` int (slides,) is the fold that tested each slide, a place in `fold_names`. Every slide must have been
    tested: none of the probabilities is nan.
    """
    assert not np.isnan(probabilities).any(), "a slide without a prediction"
    slides = Cases(probabilities, labels.targets, labels.table["patient_id"].to_numpy(), fold_of)
    patients = by_patient(slides)
    positive = _positive(labels.task)
    return Evaluation(
        _level(slides, labels.task, positive),
        _level(patients, labels.task, positive),
        len(np.unique(slides.patients)) - len(patients.patients),
        tuple(_fold(slides, fold, name, positive) for fold, name in enumerate(fold_names)),
        None if positive is None else labels.task.classes[positive],
        slides,
    )


def by_patient(slides: Cases) -> Cases:
    """A case for each patient, with the mean probabilities of their slides.

    A patient has a label that any of their slides has, and lacks it where all slides of which that is known lack it.
    Of classes that exclude each other none stands above the others: patients whose slides differ are left out.
    """
    names, first, patient_of = np.unique(slides.patients, return_index=True, return_inverse=True)
    means = means_by(slides.probabilities, patient_of)
    if slides.targets.ndim == 2:
        targets = np.full(means.shape, np.nan)
        np.fmax.at(targets, patient_of, slides.targets)
        return Cases(means, targets, names, slides.fold_of[first])
    targets = slides.targets[first]
    differs = np.bincount(patient_of, slides.targets != targets[patient_of]) > 0
    return Cases(means[~differs], targets[~differs], names[~differs], slides.fold_of[first][~differs])


def means_by(chances_NK: np.ndarray, patient_of: np.ndarray) -> np.ndarray:
    """Float64 (P, K): the mean probabilities of each patient's slides, whose patients are int (N,) from 0 to P - 1."""
    counts = np.bincount(patient_of)
    sums = np.zeros((len(counts), chances_NK.shape[1]))
    np.add.at(sums, patient_of, chances_NK)
    return sums / counts[:, None]


def baseline(parts: Sequence[Problem], cases: int) -> dict[str, float]:
    """What constant answers reach, by name, of the figures in METRICS and of the AUC within folds.

    `parts` are the problems of the shares that `priors` gives, `cases` is how many cases there are. Log loss and
    calibration error are those of these shares. The others are those of the best constant, which is known: an AUC
    of 1/2, an average precision of the positive share s, an accuracy of the largest share, a balanced accuracy of 1/K,
    an F1 of 2 s / (1 + s), a kappa of 0, and a class-weighted log loss of ln K, for so weighted all shares are alike.
    """
    counts = [np.bincount(part.targets, minlength=part.probabilities_NK.shape[1]) for part in parts]
    shares = [count / count.sum() if count.any() else np.full(len(count), np.nan) for count in counts]
    once = np.ones((1, cases))
    constant = {
        "auc": 0.5,
        "auc_within_folds": 0.5,
        "average_precision": np.mean([share[1] if len(share) == 2 else share.mean() for share in shares]),
        "accuracy": np.mean([share.max() for share in shares]),
        "balanced_accuracy": np.mean([1 / len(share) for share in shares]),
        "f1": np.mean([_f1_of(share[1]) if len(share) == 2 else _f1_of(share.max()) / len(share) for share in shares]),
        "kappa": 0.0,
        "log_loss": log_loss.weighted(parts, once)[0],
        "class_weighted_log_loss": np.mean([np.log(len(share)) for share in shares]),
        "ece": ece.weighted(parts, once)[0],
    }
    return {name: float(value) for name, value in constant.items()}


def priors(targets: np.ndarray, fold_of: np.ndarray, classes: int) -> np.ndarray:
    """Float (N, K): the share of each class, or of each label where it is known, in the folds that a case is not in."""
    truth_NK = targets if targets.ndim == 2 else np.eye(classes)[targets]
    known_NK = ~np.isnan(truth_NK)
    shares_NK = np.full(truth_NK.shape, np.nan)
    for fold in np.unique(fold_of):
        train = fold_of != fold
        count_K = known_NK[train].sum(axis=0)
        shares_NK[~train] = np.where(count_K, np.nansum(truth_NK[train], axis=0) / np.maximum(count_K, 1), np.nan)
    return shares_NK


def _positive(task: Task) -> int | None:
    """The place of the class of two that figures are about: the second, or the one that is not normal."""
    if len(task.classes) != 2 or task.kind == ANY_OF:
        return None
    return 1 - task.normal_index if task.kind == ONE_VS_NORMAL else 1


def _level(cases: Cases, task: Task, positive: int | None) -> Level:
    shares = priors(cases.targets, cases.fold_of, len(task.classes))
    metrics = {"auc": auc, "auc_within_folds": auc_within_folds(cases.fold_of)}  # these first
    (figures,) = estimates(metrics | METRICS, [problems(cases.probabilities, cases.targets)], cases.patients)
    constant = baseline(problems(shares, cases.targets), len(cases.targets))
    parts, of_shares = (one_against_rest(chances, cases.targets) for chances in (cases.probabilities, shares))
    estimates_of = estimates(metrics | CLASS_METRICS, [[part] for part in parts], cases.patients)
    classes = {
        name: Level(int(part.targets.sum()), len(part.targets), found, baseline([share], len(cases.targets)))
        for name, part, share, found in zip(task.classes, parts, of_shares, estimates_of, strict=True)
    }
    if positive is not None:
        of_positive = classes[task.classes[positive]]
        figures |= {name: of_positive.figures[name] for name in OF_POSITIVE}
        constant |= {name: of_positive.baseline[name] for name in OF_POSITIVE}
    return Level(len(cases.targets), len(cases.targets), figures, constant, classes)


def _fold(slides: Cases, fold: int, name: str, positive: int | None) -> FoldFigures:
    tested = slides.fold_of == fold
    chances, targets = slides.probabilities[tested], slides.targets[tested]
    figures = {key: metric(chances, targets) for key, metric in METRICS.items()}
    if positive is not None:
        part, once = one_against_rest(chances, targets)[positive], np.ones((1, len(targets)))
        figures |= {key: float(METRICS[key].weighted([part], once)[0]) for key in OF_POSITIVE}
    return FoldFigures(fold, name, int(tested.sum()), len(np.unique(slides.patients[tested])), figures)


def _auc_of_shares(cases: Cases) -> float:
    """What answers get that are, in each fold, the class shares of the others; nan where there is no other."""
    shares = priors(cases.targets, cases.fold_of, cases.probabilities.shape[1])
    return float("nan") if np.isnan(shares).any() else auc(shares, cases.targets)


def _f1_of(share: float) -> float:
    """The F1 of a class of this share that is always decided on."""
    return 2 * share / (1 + share)


def _json(**figures: float) -> dict[str, Any]:
    """Numbers as strict JSON has them, with a note where null stands for an infinite one."""
    content: dict[str, Any] = {name: value if np.isfinite(value) else None for name, value in figures.items()}
    return content | ({"note": INFINITE} if any(np.isinf(value) for value in figures.values()) else {})


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
