"""What an ensemble does, and that it comes back from JSON."""

import json

import numpy as np
import pytest

from mil.errors import SettingsError
from mil.mixture import Mixture, MixtureSpec, fit_mixture, mean_of
from mil.task import ANY_OF, ONE_VS_NORMAL, Task
from tests.mil.test_crossfit import TWO, labels_of

RANDOM = np.random.default_rng(0)
TARGETS = np.arange(90) % 2
MEMBERS = (RANDOM.dirichlet(np.ones(2), (3, 90)) + np.eye(2)[TARGETS]) / 2
LABELS, FOLD_OF = labels_of(TARGETS), np.arange(90) // 2 % 3


@pytest.mark.parametrize("method", ["blend", "mean"])
def test_of_one_run_is_that_run(method: str) -> None:
    mixture = fit_mixture(LABELS, MEMBERS[:1], FOLD_OF, MixtureSpec(method=method))  # type: ignore[arg-type]
    assert mixture == mean_of(1)
    np.testing.assert_array_equal(mixture(TWO, MEMBERS[:1]), MEMBERS[0])


def test_given_weights_are_scaled() -> None:
    mixture = fit_mixture(LABELS, MEMBERS, FOLD_OF, MixtureSpec(weights=(1, 0, 3)))
    assert mixture.weights == (0.25, 0, 0.75)
    np.testing.assert_allclose(mixture(TWO, MEMBERS), 0.25 * MEMBERS[0] + 0.75 * MEMBERS[2])


def test_calibration_then_prior() -> None:
    spec = MixtureSpec(method="mean", calibrate="temperature", prior=("a=0.9", "b=0.1"))
    mixture = fit_mixture(LABELS, MEMBERS, FOLD_OF, spec)
    assert mixture.prior == ((0.5, 0.5), (0.9, 0.1))
    assert mixture.calibration is not None
    odds = np.log(MEMBERS.mean(0)[:, 1] / MEMBERS.mean(0)[:, 0]) * mixture.calibration.slopes[0] - np.log(9)
    np.testing.assert_allclose(mixture(TWO, MEMBERS)[:, 1], 1 / (1 + np.exp(-odds)))


def test_the_prior_that_runs_have_in_mind() -> None:
    targets = np.arange(90) % 3 // 2
    labels, balanced = labels_of(targets), np.array([0.5, 0.5])
    spec = MixtureSpec(method="mean", prior=("balanced",))
    assert fit_mixture(labels, MEMBERS, FOLD_OF, spec).prior == (pytest.approx((2 / 3, 1 / 3)), (0.5, 0.5))
    assert fit_mixture(labels, MEMBERS, FOLD_OF, spec, balanced).prior == ((0.5, 0.5), (0.5, 0.5))
    platt = MixtureSpec(method="mean", prior=("balanced",), calibrate="platt")
    assert fit_mixture(labels, MEMBERS, FOLD_OF, platt, balanced).prior == (pytest.approx((2 / 3, 1 / 3)), (0.5, 0.5))


@pytest.mark.parametrize("method", ["blend", "stack", "mean"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize(("calibrate", "prior"), [(None, ()), ("platt", ("balanced",)), ("temperature", ())])
def test_comes_back_from_json(method: str, average: str, calibrate: str | None, prior: tuple[str, ...]) -> None:
    spec = MixtureSpec(method=method, average=average, calibrate=calibrate, prior=prior)  # type: ignore[arg-type]
    mixture = fit_mixture(LABELS, MEMBERS, FOLD_OF, spec)
    again = Mixture.from_json(json.loads(json.dumps(mixture.as_json())), TWO, 3)
    assert again == mixture
    np.testing.assert_array_equal(again(TWO, MEMBERS), mixture(TWO, MEMBERS))
    found = mixture(TWO, MEMBERS)
    assert found.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"average": "median"}, "nothing to average"),
        ({"weights": None}, "either weights or a stack"),
        ({"weights": [0.5]}, "no 2 numbers"),
        ({"weights": [0.5, 0.6]}, "are none"),
        ({"weights": [-1, 2]}, "are none"),
        ({"weights": [float("nan"), 1]}, "no 2 numbers"),
        ({"calibration": {"slopes": [1, 1], "shifts": [1]}}, "no 2 numbers"),
        ({"calibration": {"slopes": [1, 1]}}, "shifts"),
        ({"prior": {"before": [0.5, 0.5], "after": [1, 0]}}, "prior"),
        ({"weights": None, "stack": {"coefficients": [[1, 2]], "intercepts": [0, 0]}}, "1 classes and not 2"),
    ],
)
def test_damaged_json(wrong: dict[str, object], error: str) -> None:
    content = mean_of(2).as_json() | wrong
    with pytest.raises((ValueError, KeyError, TypeError), match=error):
        Mixture.from_json(content, TWO, 2)


def test_labels_and_classes_against_a_normal_one() -> None:
    for task in (Task(("x", "y", "z"), ANY_OF), Task(("x", "n", "z"), ONE_VS_NORMAL, "n")):
        mixture = mean_of(2, "logits")
        members = RANDOM.dirichlet(np.ones(3), (1, 20)).repeat(2, 0)
        np.testing.assert_allclose(mixture(task, members), members[0], rtol=1e-12)


def test_refused_settings() -> None:
    with pytest.raises(SettingsError, match="--weights are those of --method blend, not of stack"):
        MixtureSpec(method="stack", weights=(1, 2))
    with pytest.raises(SettingsError, match="--weights takes numbers of at least 0, and one above it"):
        MixtureSpec(weights=(0, 0))
    with pytest.raises(SettingsError, match="--weights has 2 numbers for 3 runs"):
        fit_mixture(LABELS, MEMBERS, FOLD_OF, MixtureSpec(weights=(1, 2)))
