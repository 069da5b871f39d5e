"""A stack is scikit-learn's logistic regression on the log odds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mil.log_odds import log_odds
from mil.stacking import Stack, features_of, fit_stack
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

TWO, LABELS = Task(("a", "b")), Task(("x", "y"), ANY_OF)
THREE = Task(("a", "b", "n"), ONE_VS_NORMAL, "n")


def members(classes: int, runs: int = 2, slides: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = random.integers(classes, size=slides)
    found = random.dirichlet(np.ones(classes), (runs, slides)) + np.eye(classes)[targets]
    return found / 2, targets


def test_two_classes() -> None:
    members_RNK, targets = members(2)
    odds = np.log(members_RNK[..., 1] / members_RNK[..., 0]).T
    wanted = LogisticRegression(tol=1e-8).fit(odds, targets).predict_proba(odds)
    stack = fit_stack(TWO, members_RNK, targets)
    np.testing.assert_allclose(stack(TWO, members_RNK), wanted, rtol=1e-6)
    assert np.shape(stack.coefficients) == (2, features_of(TWO, 2)) == (2, 2)


def test_three_classes() -> None:
    members_RNK, targets = members(3)
    logs = np.log(members_RNK)
    features = np.hstack(logs - logs.mean(axis=2, keepdims=True))
    wanted = LogisticRegression(tol=1e-8).fit(features, targets).predict_proba(features)
    stack = fit_stack(THREE, members_RNK, targets)
    np.testing.assert_allclose(stack(THREE, members_RNK), wanted, rtol=1e-5)
    assert np.shape(stack.coefficients) == (3, features_of(THREE, 2)) == (3, 6)


def test_each_label_by_itself_where_it_is_known() -> None:
    members_RNK, first = members(2)
    targets = np.stack([first, 1 - first], axis=1).astype(float)
    targets[:30, 1] = np.nan
    stack = fit_stack(LABELS, members_RNK, targets)
    assert np.shape(stack.coefficients) == (2, features_of(LABELS, 2)) == (2, 2)
    for label, known in ((0, slice(None)), (1, slice(30, None))):
        odds = log_odds(LABELS, members_RNK)[:, :, label].T
        alone = LogisticRegression(tol=1e-8).fit(odds[known], targets[known, label].astype(int))
        np.testing.assert_allclose(
            stack(LABELS, members_RNK)[:, label], alone.predict_proba(odds)[:, 1], rtol=1e-6, err_msg=str(label)
        )


def test_by_hand() -> None:
    found = Stack(((0.0, 0.0), (1.0, 0.5)), (0.0, -1.0))(TWO, np.array([[[0.5, 0.5]], [[0.1, 0.9]]]))
    assert np.log(found[0, 1] / found[0, 0]) == pytest.approx(np.log(9) / 2 - 1)


def test_certain_models_give_a_finite_stack() -> None:
    targets = np.array([0, 1] * 20)
    certain = np.eye(2)[targets]
    certain[:4] = certain[:4, ::-1]
    found = fit_stack(TWO, certain[None], targets)(TWO, certain[None])
    assert np.isfinite(np.log(found)).all()
