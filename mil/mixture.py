"""How the probabilities of several runs become those of an ensemble: mean, blend or stack, calibrated, for a prior."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mil.blend import Average, average, fit_weights
from mil.calibration import Calibration, PriorShift, as_floats, fit_calibration, prior_from, shares
from mil.crossfit import cross_fitted, has_all
from mil.errors import SettingsError
from mil.labels import Labels
from mil.stacking import Stack, features_of, fit_stack
from mil.task import Task
from tiling.settings import check, setting


@dataclass(frozen=True)
class MixtureSpec:
    """How runs are put together."""

    method: Literal["blend", "stack", "mean"] = setting(
        "blend", "what is saved: a weighted mean, a logistic regression on the log odds, or the plain mean"
    )
    weights: tuple[float, ...] = setting((), "of the blend, one for each run in their order; fitted if left out")
    metric: Literal[
        "log_loss",
        "class_weighted_log_loss",
        "auc",
        "average_precision",
        "balanced_accuracy",
        "accuracy",
        "f1",
        "kappa",
    ] = setting("log_loss", "the figure for which weights are fitted")
    average: Literal["probabilities", "logits"] = setting(
        "probabilities", "what means are taken of; the mean of logits is the geometric one"
    )
    calibrate: Literal["temperature", "platt"] | None = setting(
        None, "make probabilities come true as often as they say: by one temperature, or by Platt scaling"
    )
    prior: tuple[str, ...] = setting(
        (), "shares of the classes where it will be used, as class=share for each, or balanced; those of the labels if "
        "left out"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self, SettingsError)
        if self.weights and self.method != "blend":
            raise SettingsError(f"--weights are those of --method blend, not of {self.method}; leave one out")
        if any(not (0 <= weight < np.inf) for weight in self.weights) or (self.weights and not sum(self.weights)):
            raise SettingsError("--weights takes numbers of at least 0, and one above it")


@dataclass(frozen=True)
class Mixture:
    """A function of the probabilities of R runs; just one of `weights` (R,), which sum to 1, and `stack` is there."""

    average: Average = "probabilities"
    weights: tuple[float, ...] | None = None
    stack: Stack | None = None
    calibration: Calibration | None = None
    prior: PriorShift | None = None

    def __call__(self, task: Task, members_RNK: np.ndarray) -> np.ndarray:
        """Probabilities float64 (N, K) of those of the runs (R, N, K)."""
        if self.stack is not None:
            found = self.stack(task, members_RNK)
        else:
            found = average(task, members_RNK, np.array(self.weights), self.average)
        if self.calibration is not None:
            found = self.calibration(task, found)
        return found if self.prior is None else self.prior(task, found)

    def in_words(self, task: Task, names: Sequence[str]) -> list[tuple[str, str]]:
        """What is done to the probabilities of the runs with these names, step by step: what, and with which numbers.

        Nothing is said of a single run's weight.
        """
        steps = []
        if self.stack is not None:
            steps.append(("stack", f"a logistic regression on what {', '.join(names)} say"))
        elif self.weights is not None and len(self.weights) > 1:
            steps.append((f"mean of {self.average}", _listed(names, self.weights)))
        if self.calibration is not None:
            if any(self.calibration.shifts):
                steps.append(("slopes", _listed(task.classes, self.calibration.slopes)))
                steps.append(("shifts", _listed(task.classes, self.calibration.shifts)))
            else:
                steps.append(("temperature", ", ".join(f"{each:.3f}" for each in self.calibration.temperatures)))
        if self.prior is not None:
            before, after = (_listed(task.classes, shares) for shares in self.prior)
            steps.append(("prior", f"from {before} to {after}"))
        return steps

    def as_json(self) -> dict[str, Any]:
        """Plain values, of which `from_json` makes it again."""
        parts = {"stack": self.stack, "calibration": self.calibration, "prior": self.prior}
        return {
            "average": self.average,
            "weights": self.weights,
            **{name: None if part is None else part._asdict() for name, part in parts.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], task: Task, runs: int) -> "Mixture":
        """The mixture that `as_json` made plain values of; raises KeyError, TypeError or ValueError if it is none."""
        classes = len(task.classes)
        if content["average"] not in ("probabilities", "logits"):
            raise ValueError(f"{content['average']!r} is nothing to average")
        weights, stack, calibration, prior = (content[name] for name in ("weights", "stack", "calibration", "prior"))
        if (weights is None) == (stack is None):
            raise ValueError("it needs either weights or a stack")
        if stack is not None:
            rows = [as_floats(row, features_of(task, runs)) for row in stack["coefficients"]]
            if len(rows) != classes:
                raise ValueError(f"its stack has {len(rows)} classes and not {classes}")
            stack = Stack(tuple(rows), as_floats(stack["intercepts"], classes))
        if calibration is not None:
            calibration = Calibration(*(as_floats(calibration[name], classes) for name in Calibration._fields))
        if prior is not None:
            prior = PriorShift(*(as_floats(prior[name], classes) for name in PriorShift._fields))
            if not all(0 < share < 1 for shares in prior for share in shares):
                raise ValueError("its prior is none")
        return cls(content["average"], None if weights is None else _weights(weights, runs), stack, calibration, prior)


def _weights(values: Any, runs: int) -> tuple[float, ...]:
    weights = as_floats(values, runs)
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"its weights {weights} are none")
    return weights


def _listed(names: Iterable[str], numbers: Iterable[float]) -> str:
    return ", ".join(f"{name} {number:.3f}" for name, number in zip(names, numbers, strict=True))


def mean_of(runs: int, of: Average = "probabilities") -> Mixture:
    """The plain mean of so many runs."""
    return Mixture(of, (1 / runs,) * runs)


def fit_mixture(
    labels: Labels, members_RNK: np.ndarray, fold_of: np.ndarray, spec: MixtureSpec, before: np.ndarray | None = None
) -> Mixture:
    """The mixture that a spec asks for, fitted to out-of-fold probabilities (R, N, K) of labelled slides.

    What is calibrated is what slides get from weights or a stack that were fitted without their fold (`fold_of` int
    (N,)), where the other folds have every class. `before` (K,) is the prior that the runs have in mind, None: the
    shares of these slides, as have a stack and Platt scaling anyway.
    """
    task = labels.task

    def fit(part: Labels, part_RNK: np.ndarray) -> Mixture:
        return _combined(part, part_RNK, spec)

    mixture = fit(labels, members_RNK)
    calibration = prior = None
    if spec.calibrate is not None:
        fitted = spec.method == "stack" or (spec.method == "blend" and not spec.weights and len(members_RNK) > 1)
        if fitted and has_all(labels, fold_of):
            found = cross_fitted(labels, members_RNK, fold_of, lambda part, part_RNK, _: fit(part, part_RNK))
        else:
            found = mixture(task, members_RNK)
        calibration = fit_calibration(task, found, labels.targets, spec.calibrate)
    if spec.prior:
        if before is None or spec.method == "stack" or spec.calibrate == "platt":
            before = shares(task, labels.targets)
        prior = PriorShift(tuple(map(float, before)), tuple(map(float, prior_from(task, spec.prior))))
    return replace(mixture, calibration=calibration, prior=prior)


def _combined(labels: Labels, members_RNK: np.ndarray, spec: MixtureSpec) -> Mixture:
    """The mixture as far as weights or a stack go."""
    runs, task = len(members_RNK), labels.task
    if spec.method == "stack":
        return Mixture(spec.average, stack=fit_stack(task, members_RNK, labels.targets))
    if spec.method == "mean" or runs == 1:
        return mean_of(runs, spec.average)
    if spec.weights:
        if len(spec.weights) != runs:
            raise SettingsError(f"--weights has {len(spec.weights)} numbers for {runs} runs; give one for each")
        weights = np.array(spec.weights) / sum(spec.weights)
    else:
        weights = fit_weights(task, members_RNK, labels.targets, spec.average, spec.metric)
    return Mixture(spec.average, tuple(map(float, weights)))
