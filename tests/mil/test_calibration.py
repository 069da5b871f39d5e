"""Slopes, shifts and priors, against what they must be."""

import numpy as np
import pytest

from mil.calibration import BALANCED, Calibration, PriorShift, balanced, fit_calibration, prior_from, shares
from mil.errors import SettingsError
from mil.log_odds import chances, log_odds
from mil.metrics import class_weighted_log_loss, log_loss
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

TWO, LABELS = Task(("normal", "tumour")), Task(("x", "y"), ANY_OF)
THREE = Task(("a", "b", "c"))


def binary(chance: np.ndarray) -> np.ndarray:
    return np.stack([1 - chance, chance], axis=1)


def drawn(task: Task, slides: int, spread: float = 2.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right, and what came of them."""
    random = np.random.default_rng(1)
    logits = random.normal(0, spread, (slides, len(task.classes))) + shift * np.arange(len(task.classes))
    probabilities = chances(task, logits)
    if task.kind == ANY_OF:
        return probabilities, (random.random(probabilities.shape) < probabilities).astype(float)
    edges = probabilities.cumsum(axis=1)
    return probabilities, (random.random((slides, 1)) > edges).sum(axis=1).clip(max=len(task.classes) - 1)


class TestTemperature:
    @pytest.mark.parametrize("task", [TWO, THREE, LABELS])
    def test_is_near_1_where_nothing_is_wrong(self, task: Task) -> None:
        found = fit_calibration(task, *drawn(task, 20_000), "temperature")
        assert found.temperatures == pytest.approx((1,) * len(found.temperatures), abs=0.03)
        assert set(found.shifts) == {0}

    @pytest.mark.parametrize("task", [TWO, THREE, LABELS])
    def test_undoes_what_was_done(self, task: Task) -> None:
        right, targets = drawn(task, 20_000)
        plain = fit_calibration(task, right, targets, "temperature")
        sure = fit_calibration(task, chances(task, 3 * log_odds(task, right)), targets, "temperature")
        assert sure.slopes == pytest.approx(np.array(plain.slopes) / 3, rel=1e-4)

    def test_solves_the_equation_of_its_minimum(self) -> None:
        # Of two values of the log odds, l and -l, with a share s that is right, the best is logit(s) / l.
        found = fit_calibration(TWO, binary(np.array([0.9] * 4)), np.array([1, 1, 1, 0]), "temperature")
        assert found.slopes[0] == pytest.approx(np.log(3) / np.log(9))

    def test_keeps_what_is_most_probable(self) -> None:
        right, targets = drawn(THREE, 500)
        calibrated = fit_calibration(THREE, right, targets, "temperature")(THREE, right)
        assert (calibrated.argmax(1) == right.argmax(1)).all()
        assert calibrated.sum(axis=1) == pytest.approx(1)

    def test_of_slides_without_an_error_stays_in_its_range(self) -> None:
        found = fit_calibration(TWO, binary(np.array([0.4, 0.6])), np.array([0, 1]), "temperature")
        assert 0.01 <= found.temperatures[0] < 0.05

    def test_certain_and_wrong_has_a_finite_answer(self) -> None:
        found = fit_calibration(TWO, binary(np.array([0.0, 1, 1, 1, 0])), np.array([1, 1, 1, 0, 0]), "temperature")
        assert 0 < found.slopes[0] < 1
        assert np.isfinite(log_loss(found(TWO, binary(np.array([0.0, 1]))), np.array([1, 0])))


class TestPlatt:
    @pytest.mark.parametrize("task", [TWO, THREE, LABELS])
    def test_finds_slope_and_shift(self, task: Task) -> None:
        right, targets = drawn(task, 20_000)
        shift = np.linspace(1, 2, len(task.classes))
        found = fit_calibration(task, chances(task, 2 * log_odds(task, right) + shift), targets, "platt")
        assert found.slopes == pytest.approx((0.5,) * len(task.classes), abs=0.02)
        wanted = -shift / 2 if task.kind == ANY_OF else -(shift - shift[0]) / 2
        assert found.shifts == pytest.approx(wanted, abs=0.06)

    def test_of_an_uninformative_score_is_the_softened_share(self) -> None:
        # Platt's targets are (3 + 1) / (3 + 2) for three of the class and 1 / (1 + 2) for one that is not.
        found = fit_calibration(TWO, binary(np.full(4, 0.5)), np.array([1, 1, 1, 0]), "platt")
        assert found(TWO, np.array([0.5, 0.5]))[1] == pytest.approx((3 * 4 / 5 + 1 / 3) / 4)

    def test_few_slides_without_an_error_make_nothing_certain(self) -> None:
        chance = binary(np.array([0.1, 0.2, 0.8, 0.9]))
        assert 0.5 < fit_calibration(TWO, chance, np.array([0, 0, 1, 1]), "platt")(TWO, chance)[3, 1] < 0.9


def test_a_label_that_is_unknown_everywhere_is_left_alone() -> None:
    targets = np.array([[1, np.nan], [0, np.nan]])
    found = fit_calibration(LABELS, np.array([[0.7, 0.2], [0.6, 0.1]]), targets, "platt")
    assert (found.slopes[1], found.shifts[1]) == (1, 0)


class TestPrior:
    @pytest.mark.parametrize("task", [TWO, THREE, LABELS, Task(("a", "n", "b"), ONE_VS_NORMAL, "n")])
    def test_that_of_the_training_changes_nothing(self, task: Task) -> None:
        probabilities, targets = drawn(task, 50)
        prior = tuple(shares(task, targets))
        np.testing.assert_array_equal(PriorShift(prior, prior)(task, probabilities), probabilities)

    def test_by_bayes(self) -> None:
        shifted = PriorShift((0.5, 0.5), (0.9, 0.1))(TWO, np.array([[0.2, 0.8]]))
        assert shifted == pytest.approx(np.array([[0.18, 0.08]]) / 0.26)
        of_labels = PriorShift((0.5, 0.2), (0.1, 0.2))(LABELS, np.array([0.8, 0.3]))
        assert of_labels == pytest.approx([0.08 / (0.08 + 0.18), 0.3])

    def test_there_and_back(self) -> None:
        probabilities, _ = drawn(THREE, 50)
        one, other = (0.2, 0.3, 0.5), (0.6, 0.3, 0.1)
        there = PriorShift(one, other)(THREE, probabilities)
        np.testing.assert_allclose(PriorShift(other, one)(THREE, there), probabilities, rtol=1e-12)

    def test_balanced_is_what_a_class_weighted_log_loss_wants(self) -> None:
        probabilities, targets = drawn(TWO, 20_000, shift=-2.0)
        before = tuple(shares(TWO, targets))
        assert before[1] < 0.3

        def weighted(after: float) -> float:
            return class_weighted_log_loss(PriorShift(before, (1 - after, after))(TWO, probabilities), targets)

        grid = np.linspace(0.05, 0.95, 91)
        assert grid[np.argmin([weighted(after) for after in grid])] == pytest.approx(0.5, abs=0.02)
        assert weighted(0.5) < class_weighted_log_loss(probabilities, targets)

    def test_shares(self) -> None:
        assert shares(THREE, np.array([0, 1, 1, 2])).tolist() == [0.25, 0.5, 0.25]
        assert shares(LABELS, np.array([[1, 0], [0, np.nan], [0, 1]])) == pytest.approx([1 / 3, 0.5])
        assert balanced(THREE) == pytest.approx([1 / 3] * 3)
        assert balanced(LABELS).tolist() == [0.5, 0.5]


class TestPriorOfWords:
    def test_given(self) -> None:
        assert prior_from(TWO, ["tumour=0.1", "normal=0.9"]) == pytest.approx([0.9, 0.1])
        assert prior_from(TWO, [BALANCED]).tolist() == [0.5, 0.5]
        assert prior_from(LABELS, ["x=0.3", "y=0.4"]).tolist() == [0.3, 0.4]
        assert prior_from(Task(("a=b", "c")), ["a=b=0.5", "c=0.5"]).tolist() == [0.5, 0.5]

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["tumour"], "'tumour' is no class=share, such as tumour=0.1; or give balanced"),
            (["tumour=x", "normal=1"], "'tumour=x' is no class=share"),
            (["tumour=0.1"], "class=share for each of normal, tumour; it names tumour"),
            (["tumour=0", "normal=1"], "shares between 0 and 1, not tumour=0 normal=1"),
            (["tumour=nan", "normal=0.5"], "shares between 0 and 1"),
            (["tumour=0.5", "normal=0.6"], "make 1.1 together; let them make 1"),
        ],
    )
    def test_refused(self, words: list[str], sentence: str) -> None:
        with pytest.raises(SettingsError, match=sentence):
            prior_from(TWO, words)


def test_call_is_slope_times_log_odds_plus_shift() -> None:
    calibrated = Calibration((0.5, 0.5), (0.0, 1.0))(TWO, np.array([0.1, 0.9]))
    assert np.log(calibrated[1] / calibrated[0]) == pytest.approx(np.log(9) / 2 + 1)
