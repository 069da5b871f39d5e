"""Figures by hand, and intervals that mean what they say."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mil.metrics import METRICS, accuracy, auc, estimate, estimate_all, log_loss, prior_log_loss


def binary(*chances: float) -> np.ndarray:
    return np.array([[1 - chance, chance] for chance in chances])


def test_auc() -> None:
    targets = np.array([0, 0, 1, 1])
    assert auc(binary(0.1, 0.4, 0.35, 0.8), targets) == 0.75  # 3 of 4 pairs in order
    assert auc(binary(0.1, 0.2, 0.8, 0.9), targets) == 1
    assert auc(binary(0.5, 0.5, 0.5, 0.5), targets) == 0.5
    assert math.isnan(auc(binary(0.1, 0.2), np.array([1, 1])))


def test_auc_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        targets = np.append(random.integers(0, 2, 50), [0, 1])
        chances = np.round(random.random(52), 1)  # with ties
        assert auc(binary(*chances), targets) == pytest.approx(roc_auc_score(targets, chances), abs=1e-12)


def test_auc_of_three_classes_is_the_mean_of_one_against_the_rest() -> None:
    chances = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    targets = np.array([0, 1, 1, 2])
    # class 0: 1 over .5, .6, .1 -> 1; class 1: .4 and .3 over .1, .2 -> 1; class 2: 1
    assert auc(chances, targets) == 1
    assert auc(chances[:, [1, 0, 2]], targets) == pytest.approx((0 + 1 / 2 + 1) / 3)


def test_log_loss() -> None:
    assert log_loss(binary(0.2, 0.7), np.array([0, 1])) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)
    assert log_loss(binary(1.0), np.array([0])) == math.inf  # nothing is clamped


def test_accuracy() -> None:
    assert accuracy(binary(0.2, 0.7, 0.6), np.array([0, 1, 0])) == pytest.approx(2 / 3)


def test_prior_log_loss() -> None:
    assert prior_log_loss(np.array([0, 1, 1, 1])) == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


class TestSeveralLabels:
    TARGETS = np.array([[1, 0], [0, 1], [1, np.nan], [0, 0]])
    CHANCES = np.array([[0.9, 0.2], [0.3, 0.7], [0.2, 0.99], [0.1, 0.8]])

    def test_means_over_labels_of_what_is_known(self) -> None:
        # a: .9 and .2 over .3 and .1: 3 of 4 pairs; b: .7 over .2 but not over .8: 1 of 2
        assert auc(self.CHANCES, self.TARGETS) == pytest.approx((3 / 4 + 1 / 2) / 2)
        of_a = -np.log([0.9, 0.7, 0.2, 0.9]).mean()
        of_b = -np.log([0.8, 0.7, 0.2]).mean()
        assert log_loss(self.CHANCES, self.TARGETS) == pytest.approx((of_a + of_b) / 2)
        assert accuracy(self.CHANCES, self.TARGETS) == pytest.approx((3 / 4 + 2 / 3) / 2)
        third = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
        assert prior_log_loss(self.TARGETS) == pytest.approx((math.log(2) + third) / 2)

    def test_no_meaning_where_a_label_is_never_there(self) -> None:
        assert math.isnan(auc(self.CHANCES[2:], self.TARGETS[2:]))

    def test_intervals(self) -> None:
        random = np.random.default_rng(0)
        targets = (random.random((60, 2)) < 0.5).astype(float)
        chances = np.clip(0.5 + 0.3 * (targets - 0.5) + random.normal(0, 0.2, (60, 2)), 0.01, 0.99)
        for interval in estimate_all(chances, targets, np.arange(60)).values():
            assert interval.low < interval.value < interval.high


class TestEstimate:
    def test_covers_the_truth_as_often_as_it_claims(self) -> None:
        random = np.random.default_rng(0)
        covered = 0
        for _ in range(60):
            right = random.random(80) < 0.7
            chances, targets = binary(*np.where(right, 0.9, 0.1)), np.ones(80, int)
            interval = estimate(accuracy, chances, targets, np.arange(80))
            covered += interval.low <= 0.7 <= interval.high
        assert 51 <= covered <= 60  # 95 % of 60 is 57

    def test_resamples_patients_not_slides(self) -> None:
        random = np.random.default_rng(1)
        targets = np.arange(40) % 2
        chances = binary(*np.clip(0.5 + 0.2 * (targets - 0.5) + random.normal(0, 0.2, 40), 0.01, 0.99))
        repeated = np.repeat(np.arange(40), 10)  # ten copies of each slide are no more evidence than one
        once = estimate(log_loss, chances, targets, np.arange(40))
        ten_times = estimate(log_loss, chances[repeated], targets[repeated], repeated)
        assert ten_times.value == pytest.approx(once.value)
        assert ten_times.high - ten_times.low == pytest.approx(once.high - once.low)

    def test_is_repeatable(self) -> None:
        arguments = binary(0.1, 0.6, 0.4, 0.9), np.array([0, 0, 1, 1]), np.array(["a", "b", "c", "d"])
        assert estimate_all(*arguments) == estimate_all(*arguments)
        assert set(estimate_all(*arguments)) == set(METRICS)

    def test_perfect_is_not_certain(self) -> None:
        targets = np.array([0] * 9 + [1] * 9)
        perfect = estimate(auc, binary(*targets * 0.8 + 0.1), targets, np.arange(18))
        assert (perfect.value, perfect.high) == (1, 1)
        # Newcombe's limit L solves (1 - L)^2 = z^2 var(L) with 9 negatives and 9 positives.
        low = perfect.low
        variance = low * (1 - low) * (1 + 8 * (1 - low) / (2 - low) + 8 * low / (1 + low)) / 81
        assert (1 - low) == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-3)
        assert 0.7 < low < 0.85
        assert estimate(accuracy, binary(*targets * 0.8 + 0.1), targets, np.arange(18)).low == pytest.approx(
            0.025 ** (1 / 18)
        )

    def test_no_meaning_no_number(self) -> None:
        interval = estimate(auc, binary(0.1, 0.2), np.array([1, 1]), np.array([0, 1]))
        assert all(math.isnan(value) for value in interval)
