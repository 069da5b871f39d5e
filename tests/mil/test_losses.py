"""Losses and probabilities by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from mil import metrics
from mil.errors import SettingsError
from mil.labels import Labels, target_column
from mil.losses import TaskLoss, focal, log_loss, probabilities, sampling_weights
from mil.recipe import LossSpec
from mil.task import ANY_OF as SEVERAL
from mil.task import Task

TWO = Task(("a", "b"))
ONE_OF = Task(("a", "b", "c"))
ANY_OF = Task(("a", "b"), "any of")
VS_NORMAL = Task(("a", "healthy", "c"), "one vs normal", "healthy")
nan = math.nan


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def labels(task: Task, targets: object) -> Labels:
    values = np.array(targets)
    if task.kind == SEVERAL:
        return Labels(pd.DataFrame({target_column(name): values[:, k] for k, name in enumerate(task.classes)}), task)
    return Labels(pd.DataFrame({"target": values}), task)


def loss_of(task: Task, training: object = None, **settings: object) -> TaskLoss:
    anything = [[0, 1], [1, 0]] if task.kind == SEVERAL else [0, 1]
    return TaskLoss(task, LossSpec(**settings), np.array(anything if training is None else training))  # type: ignore


def mean(loss: TaskLoss, logits: Tensor, target: Tensor) -> Tensor:
    return loss(logits, target) / loss.weight(target)


def test_one_of_is_cross_entropy() -> None:
    logits, target = torch.tensor([[1.0, 2, 3], [0, 0, 5]]), torch.tensor([1, 0])
    loss = loss_of(ONE_OF)
    expected = -(math.log(math.e**2 / (math.e + math.e**2 + math.e**3)) + math.log(1 / (2 + math.e**5)))
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6)
    assert loss.weight(target) == 2


def test_any_of_has_a_term_for_each_label_that_is_known() -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 7]], requires_grad=True)
    target = torch.tensor([[1, 0], [0, torch.nan]], dtype=torch.float64)  # as the labels table has it
    loss = loss_of(ANY_OF)
    assert loss.weight(target) == 3
    total = loss(logits, target)
    expected = -(math.log(sigmoid(1)) + math.log(1 - sigmoid(-2)) + math.log(1 - sigmoid(0.5)))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected, rel=1e-6)
    total.backward()
    assert logits.grad is not None
    torch.testing.assert_close(
        logits.grad, torch.tensor([[sigmoid(1) - 1, sigmoid(-2)], [sigmoid(0.5), 0]]), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_batch_of_which_nothing_is_known_costs_and_weighs_nothing(loss: str) -> None:
    logits, target = torch.zeros(1, 2, requires_grad=True), torch.full((1, 2), torch.nan)
    total = loss_of(ANY_OF, loss=loss)(logits, target)
    total.backward()
    assert total.item() == loss_of(ANY_OF, loss=loss).weight(target) == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0, 0]]


def test_one_vs_normal_asks_each_class_on_its_own_slides_and_normal_ones() -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 7], [3, -1]], requires_grad=True)
    target = torch.tensor([1, 2, 0])  # healthy, c, a
    loss = loss_of(VS_NORMAL)
    assert loss.weight(target) == 4
    terms = [1 - sigmoid(1), 1 - sigmoid(-2), sigmoid(7), sigmoid(3)]
    total = loss(logits, target)
    assert total.item() == pytest.approx(-sum(map(math.log, terms)), rel=1e-6)
    total.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, False], [True, False], [False, True]]


def test_label_smoothing_is_that_of_torch() -> None:
    logits, target = torch.tensor([[1.0, 2, 3], [0, 0, 5]]), torch.tensor([1, 0])
    expected = nn.CrossEntropyLoss(label_smoothing=0.3)(logits, target)
    assert torch.equal(mean(loss_of(ONE_OF, label_smoothing=0.3), logits, target), expected)


def test_label_smoothing_of_a_label_goes_towards_one_half() -> None:
    logits = torch.tensor([[1.0, -2]])
    total = loss_of(ANY_OF, label_smoothing=0.2)(logits, torch.tensor([[1.0, 0]]))
    expected = -0.9 * math.log(sigmoid(1)) - 0.1 * math.log(sigmoid(-1))
    expected += -0.9 * math.log(sigmoid(2)) - 0.1 * math.log(sigmoid(-2))
    assert total.item() == pytest.approx(expected, rel=1e-6)
    # The same as of two classes, one of which has the logit 0.
    pairs = torch.tensor([[0, 1.0], [0, -2]])
    assert loss_of(TWO, label_smoothing=0.2)(pairs, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_labels_is_torchvisions(gamma: float) -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 3], [-4, 0]])
    target = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    for alpha, theirs in ((0.3,), 0.3), ((), -1):
        loss = loss_of(ANY_OF, loss="focal", focal_gamma=gamma, focal_alpha=alpha)
        expected = sigmoid_focal_loss(logits, target, alpha=theirs, gamma=gamma, reduction="mean")
        assert mean(loss, logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_of_two_classes_is_torchvisions_of_their_difference() -> None:
    logits, target = torch.tensor([[1.0, 3], [2, -0.5], [0, 0]]), torch.tensor([1, 1, 0])
    loss = loss_of(TWO, loss="focal", focal_gamma=2.0, focal_alpha=(0.3,))
    expected = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], target.float(), alpha=0.3, gamma=2, reduction="sum")
    assert loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
    both = loss_of(TWO, loss="focal", focal_gamma=2.0, focal_alpha=(0.7, 0.3))
    assert torch.equal(both(logits, target), loss(logits, target))


def test_focal_loss_takes_each_slides_own_probability() -> None:
    """By hand: (1 - p)² log p of each, with p of that slide, weighed by its class."""
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).log()
    total = loss_of(ONE_OF, loss="focal", focal_alpha=(1.0, 2.0, 3.0))(logits, torch.tensor([0, 2]))
    assert total.item() == pytest.approx(-(0.4**2) * math.log(0.6) - 3 * 0.4**2 * math.log(0.6), rel=1e-6)
    total = loss_of(ONE_OF, loss="focal", focal_alpha=(1.0, 2.0, 3.0))(logits, torch.tensor([1, 0]))
    assert total.item() == pytest.approx(-2 * 0.7**2 * math.log(0.3) - 0.8**2 * math.log(0.2), rel=1e-6)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, target = torch.tensor([[1.0, 2, 3], [0, 0, 5]]), torch.tensor([1, 0])
    focal_loss = loss_of(ONE_OF, loss="focal", focal_gamma=0.0)(logits, target)
    torch.testing.assert_close(focal_loss, loss_of(ONE_OF)(logits, target))


def test_alpha_of_one_vs_normal() -> None:
    logits = torch.tensor([[1.0, -2], [0.5, 7], [3, -1]])
    target = torch.tensor([1, 2, 0])  # healthy, c, a
    total = loss_of(VS_NORMAL, loss="focal", focal_gamma=0.0, focal_alpha=(0.5, 2.0, 4.0))(logits, target)
    terms = [2 * math.log(sigmoid(-1)), 2 * math.log(sigmoid(2)), 4 * math.log(sigmoid(7)), 0.5 * math.log(sigmoid(3))]
    assert total.item() == pytest.approx(-sum(terms), rel=1e-6)
    one = loss_of(VS_NORMAL, loss="focal", focal_alpha=(0.3,))(logits, target)
    all_three = loss_of(VS_NORMAL, loss="focal", focal_alpha=(0.3, 0.7, 0.3))(logits, target)
    torch.testing.assert_close(one, all_three)


def test_alpha_of_labels() -> None:
    logits, target = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0], [0, nan]])
    total = loss_of(ANY_OF, loss="focal", focal_gamma=0.0, focal_alpha=(0.3, 0.8))(logits, target)
    assert total.item() == pytest.approx((0.3 + 0.2 + 0.7) * math.log(2), rel=1e-6)


@pytest.mark.parametrize(("task", "alpha"), [(ONE_OF, (0.3,)), (ONE_OF, (1.0, 2.0)), (ANY_OF, (0.1, 0.2, 0.3))])
def test_alpha_that_does_not_fit_is_refused(task: Task, alpha: tuple[float, ...]) -> None:
    names = ", ".join(task.classes)
    sentence = rf"--focal-alpha has {len(alpha)} weights? and there are {len(task.classes)} classes \({names}\)"
    with pytest.raises(SettingsError, match=sentence):
        loss_of(task, loss="focal", focal_alpha=alpha)


def test_alpha_of_a_label_is_at_most_one() -> None:
    with pytest.raises(SettingsError, match="and 1 less it its absence: give numbers up to 1, not 3"):
        loss_of(ANY_OF, loss="focal", focal_alpha=(0.1, 3.0))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_and_its_gradient_are_finite_and_keep_their_digits(gamma: float) -> None:
    margins = torch.tensor([-100.0, -20, 20, 100], requires_grad=True)
    losses = focal(margins, gamma)
    (gradients,) = torch.autograd.grad(losses.sum(), margins)
    assert losses[:2].tolist() == pytest.approx([100, 20], rel=1e-6)
    assert losses[2].item() == pytest.approx(math.exp(-20 * (gamma + 1)), rel=1e-5)
    assert 0 <= losses[3].item() < 1e-43
    assert gradients[:2].tolist() == pytest.approx([-1, -1], rel=1e-5)
    assert gradients[2].item() == pytest.approx(-(gamma + 1) * math.exp(-20 * (gamma + 1)), rel=1e-4)
    assert -1e-42 < gradients[3].item() <= 0


@pytest.mark.parametrize("task", [TWO, ONE_OF, ANY_OF, VS_NORMAL], ids=lambda task: f"{len(task.classes)} {task.kind}")
@pytest.mark.parametrize("settings", [
    {}, {"label_smoothing": 0.1}, {"balance": "weights"}, {"loss": "focal"}, {"loss": "focal", "focal_gamma": 0.5},
    {"loss": "focal", "balance": "weights"},
], ids=str)  # fmt: skip
def test_gradients(task: Task, settings: dict[str, object]) -> None:
    """Against finite differences; and they stay finite in single precision for logits of ±100."""
    targets = [[1, 0], [0, nan], [1, 1], [0, 0]] if task.kind == SEVERAL else [0, 1, 1, len(task.classes) - 1]
    loss, target = loss_of(task, targets, **settings), torch.tensor(targets)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, task.logits, generator=generator, dtype=torch.float64).mul_(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), (logits,))
    for sign in (1, -1):
        far = torch.full((4, task.logits), -100.0 * sign)
        far[:, 0] = 100 * sign
        far.requires_grad_()
        total = loss(far, target)
        total.backward()
        assert total.isfinite()
        assert far.grad is not None
        assert far.grad.isfinite().all()


def test_weights_of_classes_make_it_the_class_weighted_log_loss() -> None:
    targets = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    logits, target = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(targets)
    loss = loss_of(ONE_OF, targets, balance="weights")
    losses = nn.functional.cross_entropy(logits, target, reduction="none")
    of_each = [losses[target == k].mean().item() for k in range(3)]
    assert mean(loss, logits, target).item() == pytest.approx(np.mean(of_each), rel=1e-6)
    # Weights 1 / (K share), as torch applies them; its own mean over all slides divides by as much.
    weight = torch.tensor([10 / (3 * 5), 10 / (3 * 3), 10 / (3 * 2)])
    torch.testing.assert_close(loss(logits, target), nn.CrossEntropyLoss(weight, reduction="sum")(logits, target))
    torch.testing.assert_close(mean(loss, logits, target), nn.CrossEntropyLoss(weight)(logits, target))


def test_batch_of_a_rare_class_alone_weighs_more_than_one_of_a_frequent_class_alone() -> None:
    loss = loss_of(TWO, [0] * 9 + [1], balance="weights")
    logits = torch.zeros(2, 2)
    rare, frequent = mean(loss, logits, torch.tensor([1, 1])), mean(loss, logits, torch.tensor([0, 0]))
    assert rare.item() == pytest.approx(5 * math.log(2), rel=1e-6)
    assert frequent.item() == pytest.approx(5 / 9 * math.log(2), rel=1e-6)


def test_weights_of_labels_balance_each_and_all_of_them() -> None:
    targets = [[1, 1], [0, 1], [0, nan], [0, 0]]
    loss = loss_of(ANY_OF, targets, balance="weights")
    logits, target = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(targets)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    of_each = [losses[target[:, k] == value, k].mean().item() for k in range(2) for value in (0, 1)]
    assert loss.weight(target) == 7
    assert mean(loss, logits, target).item() == pytest.approx(np.mean(of_each), rel=1e-6)


def test_weights_against_normal_balance_each_logit() -> None:
    targets = [0, 0, 0, 1, 1, 2]
    loss = loss_of(VS_NORMAL, targets, balance="weights")
    logits, target = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(targets)
    normal = -nn.functional.logsigmoid(-logits[3:5]).mean(dim=0)
    a, c = -nn.functional.logsigmoid(logits[:3, 0]).mean(), -nn.functional.logsigmoid(logits[5, 1])
    assert mean(loss, logits, target).item() == pytest.approx((normal.sum() + a + c).item() / 4, rel=1e-6)


def test_class_that_training_has_not_weighs_one() -> None:
    loss = loss_of(ONE_OF, [0, 0, 1, 1], balance="weights")
    logits = torch.zeros(1, 3)
    assert [loss(logits, torch.tensor([k])).item() for k in range(3)] == pytest.approx([math.log(3)] * 3, rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"balance": "weights"}, {"loss": "focal"}], ids=str)
def test_gradient_of_parts_is_that_of_the_whole(settings: dict[str, object]) -> None:
    """Sums over processes or accumulated batches of any size, by the weight of them all."""
    targets = [[1, 1], [0, 1], [0, nan], [0, 0], [1, nan]]
    loss, target = loss_of(ANY_OF, targets, **settings), torch.tensor(targets)
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    (whole,) = torch.autograd.grad(mean(loss, logits, target), logits)
    weight = sum(loss.weight(part) for part in target.split(2))
    for rows, part in zip(logits.split(2), target.split(2), strict=True):
        (loss(rows, part) / weight).backward()
    torch.testing.assert_close(logits.grad, whole, rtol=1e-12, atol=0)


def test_sampling_draws_each_class_alike() -> None:
    weights = sampling_weights(ONE_OF, np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]))
    assert weights.tolist() == pytest.approx([2 / 3] * 5 + [10 / 9] * 3 + [5 / 3] * 2)
    assert weights.sum() == pytest.approx(10)


def test_sampling_of_several_labels_goes_by_the_mean_over_those_that_are_known() -> None:
    weights = sampling_weights(ANY_OF, np.array([[1, 1], [0, 1], [0, nan], [0, 0]]))
    each = np.array([(2 + 3 / 4) / 2, (2 / 3 + 3 / 4) / 2, 2 / 3, (2 / 3 + 3 / 2) / 2])
    assert weights == pytest.approx(each / each.mean())


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"focal_alpha": (1.5,)}, "--focal-alpha takes one number from 0 to 1, or a weight of at least 0 .* not 1.5"),
    ({"focal_alpha": (1.0, -1.0)}, "not -1.0"),
    ({"focal_alpha": (1.0, nan)}, "not nan"),
    ({"focal_alpha": (0.0, 0.0)}, "--focal-alpha weighs every class 0"),
    ({"loss": "cross-entropy", "focal_gamma": 1.0}, "say something only beside --loss focal"),
    ({"label_smoothing": 0.1}, "--label-smoothing goes with --loss cross-entropy, not with focal"),
    ({"focal_alpha": (0.25,), "balance": "weights"}, "give --focal-alpha or --balance weights, not both"),
    ({"label_smoothing": 1.0}, "--label-smoothing must be from 0 to 0.99, not 1.0"),
], ids=str)  # fmt: skip
def test_settings_that_do_not_go_together(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        LossSpec(**{"loss": "focal", **settings})  # type: ignore[arg-type]


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
        loss = mean(loss_of(VS_NORMAL), logits.expand(100, 2), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert probabilities(VS_NORMAL, logits.detach()[None])[0].tolist() == pytest.approx([0.2, 0.5, 0.3], abs=1e-4)


SOFT = [[0.7, 0.2, 0.1], [0, 1, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize("task", [ONE_OF, VS_NORMAL], ids=["one of", "one vs normal"])
@pytest.mark.parametrize("settings", [{}, {"balance": "weights"}, {"loss": "focal"}, {"label_smoothing": 0.2}], ids=str)
def test_soft_target_is_a_mixture_of_certain_ones(task: Task, settings: dict[str, object]) -> None:
    """In the loss and in the number of terms; targets that are certain say the same as places and as probabilities."""
    loss, soft = loss_of(task, [0, 0, 1, 2], **settings), torch.tensor(SOFT, dtype=torch.float64)
    logits = torch.randn(3, task.logits, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = terms = 0.0
    for row, share in itertools.product(range(3), range(3)):
        place = torch.tensor([share])
        total += SOFT[row][share] * loss(logits[row : row + 1], place).item()
        terms += SOFT[row][share] * loss.weight(place)
    assert loss(logits, soft).item() == pytest.approx(total, rel=1e-12)
    assert loss.weight(soft) == pytest.approx(terms, rel=1e-12)
    places = torch.tensor([2, 0, 1])
    certain = nn.functional.one_hot(places, 3).double()
    assert loss(logits, certain).item() == pytest.approx(loss(logits, places).item(), rel=1e-12)
    assert loss.weight(certain) == loss.weight(places)


def test_soft_target_of_a_label_is_a_mixture_too() -> None:
    loss, logits = loss_of(ANY_OF, [[0, 1], [1, 0], [0, 0]], balance="weights"), torch.tensor([[1.0, -2]])
    one, other = (loss(logits, torch.tensor([[float(first), nan]])).item() for first in (0, 1))
    assert loss(logits, torch.tensor([[0.3, nan]])).item() == pytest.approx(0.7 * one + 0.3 * other, rel=1e-6)
    assert loss.weight(torch.tensor([[0.3, nan]])) == 1


def test_soft_targets_weigh_the_classes_by_their_sums() -> None:
    soft = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    places = np.array([0, 0, 1, 2])
    logits = torch.tensor([[1.0, 2, 3]])
    for task in (ONE_OF, VS_NORMAL):
        by_soft, by_places = (loss_of(task, training, balance="weights") for training in (soft, places))
        for place in range(3):
            target = torch.tensor([place])
            shown = logits[:, : task.logits]
            assert by_soft(shown, target).item() == pytest.approx(by_places(shown, target).item(), rel=1e-6)
    assert sampling_weights(ONE_OF, soft).tolist() == pytest.approx([2 / 3, 1, 1, 4 / 3])
