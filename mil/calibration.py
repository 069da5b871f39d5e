"""Probabilities that come true as often as they say, and those for another share of the classes.

All is done to `mil.log_odds`: a slope and a shift of each class, then the shift that another prior asks for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from mil.errors import SettingsError
from mil.log_odds import chances, log_odds, logit_problems
from mil.task import ANY_OF, Task

Method = Literal["temperature", "platt"]
BALANCED = "balanced"
_SLOPES = 0.01, 100.0  # the flattest and the steepest that is fitted: slides told apart without an error ask for more


class Calibration(NamedTuple):
    """Log odds times `slopes` plus `shifts`: one for each label, or for each class, whose slopes are then all the same.

    A temperature is the inverse of a slope.
    """

    slopes: tuple[float, ...]
    shifts: tuple[float, ...]

    def __call__(self, task: Task, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (…, K), calibrated."""
        return chances(task, log_odds(task, probabilities) * self.slopes + self.shifts)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """One for each label, or one for all classes: in this order, without repetition."""
        return tuple(dict.fromkeys(1 / slope for slope in self.slopes))


def fit_calibration(task: Task, probabilities: np.ndarray, targets: np.ndarray, method: Method) -> Calibration:
    """The calibration that makes the log loss of probabilities (N, K) smallest, on slides they were not trained on.

    - `temperature` (Guo et al. 2017, section 4.2): a slope. The order of slides by a class's odds stays.
    - `platt` (Platt 1999): a slope and a shift of each class; the targets are drawn towards 1/K as he does, so that a
      few slides that are told apart without an error do not make everything certain. Of more than two classes this is
      temperature scaling with corrected bias (Alexandari et al. 2020, arXiv:1901.06852), of two it is his.

    Each label has its own of both. Both are convex in slope and shift; the slope is kept in 0.01 to 100.
    """
    fits = [_fit(*each, method) for each in logit_problems(task, log_odds(task, probabilities), targets)]
    if task.kind == ANY_OF:
        return Calibration(tuple(slope for slope, _ in fits), tuple(float(shifts[1]) for _, shifts in fits))
    ((slope, shifts),) = fits
    return Calibration((slope,) * len(shifts), tuple(map(float, shifts)))


def _fit(logits_NC: np.ndarray, targets: np.ndarray, method: Method) -> tuple[float, np.ndarray]:
    """The slope, and the shifts (C,) of which the first is 0."""
    classes = logits_NC.shape[1]
    if not len(targets):
        return 1.0, np.zeros(classes)
    free = classes - 1 if method == "platt" else 0
    wanted_NC = _softened(targets, classes) if method == "platt" else np.eye(classes)[targets]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        shifts = np.append(0, values[1:]) if free else np.zeros(classes)
        log_NC = log_softmax(values[0] * logits_NC + shifts, axis=1)
        over_NC = (np.exp(log_NC) - wanted_NC) / len(targets)
        gradient = np.append((over_NC * logits_NC).sum(), over_NC.sum(axis=0)[1:][:free])
        return -(wanted_NC * log_NC).sum() / len(targets), gradient

    found = minimize(
        loss, np.append(1, np.zeros(free)), jac=True, method="L-BFGS-B", bounds=[_SLOPES] + [(None, None)] * free,
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )  # fmt: skip
    return float(found.x[0]), np.append(0, found.x[1:]) if free else np.zeros(classes)


def _softened(targets: np.ndarray, classes: int) -> np.ndarray:
    """Float (n, C): of the n_k slides of a class, (n_k + 1) / (n_k + C) for it and 1 / (n_k + C) for each other."""
    counts_N = np.bincount(targets, minlength=classes)[targets]
    return (1 + np.eye(classes)[targets] * counts_N[:, None]) / (counts_N + classes)[:, None]


class PriorShift(NamedTuple):
    """From probabilities where classes have the shares `before` (K,) to those where they have `after` (K,).

    Saerens et al. 2002, eq. 2.4 (the shares are known here, not estimated): p(k) after_k / before_k, normalised; of
    labels, each with its lack.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]

    def __call__(self, task: Task, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (…, K) under the prior `after`."""
        if self.before == self.after:
            return probabilities
        both = np.array([self.after, self.before])
        after, before = log_odds(task, both)
        return chances(task, log_odds(task, probabilities) + after - before)


def shares(task: Task, targets: np.ndarray) -> np.ndarray:
    """The share (K,) of the slides that have each class, or each label where it is known."""
    truth_NK = targets if task.kind == ANY_OF else np.eye(len(task.classes))[targets]
    return np.nanmean(truth_NK, axis=0)


def balanced(task: Task) -> np.ndarray:
    """The prior (K,) in which classes count alike; each label is there as often as not."""
    return np.full(len(task.classes), 0.5 if task.kind == ANY_OF else 1 / len(task.classes))


def prior_from(task: Task, words: Sequence[str]) -> np.ndarray:
    """The prior (K,) that the command line gives: `balanced`, or `class=share` for each; raises SettingsError."""
    if list(words) == [BALANCED]:
        return balanced(task)
    given = _numbers(words)
    if given.keys() != {*task.classes}:
        raise SettingsError(
            f"--prior is {BALANCED}, or class=share for each of {', '.join(task.classes)}; it names {', '.join(given)}"
        )
    prior = np.array([given[name] for name in task.classes])
    if not ((prior > 0) & (prior < 1)).all():
        raise SettingsError(f"--prior takes shares between 0 and 1, not {' '.join(words)}")
    if task.kind != ANY_OF and abs(prior.sum() - 1) > 1e-6:
        raise SettingsError(f"the shares of --prior make {prior.sum():g} together; let them make 1")
    return prior if task.kind == ANY_OF else prior / prior.sum()


def _numbers(words: Sequence[str]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise SettingsError(f"--prior {word!r} is no class=share, such as tumour=0.1; or give {BALANCED}")
    return found


def as_floats(value: Any, count: int) -> tuple[float, ...]:
    """So many numbers from JSON, none beyond a billion; raises ValueError where they are not that."""
    numbers = tuple(map(float, value))
    if len(numbers) != count or not (np.abs(numbers) < 1e9).all():
        raise ValueError(f"{value!r} are no {count} numbers")
    return numbers
