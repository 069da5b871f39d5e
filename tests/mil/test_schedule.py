"""Learning rates by hand."""

import json
import math

import pytest
import torch

from mil.errors import SettingsError
from mil.recipe import OptimSpec, Recipe, TrainSpec
from mil.schedule import Schedule


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    return torch.optim.SGD(groups, lr=1.0)


def rates(spec: OptimSpec, updates: int, epochs: int) -> list[float]:
    """`lr` at every update, and one beyond the last."""
    schedule = Schedule(optimizer(spec.lr), spec, updates, epochs)
    found = []
    for update in range(updates * epochs + 1):
        schedule.at(update)
        found.append(schedule.lr)
    return found


def test_cosine_is_half_a_cosine_over_all_updates() -> None:
    expected = [1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * update / 15)) / 2 for update in range(16)]
    assert rates(OptimSpec(lr=1e-4, lr_end=1e-6), 5, 3) == pytest.approx(expected, rel=1e-12)
    assert expected[0] == 1e-4
    assert rates(OptimSpec(lr=1e-4, lr_end=1e-6), 5, 3)[-1] == 1e-6


def test_groups_keep_their_proportions() -> None:
    groups = optimizer(1.0, 10.0, 0.0)
    schedule = Schedule(groups, OptimSpec(lr=1.0, lr_end=0.1, warmup_epochs=1, lr_warmup=0.4), 2, 3)
    assert [group["lr"] for group in groups.param_groups] == [0.4, 4.0, 0.0]  # set for the first update
    schedule.at(4)
    middle = 0.1 + 0.9 / 2
    assert [group["lr"] for group in groups.param_groups] == pytest.approx([middle, 10 * middle, 0])
    schedule.at(6)
    assert [group["lr"] for group in groups.param_groups] == pytest.approx([0.1, 1.0, 0])


def test_rates_are_those_of_the_update_alone() -> None:
    spec = OptimSpec(lr=1.0, schedule="tanh", warmup_epochs=1)
    forwards = rates(spec, 4, 3)
    schedule = Schedule(optimizer(1.0), spec, 4, 3)
    for update in reversed(range(13)):
        schedule.at(update)
        assert schedule.lr == forwards[update]


def test_schedule_of_a_restored_optimizer_starts_from_where_the_rates_started() -> None:
    spec = OptimSpec(lr=1.0, lr_end=0.0)
    trained, restored = optimizer(1.0, 2.0), optimizer(1.0, 2.0)
    Schedule(trained, spec, 2, 2).at(3)
    restored.load_state_dict(trained.state_dict())
    schedule = Schedule(restored, spec, 2, 2)
    assert [group["lr"] for group in restored.param_groups] == [1, 2]
    restored.load_state_dict(trained.state_dict())  # in either order; it puts other groups in place of these
    schedule.at(2)
    assert [group["lr"] for group in restored.param_groups] == pytest.approx([0.5, 1])


def test_warm_up_then_the_curve_over_what_remains() -> None:
    """A fraction of an epoch, in whole updates."""
    found = rates(OptimSpec(lr=1.0, lr_end=0.2, warmup_epochs=0.5, lr_warmup=0.1), 4, 2)
    expected = [0.1, 0.55] + [0.2 + 0.8 * (1 + math.cos(math.pi * update / 6)) / 2 for update in range(7)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "updates"), [(0.0, 0), (0.001, 1), (0.1, 3), (0.101, 4), (0.7, 21), (1.0, 30), (2.9, 87), (2.999, 89)]
)
def test_a_warm_up_is_never_rounded_to_less(epochs: float, updates: int) -> None:
    schedule = Schedule(optimizer(1.0), OptimSpec(lr=1.0, schedule="constant", warmup_epochs=epochs), 30, 3)
    found = []
    for update in range(90):
        schedule.at(update)
        found.append(schedule.lr)
    assert found == pytest.approx([update / updates for update in range(updates)] + [1] * (90 - updates))


@pytest.mark.parametrize("kind", ["cosine", "poly", "tanh"])
def test_one_update_without_a_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = OptimSpec(lr=1.0, lr_end=0.1, schedule=kind)  # type: ignore[arg-type]
    assert rates(spec, 1, 1) == pytest.approx([1, 0.1], rel=1e-5)
    assert not caplog.records
    assert rates(OptimSpec(lr=1.0, schedule="constant", warmup_epochs=0.5), 1, 1) == [1, 1]


def test_plateau_does_not_wait_while_it_warms_up() -> None:
    """Figures that are better only because the rate was low are forgotten too."""
    spec = OptimSpec(lr=1.0, schedule="plateau", decay_epochs=2, warmup_epochs=1.5)
    schedule, found = Schedule(optimizer(1.0), spec, 2, 9), []
    for epoch, figure in enumerate([0.1, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]):
        schedule.at(2 * epoch + 1)  # the last of the epoch
        schedule.epoch_ended(figure)
        schedule.at(2 * epoch + 2)
        found.append(schedule.lr)
    assert found == pytest.approx([2 / 3, 1, 1, 1, 1, 0.1, 0.1, 0.01])


def test_poly() -> None:
    found = rates(OptimSpec(lr=1.0, schedule="poly", lr_end=0.1, poly_power=2.0), 2, 2)
    assert found == pytest.approx([0.1 + 0.9 * (1 - update / 4) ** 2 for update in range(5)])


def test_tanh() -> None:
    found = rates(OptimSpec(lr=1.0, schedule="tanh", lr_end=0.1), 2, 2)
    expected = [0.1 + 0.45 * (1 - math.tanh(-7 + 10 * update / 4)) for update in range(4)]
    assert found == pytest.approx([*expected, 0.1])


def test_step_multiplies_every_so_many_epochs() -> None:
    found = rates(OptimSpec(lr=1.0, schedule="step", decay_rate=0.95, decay_epochs=1), 2, 3)
    assert found == pytest.approx([1, 1, 0.95, 0.95, 0.95**2, 0.95**2, 0.95**3])
    found = rates(OptimSpec(lr=1.0, schedule="step", decay_epochs=2, warmup_epochs=1, lr_warmup=0.5), 2, 5)
    assert found == pytest.approx([0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])


def test_constant() -> None:
    assert rates(OptimSpec(lr=0.3, schedule="constant", warmup_epochs=1), 2, 2) == pytest.approx([0, 0.15, *[0.3] * 3])


def test_plateau_falls_after_epochs_without_a_better_figure() -> None:
    spec = OptimSpec(lr=1.0, schedule="plateau", decay_epochs=2, lr_end=0.05)
    schedule = Schedule(optimizer(1.0), spec, 2, 20)
    found = []
    for epoch, figure in enumerate([0.5, 0.4, 0.4, 0.41, 0.39, 0.5, 0.4, 0.4, 0.4, 0.4, 0.3]):
        schedule.epoch_ended(figure)
        schedule.at(2 * epoch + 2)
        found.append(schedule.lr)
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05])


def test_plateau_takes_negative_figures() -> None:
    schedule = Schedule(optimizer(1.0), OptimSpec(lr=1.0, schedule="plateau", decay_epochs=1), 1, 20)
    for figure, expected in ((-0.5, 1), (-0.6, 1), (-0.6, 0.1)):
        schedule.epoch_ended(figure)
        schedule.at(1)
        assert schedule.lr == pytest.approx(expected)


@pytest.mark.parametrize("end", range(7))
def test_plateau_goes_on_from_its_state(end: int) -> None:
    figures = [0.5, 0.4, 0.4, 0.41, 0.39, 0.5, 0.4, 0.4]
    spec = OptimSpec(lr=1.0, schedule="plateau", decay_epochs=2)

    def found(schedule: Schedule, figures: list[float]) -> list[float]:
        each = []
        for figure in figures:
            schedule.epoch_ended(figure)
            schedule.at(1)
            each.append(schedule.lr)
        return each

    first, second = Schedule(optimizer(1.0), spec, 1, 20), Schedule(optimizer(1.0), spec, 1, 20)
    whole = found(Schedule(optimizer(1.0), spec, 1, 20), figures)
    found(first, figures[:end])
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert found(second, figures[end:]) == whole[end:]


def test_figures_say_nothing_to_other_schedules() -> None:
    schedule = Schedule(optimizer(1.0), OptimSpec(lr=1.0, schedule="constant"), 1, 20)
    for _ in range(30):
        schedule.epoch_ended(1.0)
    schedule.at(5)
    assert schedule.lr == 1
    assert schedule.state_dict() == {"best": None, "waited": 0, "drops": 0}


def test_warm_up_that_never_ends_is_refused() -> None:
    sentence = "--warmup-epochs 3 leaves none of --epochs 3"
    with pytest.raises(SettingsError, match=sentence):
        Schedule(optimizer(1.0), OptimSpec(warmup_epochs=3), 2, 3)
    with pytest.raises(SettingsError, match=sentence):
        Recipe(optim=OptimSpec(warmup_epochs=3), train=TrainSpec(epochs=3))


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"lr": 1e-7}, "--lr-end 1e-06 is above --lr 1e-07"),
    ({"warmup_epochs": 1, "lr_warmup": 1.0}, "--lr-warmup 1.0 is above --lr 0.0001"),
    ({"lr_warmup": 1e-6}, "--lr-warmup says something only beside --warmup-epochs"),
    ({"decay_rate": 0.5}, "--decay-rate says something only beside --schedule step or plateau"),
    ({"schedule": "step", "lr_end": 0.0}, "--lr-end .* only beside --schedule cosine or poly or tanh or plateau"),
    ({"schedule": "step", "poly_power": 2.0}, "--poly-power says something only beside --schedule poly"),
    ({"schedule": "linear"}, "--schedule is one of cosine, poly, tanh, step, plateau, constant, not 'linear'"),
    ({"ema": 0.9, "average_last": 2}, "give --ema or --average-last, not both"),
], ids=str)  # fmt: skip
def test_settings_that_do_not_go_together(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        OptimSpec(**settings)  # type: ignore[arg-type]


def test_low_rates_need_no_lower_end_where_there_is_none() -> None:
    assert OptimSpec(lr=1e-7, schedule="constant").lr == 1e-7


def test_plateau_must_come_before_the_fold_stops() -> None:
    plateau = OptimSpec(schedule="plateau", decay_epochs=5)
    with pytest.raises(SettingsError, match="waits --decay-epochs 5 .* stops after --patience 5 of them"):
        Recipe(optim=plateau)
    with pytest.raises(SettingsError, match="--schedule plateau needs a validation figure"):
        Recipe(optim=plateau, train=TrainSpec(valid_share=0))
    assert Recipe(optim=plateau, train=TrainSpec(patience=6)).optim == plateau
