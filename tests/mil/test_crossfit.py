"""Nothing is judged on what it was fitted to."""

import numpy as np
import pandas as pd
import pytest

from mil.crossfit import cross_fitted, has_all
from mil.intervals import estimate
from mil.labels import Labels
from mil.metrics import auc
from mil.mixture import MixtureSpec, fit_mixture
from mil.task import Task

TWO = Task(("a", "b"))


def labels_of(targets: np.ndarray, patients: np.ndarray | None = None) -> Labels:
    names = [f"s{place}" for place in range(len(targets))]
    return Labels(
        pd.DataFrame({"slide_id": names, "patient_id": names if patients is None else patients, "target": targets}), TWO
    )


def test_each_fold_is_judged_by_what_was_fitted_to_the_others() -> None:
    labels, fold_of = labels_of(np.array([0, 1, 1, 1, 1])), np.array([0, 0, 1, 1, 2])
    members = np.random.default_rng(0).dirichlet(np.ones(2), (1, 5))

    def fit(part: Labels, part_RNK: np.ndarray, folds: np.ndarray):  # type: ignore[no-untyped-def]
        assert part.table["slide_id"].tolist() == [f"s{place}" for place in np.flatnonzero(np.isin(fold_of, folds))]
        np.testing.assert_array_equal(part_RNK, members[:, np.isin(fold_of, folds)])
        return lambda task, own_RNK: np.full(own_RNK.shape[1:], part.targets.sum())

    assert cross_fitted(labels, members, fold_of, fit)[:, 0].tolist() == [3, 3, 2, 2, 3]


def test_has_all() -> None:
    labels = labels_of(np.array([0, 1, 0, 1]))
    assert has_all(labels, np.array([0, 0, 1, 1]))
    assert not has_all(labels, np.array([0, 1, 0, 1]))  # without fold 1 there is no b
    assert not has_all(labels, np.zeros(4, int))


@pytest.mark.parametrize("method", ["blend", "stack"])
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_shuffled_labels_are_not_predicted(method: str, metric: str) -> None:
    random = np.random.default_rng(4)
    members, targets = random.dirichlet(np.ones(2), (6, 150)), random.permutation(np.arange(150) % 2)
    labels, fold_of = labels_of(targets), np.arange(150) // 2 % 5
    spec = MixtureSpec(method=method, metric=metric, calibrate="platt")  # type: ignore[arg-type]
    found = cross_fitted(labels, members, fold_of, lambda *part: fit_mixture(*part, spec))
    figure = estimate(auc, found, targets, labels.table["patient_id"].to_numpy())
    assert figure.low < 0.5 < figure.high
    fitted = fit_mixture(labels, members, fold_of, spec)(TWO, members)
    assert auc(fitted, targets) > figure.value + 0.05  # what would be said without cross-fitting
