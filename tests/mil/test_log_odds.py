"""Log odds and back."""

import numpy as np
import pytest

from mil.log_odds import chances, log_odds, logit_problems
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

TWO, LABELS = Task(("a", "b")), Task(("x", "y"), ANY_OF)


def test_values_by_hand() -> None:
    assert log_odds(LABELS, np.array([[0.5, 0.75]])) == pytest.approx(np.array([[0, np.log(3)]]))
    logits = log_odds(TWO, np.array([[0.25, 0.75]]))
    assert logits[0, 1] - logits[0, 0] == pytest.approx(np.log(3))


@pytest.mark.parametrize("task", [TWO, Task(("a", "b", "n"), ONE_VS_NORMAL, "n")])
def test_classes_come_back(task: Task) -> None:
    given = np.random.default_rng(0).dirichlet(np.full(len(task.classes), 0.05), 200)
    np.testing.assert_allclose(chances(task, log_odds(task, given)), given, rtol=1e-12)


def test_labels_come_back() -> None:
    given = np.random.default_rng(0).beta(0.2, 0.2, (200, 2))
    np.testing.assert_allclose(chances(LABELS, log_odds(LABELS, given)), given, rtol=1e-12)


def test_certainties_are_finite_and_come_back() -> None:
    given = np.array([[0.0, 1.0], [1.0, 0.0], [1e-300, 1.0]])
    for task in (TWO, LABELS):
        logits = log_odds(task, given)
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(chances(task, logits), given, rtol=1e-12)


def test_a_label_is_a_decision_of_two_where_it_is_known() -> None:
    logits = np.array([[1.0, 2.0], [3.0, 4.0]])
    first, second = logit_problems(LABELS, logits, np.array([[1, 0], [np.nan, 1]]))
    assert first[0].tolist() == [[0, 1]]
    assert first[1].tolist() == [1]
    assert second[0].tolist() == [[0, 2], [0, 4]]
    assert second[1].tolist() == [0, 1]
    ((same, targets),) = logit_problems(TWO, logits, np.array([0, 1]))
    assert same is logits
    assert targets.tolist() == [0, 1]
