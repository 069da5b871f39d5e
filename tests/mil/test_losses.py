"""Losses and probabilities by hand."""

import math

import numpy as np
import pytest
import torch

from mil import metrics
from mil.losses import log_loss, probabilities, task_loss
from mil.task import Task

ONE_OF = Task(("a", "b", "c"))
ANY_OF = Task(("a", "b"), "any of")
VS_NORMAL = Task(("a", "healthy", "c"), "one vs normal", "healthy")


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_one_of_is_cross_entropy() -> None:
    logits = torch.tensor([[1.0, 2, 3], [0, 0, 5]])
    expected = -(math.log(math.e**2 / (math.e + math.e**2 + math.e**3)) + math.log(1 / (2 + math.e**5))) / 2
    assert task_loss(ONE_OF, logits, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_any_of_is_the_mean_over_what_is_known() -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 7]], requires_grad=True)
    loss = task_loss(ANY_OF, logits, torch.tensor([[1, 0], [0, torch.nan]]))
    expected = -(math.log(sigmoid(1)) + math.log(1 - sigmoid(-2)) + math.log(1 - sigmoid(0.5))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(
        logits.grad, torch.tensor([[sigmoid(1) - 1, sigmoid(-2)], [sigmoid(0.5), 0]]) / 3, rtol=1e-6, atol=1e-7
    )


def test_batch_of_which_nothing_is_known_costs_nothing() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = task_loss(ANY_OF, logits, torch.full((1, 2), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0, 0]]


def test_one_vs_normal_asks_each_class_on_its_own_slides_and_normal_ones() -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 7], [3, -1]], requires_grad=True)
    loss = task_loss(VS_NORMAL, logits, torch.tensor([1, 2, 0]))  # healthy, c, a
    terms = [1 - sigmoid(1), 1 - sigmoid(-2), sigmoid(7), sigmoid(3)]
    assert loss.item() == pytest.approx(-sum(map(math.log, terms)) / 4, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, False], [True, False], [False, True]]


def test_probabilities_of_one_of_are_not_clamped() -> None:
    chances = probabilities(Task(("a", "b")), torch.tensor([[0.0, 50.0]]))
    assert chances.dtype == torch.float64
    assert 0 < chances[0, 0].item() < 1e-21
    assert chances.sum().item() == 1


def test_probabilities_of_any_of() -> None:
    chances = probabilities(ANY_OF, torch.tensor([[0.0, 2.0]]))
    assert chances[0].tolist() == pytest.approx([0.5, sigmoid(2)])


def test_probabilities_against_normal_are_a_multinomial_with_that_reference() -> None:
    chances = probabilities(VS_NORMAL, torch.tensor([[1.0, -2.0]]))[0].tolist()
    total = math.e + 1 + math.exp(-2)
    assert chances == pytest.approx([math.e / total, 1 / total, math.exp(-2) / total])
    assert chances[0] / (chances[0] + chances[1]) == pytest.approx(sigmoid(1))  # what the logit was trained to say


def test_log_loss_is_that_of_the_probabilities() -> None:
    random = np.random.default_rng(0)
    for task, target in (
        (ONE_OF, random.integers(0, 3, 20)),
        (VS_NORMAL, random.integers(0, 3, 20)),
        (ANY_OF, np.where(random.random((20, 2)) < 0.2, np.nan, random.integers(0, 2, (20, 2)))),
    ):
        logits = torch.from_numpy(random.normal(0, 3, (20, task.logits)))
        expected = metrics.log_loss(probabilities(task, logits).numpy(), target)
        assert log_loss(task, logits, torch.from_numpy(target)) == pytest.approx(expected, rel=1e-12)


def test_log_loss_is_finite_where_a_probability_rounds_to_one() -> None:
    assert log_loss(ANY_OF, torch.tensor([[50.0, 0]]), torch.tensor([[0.0, 0]])) == pytest.approx(
        (50 + math.log(2)) / 2
    )
    assert log_loss(ONE_OF, torch.tensor([[2000.0, 0, 0]]), torch.tensor([1])) == 2000


def test_one_vs_normal_finds_the_probabilities_there_are() -> None:
    """Logits fitted to counts 20, 50, 30 of a, healthy, c give back these shares."""
    target = torch.tensor([0] * 20 + [1] * 50 + [2] * 30)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task_loss(VS_NORMAL, logits.expand(100, 2), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert probabilities(VS_NORMAL, logits.detach()[None])[0].tolist() == pytest.approx([0.2, 0.5, 0.3], abs=1e-4)
