"""Intervals that mean what they say."""

import math

import numpy as np
import pytest

from mil.intervals import RESAMPLES, Estimate, estimate, estimates
from mil.metrics import (
    CLASS_METRICS,
    METRICS,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    ece,
    f1,
    kappa,
    log_loss,
    one_against_rest,
    problems,
)


def binary(*chances: float) -> np.ndarray:
    return np.array([[1 - chance, chance] for chance in chances])


def test_covers_the_truth_as_often_as_it_claims() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        right = random.random(80) < 0.7
        chances, targets = binary(*np.where(right, 0.9, 0.1)), np.ones(80, int)
        interval = estimate(accuracy, chances, targets, np.arange(80))
        covered += interval.low <= 0.7 <= interval.high
    assert 51 <= covered <= 60  # 95 % of 60 is 57


def test_covers_the_calibration_error() -> None:
    """Probabilities of .1 and .9, where the truth is .3 and .7: wrong by .2."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        chances = np.where(random.random(200) < 0.5, 0.1, 0.9)
        targets = (random.random(200) < 0.3 + 0.5 * (chances - 0.1)).astype(int)
        interval = estimate(ece, binary(*chances), targets, np.arange(200))
        covered += interval.low <= 0.2 <= interval.high
    assert 51 <= covered <= 60


def test_the_interval_of_a_calibration_error_holds_it() -> None:
    random = np.random.default_rng(0)
    chances = random.random(300)  # calibrated: whatever error there is is chance
    interval = estimate(ece, binary(*chances), (random.random(300) < chances).astype(int), np.arange(300))
    assert interval.low == 0
    assert interval.value <= interval.high < 0.15


def test_the_interval_of_a_calibration_error_is_basic_below_and_of_percentiles_above() -> None:
    random = np.random.default_rng(0)
    chances, targets = binary(*random.choice([0.1, 0.3, 0.8], 50)), random.integers(0, 2, 50)
    values = []
    draws = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        rows = draws.integers(50, size=50)
        values.append(ece(chances[rows], targets[rows]))
    high = np.percentile(values, 97.5)
    found = estimate(ece, chances, targets, np.arange(50))
    assert found[1:] == pytest.approx((2 * found.value - high, high), abs=1e-12)
    assert found.low > 0


def test_resamples_patients_not_slides() -> None:
    random = np.random.default_rng(1)
    targets = np.arange(40) % 2
    chances = binary(*np.clip(0.5 + 0.2 * (targets - 0.5) + random.normal(0, 0.2, 40), 0.01, 0.99))
    repeated = np.repeat(np.arange(40), 10)  # ten copies of each slide are no more evidence than one
    once = estimate(log_loss, chances, targets, np.arange(40))
    ten_times = estimate(log_loss, chances[repeated], targets[repeated], repeated)
    assert ten_times == pytest.approx(once)


def test_is_the_percentile_interval_of_drawn_patients() -> None:
    random = np.random.default_rng(0)
    patients = np.array(["a", "b", "a", "c", "d", "d", "e"])
    chances, targets = binary(*random.random(7)), np.array([0, 1, 0, 1, 1, 0, 0])
    draws = np.random.default_rng(5)
    values = []
    for _ in range(RESAMPLES):
        drawn = np.unique(patients)[draws.integers(5, size=5)]
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        values.append(auc(chances[rows], targets[rows]))
    found = estimate(auc, chances, targets, patients, seed=5)
    assert found[1:] == pytest.approx(np.nanpercentile(values, [2.5, 97.5]), abs=1e-12)


def test_all_at_once_is_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    targets = np.arange(30) % 3
    chances = random.dirichlet(np.ones(3) + 2 * np.eye(3)[0], 30)
    patients = np.arange(30) // 2
    sets = [problems(chances, targets), *([part] for part in one_against_rest(chances, targets))]
    together = estimates(CLASS_METRICS, sets, patients)
    monkeypatch.setattr("mil.intervals._WEIGHTS", 30 * 7)  # seven resamples at a time
    for parts, expected in zip(sets, together, strict=True):
        (alone,) = estimates(METRICS, [parts], patients)
        for name in METRICS:
            assert alone[name] == pytest.approx(expected[name], abs=1e-12)


def test_of_labels() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((60, 2)) < 0.5).astype(float)
    chances = np.clip(0.5 + 0.3 * (targets - 0.5) + random.normal(0, 0.2, (60, 2)), 0.01, 0.99)
    targets[::6] = np.nan
    for interval in estimates(METRICS, [problems(chances, targets)], np.arange(60))[0].values():
        assert interval.low < interval.value <= interval.high
        assert interval.low < interval.high


class TestPerfectIsNotCertain:
    TARGETS = np.array([0] * 9 + [1] * 9)
    CHANCES = binary(*(TARGETS * 0.8 + 0.1))

    def test_auc(self) -> None:
        perfect = estimate(auc, self.CHANCES, self.TARGETS, np.arange(18))
        assert (perfect.value, perfect.high) == (1, 1)
        # Newcombe's limit L solves (1 - L)^2 = z^2 var(L) with 9 negatives and 9 positives.
        low = perfect.low
        variance = low * (1 - low) * (1 + 8 * (1 - low) / (2 - low) + 8 * low / (1 + low)) / 81
        assert (1 - low) == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-3)
        assert 0.7 < low < 0.85
        wrong = estimate(auc, self.CHANCES[:, ::-1], self.TARGETS, np.arange(18))
        assert wrong == pytest.approx((0, 0, 1 - low))

    def test_shares(self) -> None:
        (found,) = estimates(CLASS_METRICS, [problems(self.CHANCES, self.TARGETS)], np.arange(18))
        of_9, of_18 = 0.025 ** (1 / 9), 0.025 ** (1 / 18)  # Clopper and Pearson
        lows = {name: of_figure.low for name, of_figure in found.items() if of_figure.value == 1}
        assert lows.pop("auc") < 1
        assert math.isnan(lows.pop("average_precision"))
        assert lows == pytest.approx({
            "accuracy": of_18, "balanced_accuracy": of_9, "f1": of_9, "kappa": (of_18 - 0.5) / 0.5,
            "sensitivity": of_9, "specificity": of_9, "precision": of_9,
        })  # fmt: skip

    def test_patients_are_counted(self) -> None:
        perfect = estimate(accuracy, self.CHANCES, self.TARGETS, np.arange(18) // 3)
        assert perfect.low == pytest.approx(0.025 ** (1 / 6))

    def test_a_sensitivity_of_nothing(self) -> None:
        never = [problems(binary(*[0.1] * 18), self.TARGETS)]
        (found,) = estimates(CLASS_METRICS, never, np.arange(18))
        assert found["sensitivity"] == pytest.approx((0, 0, 1 - 0.025 ** (1 / 9)))
        assert found["specificity"] == pytest.approx((1, 0.025 ** (1 / 9), 1))
        assert all(math.isnan(value) for value in found["precision"])

    def test_an_f1_of_nothing_found(self) -> None:
        sensitivity_of_9 = 1 - 0.025 ** (1 / 9)
        expected = (0, 0, pytest.approx(2 * sensitivity_of_9 / (1 + sensitivity_of_9)))
        assert estimate(f1, binary(*[0.1] * 18), self.TARGETS, np.arange(18)) == expected
        targets = np.repeat([0, 1, 2], 9)
        assert estimate(f1, np.eye(3)[(targets + 1) % 3], targets, np.arange(27)) == expected

    def test_resamples_that_are_all_alike_say_nothing(self) -> None:
        (always,) = estimates(METRICS, [problems(binary(*[0.1] * 18), self.TARGETS)], np.arange(18))
        values = {"auc": 0.5, "balanced_accuracy": 0.5, "kappa": 0}
        for name, value in values.items():
            assert str(always[name]) == f"{value:.3f} (? to ?)"
        one_patient = estimate(log_loss, binary(0.1, 0.3, 0.6), np.array([0, 1, 0]), np.zeros(3))
        assert math.isnan(one_patient.low)
        assert math.isnan(one_patient.high)
        right = estimate(ece, binary(*[1.0] * 5), np.ones(5, int), np.arange(5))
        assert str(right) == "0.000 (? to ?)"

    def test_of_three_classes_and_of_labels_the_mean(self) -> None:
        targets = np.repeat([0, 1, 2], [4, 6, 8])
        chances, patients = np.eye(3)[targets] * 0.7 + 0.1, np.arange(18)
        of_each = [estimate(auc, binary(*chances[:, k]), (targets == k).astype(int), patients).low for k in range(3)]
        assert estimate(auc, chances, targets, patients).low == pytest.approx(np.mean(of_each))
        expected = np.mean([0.025 ** (1 / n) for n in (4, 6, 8)])
        assert estimate(balanced_accuracy, chances, targets, patients).low == pytest.approx(expected)
        assert estimate(f1, chances, targets, patients).low == pytest.approx(expected)
        by_chance = (16 + 36 + 64) / 18**2
        low = estimate(kappa, chances, targets, patients).low
        assert low == pytest.approx((0.025 ** (1 / 18) - by_chance) / (1 - by_chance))
        labels = np.array([[1.0, np.nan]] * 5 + [[0.0, 1.0]] * 5 + [[0.0, 0.0]] * 5)
        low = estimate(accuracy, np.nan_to_num(labels) * 0.8 + 0.1, labels, np.arange(15)).low
        assert low == pytest.approx((0.025 ** (1 / 15) + 0.025 ** (1 / 10)) / 2)


def test_infinite_log_loss() -> None:
    chances, targets = binary(1.0, *[0.5] * 9), np.array([0, 1] * 5)
    interval = estimate(log_loss, chances, targets, np.arange(10))
    assert interval == (math.inf, pytest.approx(math.log(2)), math.inf)
    certain = estimate(log_loss, binary(1.0, 1.0), np.array([0, 0]), np.arange(2))
    assert certain == (math.inf, math.inf, math.inf)


def test_no_meaning_no_number() -> None:
    assert all(math.isnan(value) for value in estimate(auc, binary(0.1, 0.2), np.array([1, 1]), np.array([0, 1])))
    nobody = estimate(average_precision, np.empty((0, 2)), np.empty(0, int), np.empty(0))
    assert all(math.isnan(value) for value in nobody)


def test_in_words() -> None:
    assert str(Estimate(0.75, 0.5, 0.875)) == "0.750 (0.500 to 0.875)"
    assert str(Estimate(1, math.nan, 1)) == "1.000 (? to 1.000)"
    assert str(Estimate(math.inf, 0.5, math.inf)) == "inf (0.500 to inf)"
    assert str(Estimate(math.nan, math.nan, math.nan)) == "none"
