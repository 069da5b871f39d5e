"""Weighted means, and the weights that fit."""

import numpy as np
import pytest

from mil.blend import SMALL_IS_GOOD, average, fit_weights
from mil.metrics import METRICS, auc, log_loss
from mil.task import ANY_OF, Task

TWO, LABELS = Task(("a", "b")), Task(("x", "y"), ANY_OF)


def models(slides: int = 300, noise: tuple[float, ...] = (1.0, 1.5, 8.0)) -> tuple[np.ndarray, np.ndarray]:
    """Models (R, N, 2) that see the same evidence with more or less noise, and what is true."""
    random = np.random.default_rng(0)
    targets = random.integers(2, size=slides)
    logits = np.stack([(2 * targets - 1) + random.normal(0, each, slides) for each in noise])
    chance = 1 / (1 + np.exp(-logits))
    return np.stack([1 - chance, chance], axis=2), targets


class TestAverage:
    def test_of_probabilities_is_arithmetic(self) -> None:
        members = np.array([[[0.2, 0.8]], [[0.6, 0.4]]])
        assert average(TWO, members, np.array([0.25, 0.75]), "probabilities") == pytest.approx(np.array([[0.5, 0.5]]))

    def test_of_logits_is_geometric(self) -> None:
        members = np.array([[[0.2, 0.8]], [[0.6, 0.4]]])
        parts = np.sqrt([0.2 * 0.6, 0.8 * 0.4])
        found = average(TWO, members, np.array([0.5, 0.5]), "logits")
        assert found == pytest.approx((parts / parts.sum())[None])
        of_labels = average(LABELS, members, np.array([0.5, 0.5]), "logits")
        assert of_labels[0, 0] == pytest.approx(1 / (1 + np.sqrt(4 * 2 / 3)))

    def test_of_one_is_itself(self) -> None:
        members, _ = models(20, (1.0,))
        np.testing.assert_array_equal(average(TWO, members, np.ones(1), "probabilities"), members[0])
        np.testing.assert_allclose(average(TWO, members, np.ones(1), "logits"), members[0], rtol=1e-12)


class TestFitWeights:
    @pytest.mark.parametrize("of", ["probabilities", "logits"])
    @pytest.mark.parametrize("metric", ["log_loss", "class_weighted_log_loss", "auc", "balanced_accuracy", "ece"])
    def test_lie_on_the_simplex_and_are_no_worse_than_equal_ones_or_one_alone(self, of: str, metric: str) -> None:
        members, targets = models()
        weights = fit_weights(TWO, members, targets, of, metric)  # type: ignore[arg-type]
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert (weights >= 0).all()
        sign = 1 if metric in SMALL_IS_GOOD else -1

        def loss(weights: np.ndarray) -> float:
            return sign * METRICS[metric](average(TWO, members, weights, of), targets)  # type: ignore[arg-type]

        assert loss(weights) <= loss(np.full(3, 1 / 3))
        if metric in ("log_loss", "class_weighted_log_loss"):  # one minimum: nothing is better, but for the last step
            random = np.random.default_rng(1)
            assert loss(weights) < min(loss(each) for each in random.dirichlet(np.ones(3), 2000)) + 1e-5

    def test_noise_gets_little(self) -> None:
        random = np.random.default_rng(2)
        members, targets = models(noise=(0.7, 0.7))
        noise = random.dirichlet(np.ones(2), len(targets))[None]
        weights = fit_weights(TWO, np.concatenate([members, noise]), targets, "probabilities", "log_loss")
        assert weights[2] == 0
        assert weights[:2] == pytest.approx([0.5, 0.5], abs=0.2)

    def test_models_that_make_no_difference_stay_equal(self) -> None:
        members, targets = models(50, (1.0,))
        for metric in ("auc", "log_loss"):
            assert fit_weights(TWO, np.repeat(members, 4, 0), targets, "probabilities", metric).tolist() == [0.25] * 4

    def test_one_model_has_all(self) -> None:
        members, targets = models(50, (1.0,))
        assert fit_weights(TWO, members, targets, "probabilities", "auc").tolist() == [1.0]

    def test_one_that_is_certain_and_wrong_is_outweighed(self) -> None:
        members, targets = models(50, (0.5,))
        wrong = np.eye(2)[targets]
        wrong[0] = 1 - wrong[0]
        both = np.stack([members[0], wrong])
        assert np.isinf(log_loss(wrong, targets))
        weights = fit_weights(TWO, both, targets, "probabilities", "log_loss")
        assert 0.5 < weights[1] < 1
        assert np.isfinite(log_loss(average(TWO, both, weights, "probabilities"), targets))

    def test_labels(self) -> None:
        random = np.random.default_rng(3)
        targets = random.integers(2, size=(200, 2)).astype(float)
        good = 1 / (1 + np.exp(-(2 * targets - 1 + random.normal(0, 1, targets.shape))))
        targets[:20, 0] = np.nan
        members = np.stack([random.random(good.shape), good])
        assert fit_weights(LABELS, members, targets, "logits", "log_loss")[1] > 0.9
        assert auc(members[1], targets) > 0.85
