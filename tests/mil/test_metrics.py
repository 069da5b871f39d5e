"""Figures by hand, and those of scikit-learn."""

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mil.metrics import (
    CLASS_METRICS,
    METRICS,
    accuracy,
    auc,
    auc_within_folds,
    average_precision,
    balanced_accuracy,
    calibration_bin,
    class_weighted_log_loss,
    ece,
    f1,
    kappa,
    log_loss,
    one_against_rest,
    precision,
    problems,
    sensitivity,
    specificity,
)


def binary(*chances: float) -> np.ndarray:
    return np.array([[1 - chance, chance] for chance in chances])


def random_case(classes: int, seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties, and targets with every class."""
    random = np.random.default_rng(seed)
    targets = np.append(random.integers(0, classes, rows), np.arange(classes))
    logits = np.round(random.normal(size=(len(targets), classes)) + 0.8 * np.eye(classes)[targets], 1)
    chances = np.exp(logits)
    return chances / chances.sum(axis=1, keepdims=True), targets


def same_auc(chances: np.ndarray, targets: np.ndarray) -> float:
    if chances.shape[1] == 2:
        return sklearn.roc_auc_score(targets, chances[:, 1])
    return sklearn.roc_auc_score(targets, chances, multi_class="ovr", average="macro")


def same_average_precision(chances: np.ndarray, targets: np.ndarray) -> float:
    if chances.shape[1] == 2:
        return sklearn.average_precision_score(targets, chances[:, 1])
    return sklearn.average_precision_score(np.eye(chances.shape[1])[targets], chances, average="macro")


def same_f1(chances: np.ndarray, targets: np.ndarray) -> float:
    return sklearn.f1_score(targets, chances.argmax(1), average="binary" if chances.shape[1] == 2 else "macro")


def same_class_weighted_log_loss(chances: np.ndarray, targets: np.ndarray) -> float:
    return sklearn.log_loss(targets, chances, sample_weight=1 / np.bincount(targets)[targets])


SKLEARN: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": same_auc,
    "average_precision": same_average_precision,
    "accuracy": lambda chances, targets: sklearn.accuracy_score(targets, chances.argmax(1)),
    "balanced_accuracy": lambda chances, targets: sklearn.balanced_accuracy_score(targets, chances.argmax(1)),
    "f1": same_f1,
    "kappa": lambda chances, targets: sklearn.cohen_kappa_score(targets, chances.argmax(1)),
    "log_loss": lambda chances, targets: sklearn.log_loss(targets, chances),
    "class_weighted_log_loss": same_class_weighted_log_loss,
}


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", SKLEARN)
def test_is_that_of_scikit_learn(name: str, classes: int) -> None:
    for seed in range(10):
        chances, targets = random_case(classes, seed)
        assert METRICS[name](chances, targets) == pytest.approx(SKLEARN[name](chances, targets), abs=1e-12)


@pytest.mark.parametrize("name", ["sensitivity", "specificity", "precision"])
def test_of_a_class_is_that_of_scikit_learn(name: str) -> None:
    chances, targets = random_case(3, 0)
    for k, part in enumerate(one_against_rest(chances, targets)):
        truth, decided = targets == k, chances.argmax(1) == k
        expected = {
            "sensitivity": sklearn.recall_score(truth, decided),
            "specificity": sklearn.recall_score(~truth, ~decided),
            "precision": sklearn.precision_score(truth, decided),
        }[name]
        found = CLASS_METRICS[name].weighted([part], np.ones((1, len(targets))))
        assert found == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("kind", ["two classes", "three classes", "labels"])
@pytest.mark.parametrize("name", METRICS)
def test_a_weight_says_how_often_a_slide_counts(name: str, kind: str) -> None:
    chances, targets = random_case(3 if kind == "three classes" else 2, 1)
    if kind == "labels":
        targets = np.where(np.arange(len(targets))[:, None] % [5, 7] == 0, np.nan, np.eye(2)[targets])
    times_BN = np.random.default_rng(0).integers(0, 3, (4, len(targets)))
    weighted = METRICS[name].weighted(problems(chances, targets), times_BN.astype(float))
    for times, value in zip(times_BN, weighted, strict=True):
        rows = np.repeat(np.arange(len(targets)), times)
        assert value == pytest.approx(METRICS[name](chances[rows], targets[rows]), abs=1e-12)


def test_auc() -> None:
    targets = np.array([0, 0, 1, 1])
    assert auc(binary(0.1, 0.4, 0.35, 0.8), targets) == 0.75  # 3 of 4 pairs in order
    assert auc(binary(0.1, 0.2, 0.8, 0.9), targets) == 1
    assert auc(binary(0.5, 0.5, 0.5, 0.5), targets) == 0.5


def test_auc_of_three_classes_is_the_mean_of_one_against_the_rest() -> None:
    chances = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    targets = np.array([0, 1, 1, 2])
    # class 0: .8 over .5, .6, .1 -> 1; class 1: .4 and .3 over .1, .2 -> 1; class 2: 1
    assert auc(chances, targets) == 1
    assert auc(chances[:, [1, 0, 2]], targets) == pytest.approx((0 + 1 / 2 + 1) / 3)


class TestAucWithinFolds:
    CHANCES = binary(0.1, 0.2, 0.3, 0.2, 0.8, 0.9, 0.7, 0.6)
    TARGETS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    FOLD_OF = np.array([0, 0, 1, 1, 2, 2, 2, 2])

    def test_only_pairs_of_the_same_fold_count(self) -> None:
        # fold 0: 1 of 1 pair; fold 1: 0 of 1; fold 2: .9 over .8 and .7, .6 over neither
        assert auc_within_folds(self.FOLD_OF)(self.CHANCES, self.TARGETS) == (1 + 0 + 2) / (1 + 1 + 4)
        assert auc_within_folds(np.zeros(8))(self.CHANCES, self.TARGETS) == auc(self.CHANCES, self.TARGETS)

    def test_is_a_half_for_any_answer_that_is_the_same_in_a_fold(self) -> None:
        assert auc_within_folds(self.FOLD_OF)(binary(*self.FOLD_OF / 2), self.TARGETS) == 0.5

    def test_is_under_weights(self) -> None:
        times = np.array([1, 2, 3, 1, 0, 2, 1, 1])
        rows = np.repeat(np.arange(8), times)
        found = auc_within_folds(self.FOLD_OF).weighted(problems(self.CHANCES, self.TARGETS), times[None].astype(float))
        assert found == pytest.approx([auc_within_folds(self.FOLD_OF[rows])(self.CHANCES[rows], self.TARGETS[rows])])
        assert found == pytest.approx([(2 + 0 + 2) / (2 + 3 + 3)])

    def test_of_more_classes_and_of_labels_is_the_mean(self) -> None:
        random = np.random.default_rng(0)
        fold_of, targets, chances = np.arange(30) // 10, np.arange(30) % 3, random.random((30, 3))
        within = auc_within_folds(fold_of)
        of_each = [within(binary(*chances[:, k]), (targets == k).astype(int)) for k in range(3)]
        assert within(chances, targets) == pytest.approx(np.mean(of_each))
        labels = np.where(np.arange(30)[:, None] % [5, 7] == 0, np.nan, np.eye(3)[targets][:, :2])
        of_each = []
        for k in range(2):
            known = ~np.isnan(labels[:, k])
            of_each.append(auc_within_folds(fold_of[known])(binary(*chances[known, k]), labels[known, k].astype(int)))
        assert within(chances[:, :2], labels) == pytest.approx(np.mean(of_each))

    def test_no_fold_has_both(self) -> None:
        assert math.isnan(auc_within_folds(np.arange(8))(self.CHANCES, self.TARGETS))


def test_average_precision() -> None:
    # highest first: 1 of 1, then a negative, then 2 of 3
    assert average_precision(binary(0.1, 0.4, 0.35, 0.8), np.array([0, 0, 1, 1])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(binary(0.5, 0.5, 0.5, 0.5), np.array([0, 0, 0, 1])) == 0.25  # a tie: the positive share


class TestDecisions:
    CHANCES = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    TARGETS = np.array([0, 0, 1, 2, 0])  # decided: 0, 1, 0, 2, 0

    def test_by_hand(self) -> None:
        assert accuracy(self.CHANCES, self.TARGETS) == pytest.approx(3 / 5)
        assert balanced_accuracy(self.CHANCES, self.TARGETS) == pytest.approx((2 / 3 + 0 + 1) / 3)
        assert f1(self.CHANCES, self.TARGETS) == pytest.approx((4 / 6 + 0 + 1) / 3)
        by_chance = (3 * 3 + 1 * 1 + 1 * 1) / 25
        assert kappa(self.CHANCES, self.TARGETS) == pytest.approx((3 / 5 - by_chance) / (1 - by_chance))

    def test_of_two_classes_f1_is_that_of_the_second(self) -> None:
        chances, targets = binary(0.2, 0.7, 0.6), np.array([0, 1, 0])
        assert accuracy(chances, targets) == pytest.approx(2 / 3)
        assert f1(chances, targets) == pytest.approx(2 / 3)  # one right, one too many
        assert f1(chances[:, ::-1], 1 - targets) == pytest.approx(2 / 3)  # one right, one missed
        assert (sensitivity(chances, targets), specificity(chances, targets)) == (1, 0.5)
        assert precision(chances, targets) == 0.5


def test_many_classes_need_little_memory() -> None:
    classes = 100
    targets = np.arange(200) % classes
    chances = np.eye(classes)[(targets + (np.arange(200) >= classes)) % classes]
    tracemalloc.start()
    assert balanced_accuracy(chances, targets) == 0.5  # the second hundred are all wrong
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # a matrix of all pairs of classes, squared, has 800 MB


class TestLogLoss:
    def test_by_hand(self) -> None:
        assert log_loss(binary(0.2, 0.7), np.array([0, 1])) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)

    def test_each_class_counts_alike(self) -> None:
        chances, targets = binary(0.2, 0.4, 0.7), np.array([0, 0, 1])
        of_zero, of_one = -(math.log(0.8) + math.log(0.6)) / 2, -math.log(0.7)
        assert class_weighted_log_loss(chances, targets) == pytest.approx((of_zero + of_one) / 2)

    def test_nothing_is_clamped(self) -> None:
        chances, targets = binary(1.0, 0.5, 0.5), np.array([0, 0, 1])
        assert log_loss(chances, targets) == math.inf
        assert class_weighted_log_loss(chances, targets) == math.inf
        without = np.array([[1.0, 1, 1], [0, 1, 1]])  # a slide that does not count costs nothing
        assert log_loss.weighted(problems(chances, targets), without) == pytest.approx([math.inf, math.log(2)])


class TestCalibration:
    def test_bins(self) -> None:
        assert calibration_bin(np.array([0, 0.01, 1 / 15, 0.07, 0.5, 14 / 15, 0.95, 1])).tolist() == [
            0, 0, 0, 1, 7, 13, 14, 14,
        ]  # fmt: skip

    def test_of_the_predicted_class(self) -> None:
        # confidences .9, .91 (bin 13), .7 (bin 10), .6 (a border: bin 8); right, wrong, right, right
        chances, targets = binary(0.1, 0.91, 0.7, 0.4), np.array([0, 0, 1, 0])
        assert ece(chances, targets) == pytest.approx((abs(0.9 + 0.91 - 1) + (1 - 0.7) + (1 - 0.6)) / 4)

    def test_of_labels_it_is_that_of_their_probability(self) -> None:
        assert ece(np.array([[0.1], [0.9], [0.05]]), np.array([[0.0], [1], [np.nan]])) == pytest.approx(0.1)

    def test_a_class_against_the_rest(self) -> None:
        part = one_against_rest(binary(0.1, 0.9), np.array([0, 1]))[0]
        assert part.confidence.tolist() == pytest.approx([0.9, 0.1])
        assert part.came_true.tolist() == [True, False]


class TestSeveralLabels:
    TARGETS = np.array([[1, 0], [0, 1], [1, np.nan], [0, 0]])
    CHANCES = np.array([[0.9, 0.2], [0.3, 0.7], [0.2, 0.99], [0.1, 0.5]])

    def test_means_over_labels_of_what_is_known(self) -> None:
        # a: .9 and .2 over .3 and .1: 3 of 4 pairs; b: .7 over .2 and .5
        assert auc(self.CHANCES, self.TARGETS) == pytest.approx((3 / 4 + 1) / 2)
        assert average_precision(self.CHANCES, self.TARGETS) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
        of_a = -np.log([0.9, 0.7, 0.2, 0.9]).mean()
        of_b = -np.log([0.8, 0.7, 0.5]).mean()
        assert log_loss(self.CHANCES, self.TARGETS) == pytest.approx((of_a + of_b) / 2)
        assert accuracy(self.CHANCES, self.TARGETS) == pytest.approx((3 / 4 + 2 / 3) / 2)  # a half is a yes
        assert balanced_accuracy(self.CHANCES, self.TARGETS) == pytest.approx(((1 / 2 + 1) / 2 + (1 + 1 / 2) / 2) / 2)
        assert f1(self.CHANCES, self.TARGETS) == pytest.approx((2 / 3 + 2 / 3) / 2)
        of_b = (-np.log(0.7) - np.log([0.8, 0.5]).mean()) / 2
        assert class_weighted_log_loss(self.CHANCES, self.TARGETS) == pytest.approx((of_a + of_b) / 2)

    def test_one_against_rest_is_each_label(self) -> None:
        of_a, of_b = one_against_rest(self.CHANCES, self.TARGETS)
        assert of_a.targets.tolist() == [1, 0, 1, 0]
        assert of_b.rows.tolist() == [0, 1, 3]
        assert of_b.decided.tolist() == [0, 1, 1]


class TestNoMeaning:
    def test_a_class_has_no_slide(self) -> None:
        chances, targets = binary(0.1, 0.2), np.array([0, 0])
        nan = {name for name, metric in METRICS.items() if math.isnan(metric(chances, targets))}
        assert nan == {"auc", "average_precision", "balanced_accuracy", "f1", "kappa", "class_weighted_log_loss"}

    def test_a_label_is_never_there(self) -> None:
        targets = np.array([[1, np.nan], [0, 0]])
        assert math.isnan(auc(TestSeveralLabels.CHANCES[2:], targets))

    @pytest.mark.parametrize("targets", [np.empty(0, int), np.empty((0, 2))])
    @pytest.mark.parametrize("name", METRICS)
    def test_no_slide(self, name: str, targets: np.ndarray) -> None:
        assert math.isnan(METRICS[name](np.empty((0, 2)), targets))

    def test_never_decided_on(self) -> None:
        assert math.isnan(precision(binary(0.1, 0.2), np.array([0, 1])))
