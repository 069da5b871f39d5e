"""Labels spread to what lies near, and only what is certain enough is kept."""

import numpy as np
import pytest

from mil.errors import SettingsError
from mil.spreading import SpreadSpec, kept, spread
from mil.task import Task

TWO, SEVERAL = Task(("a", "b")), Task(("a", "b"), "any of")
nan = np.nan


def test_clusters_take_the_label_of_what_is_in_them() -> None:
    """Two bundles of directions, a labelled slide in each: the others get its label for certain, near or far of 0."""
    random = np.random.default_rng(0)
    directions = np.repeat([[1.0, 0, 0], [0, 1, 0]], 10, axis=0) + random.normal(0, 0.01, (20, 3))
    vectors = directions[[0, 10, *range(1, 10), *range(11, 20)]] * random.uniform(1, 9, (20, 1))
    found = spread(TWO, vectors, np.array([1, 0]), SpreadSpec(neighbors=5))
    assert found.shape == (20, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.argmax(axis=1).tolist() == [1, 0, *[1] * 9, *[0] * 9]
    assert found.max(axis=1).min() > 0.99


def test_between_two_labels_nothing_is_certain() -> None:
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    found = spread(TWO, vectors, np.array([0, 1]), SpreadSpec(neighbors=4))
    np.testing.assert_allclose(found[2:], 0.5)


def test_each_of_several_labels_is_spread_by_itself() -> None:
    vectors = np.array([[1.0, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1], [1, 0], [-1, 0]])
    targets = np.array([[1, nan], [nan, 0], [0, 1], [nan, nan]])
    found = spread(SEVERAL, vectors, targets, SpreadSpec(neighbors=2))
    assert (found[4:].round(2) == [[1, 0], [0, 1]]).all()


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        (TWO, "soft", [[0.9, 0.1], [nan, nan], [nan, nan]]),
        (TWO, "hard", [[1, 0], [nan, nan], [nan, nan]]),
        (SEVERAL, "soft", [[0.9, 0.1], [nan, nan], [0.0, 0.0]]),
        (SEVERAL, "hard", [[1, 0], [nan, nan], [0, 0]]),
    ],
)
def test_kept(task: Task, targets: str, expected: list[list[float]]) -> None:
    """What nothing has reached has probabilities of 0: no class, and of several labels none."""
    chances = np.array([[0.9, 0.1], [0.8, 0.2], [0, 0]])
    found = kept(task, chances, SpreadSpec(confidence=0.9, targets=targets))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", [{"confidence": 1.1}, {"neighbors": 0}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=f"--{next(iter(wrong))} must be"):
        SpreadSpec(**wrong)  # type: ignore[arg-type]
