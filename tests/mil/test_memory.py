"""What a step needs is counted right, and what there is is found wherever a limit stands."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from mil.cohort import Cohort
from mil.labels import Labels
from mil.memory import (
    _extrapolated,
    _halves,
    _network,
    _Peak,
    out_of_memory_sentence,
    settings_that_fit,
    state_share,
    step_memory,
)
from mil.recipe import AugmentSpec, OptimSpec, Recipe, TrainSpec
from mil.settings import ModelSpec
from mil.task import Task

CPU = torch.device("cpu")
SMALL = Recipe(
    model=ModelSpec(backbone="test_resnet", train_px=32),
    train=TrainSpec(batch_size=2, precision="fp32", loader_workers=2),
    augment=AugmentSpec(augment=False),
)


WIDE = Recipe(model=ModelSpec(embed=(2048, 16)), train=TrainSpec(batch_size=2, precision="fp32"))  # of features


def cohort(*sizes: int, **spec: object) -> Cohort:
    labels = Labels(pd.DataFrame(index=range(len(sizes))), Task(("0", "1")))
    return Cohort(labels, [], list(sizes), spec, pd.DataFrame(), [])


class TestStep:
    def test_of_features_to_the_byte(self) -> None:
        """Attention over 2 x 8 vectors of 64: each tensor that is there at the peak, counted by hand."""
        recipe = Recipe(model=ModelSpec(attention_hidden=16), train=TrainSpec(batch_size=2, loader_workers=0))
        found = step_memory(cohort(8, 8, 8, features=64), recipe, CPU)
        weights = 64 * 16 + 16 + 16 + 1 + 64 * 2 + 2
        assert found.weights == 4 * (weights + 2 * 64)  # and what scales the features
        assert found.optimizer == pytest.approx(2 * 4 * weights, rel=0.01)
        assert found.inputs == 16 * 64 * 4  # the batch
        assert (found.bags, found.instances) == (2, 16)
        assert found.step >= 4 * (weights + 16 * 64 + 16 * 16)  # gradients, scaled features, hidden units
        assert found.total == found.weights + found.optimizer + found.inputs + found.step

    def test_is_that_of_the_largest_bags(self) -> None:
        found = step_memory(cohort(1, 7, 2, 9), SMALL, CPU)
        assert (found.bags, found.instances, found.inputs) == (2, 16, 19 * 3 * 32 * 32)
        assert found.step == step_memory(cohort(8, 8), SMALL, CPU).step
        assert step_memory(cohort(1, 7, 2, 9), SMALL, CPU, processes=2).instances == 9
        assert step_memory(cohort(4), SMALL, CPU).bags == 1

    @pytest.mark.parametrize(("workers", "batches"), [(0, 1), (1, 3), (2, 3), (3, 4), (8, 6)])
    def test_batches_that_are_read_ahead(self, workers: int, batches: int) -> None:
        """Those the feed holds, and no more bags than there are."""
        train = replace(SMALL.train, loader_workers=workers)
        for augment in (False, True):
            recipe = replace(SMALL, train=train, augment=AugmentSpec(augment=augment))
            found = step_memory(cohort(*[1] * 40), recipe, CPU)
            assert found.inputs == (batches + augment) * 2 * 3 * 32 * 32
        assert step_memory(cohort(1, 1, 1, 1, 1), replace(SMALL, train=train), CPU).inputs <= 5 * 3 * 32 * 32

    def test_activations_grow_with_the_instances_and_nothing_else_does(self) -> None:
        one, two, three = (step_memory(cohort(size, size), SMALL, CPU) for size in (16, 32, 48))
        assert three.step - two.step == pytest.approx(two.step - one.step, rel=0.02)
        assert (one.weights, one.optimizer) == (two.weights, two.optimizer)

    def test_settings_that_need_less(self) -> None:
        bags = cohort(32, 32)
        whole = step_memory(bags, SMALL, CPU).step
        for change, least, most in (
            ({"freeze": "all"}, 0.01, 0.5), ({"instance_chunk": 8}, 0.1, 0.4), ({"precision": "bf16"}, 0.4, 0.8),
        ):  # fmt: skip
            less = step_memory(bags, replace(SMALL, train=replace(SMALL.train, **change)), CPU).step
            assert least < less / whole < most, change

    def test_average_of_the_weights_is_one_more_copy(self) -> None:
        plain, averaged = (step_memory(cohort(2), replace(SMALL, optim=OptimSpec(ema=ema)), CPU) for ema in (None, 0.9))
        assert averaged.weights == 2 * plain.weights

    def test_ends_of_epochs_that_are_averaged_are_kept_on_a_cpu(self) -> None:
        """Of what learns, and of no more epochs than there are; a GPU has their average alone."""
        found = {}
        for last, freeze in ((None, None), (3, None), (3, "all"), (9, None)):
            train = replace(SMALL.train, epochs=5, freeze=freeze)
            recipe = replace(SMALL, train=train, optim=OptimSpec(average_last=last))
            found[last, freeze] = step_memory(cohort(2), recipe, CPU).weights
        plain = found[None, None]
        assert found[3, None] == 4 * plain
        assert found[9, None] == 6 * plain
        assert plain < found[3, "all"] < 1.5 * plain

    def test_gradients_that_add_up_are_there_from_the_start(self) -> None:
        plain, added = (
            step_memory(cohort(2), replace(SMALL, optim=OptimSpec(accumulate=count)), CPU) for count in (1, 4)
        )
        assert added.step > plain.step

    @pytest.mark.parametrize("change", [{}, {"instance_chunk": 5}, {"freeze": "all"}, {"precision": "bf16"}])
    def test_is_what_a_step_with_values_takes(self, change: dict[str, object]) -> None:
        """The same count over a real step."""
        recipe = replace(SMALL, train=replace(SMALL.train, **change))
        estimate = step_memory(cohort(8, 8), recipe, CPU).step
        net, _ = _network(cohort(8, 8), recipe, CPU)
        instances = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
        with _Peak([*net.parameters(), *net.buffers(), instances]) as peak:
            loss = net(instances, torch.ones(2, 8, dtype=torch.bool)).logits_BK.square().sum()
            torch.autograd.backward(loss)
        assert estimate == pytest.approx(peak.most, rel=0.05)


def test_many_chunks_from_three() -> None:
    asked = []

    def play(count: int) -> int:
        asked.append(count)
        return 1000 + 3 * count

    assert _extrapolated(play, 100, 10) == 1300
    assert asked == [20, 30]
    assert _extrapolated(play, 100, None) == 1300
    assert _extrapolated(play, 29, 10) == 1087
    assert asked[2:] == [100, 29]


def test_state_of_optimisers() -> None:
    assert state_share(OptimSpec()) == pytest.approx(2, abs=0.01)


def test_halves() -> None:
    assert (_halves(16, 2), _halves(17, 4), _halves(1, 1), _halves(4, 1)) == ([8, 4, 2], [16, 8, 4], [], [2, 1])


class TestOutOfMemory:
    def test_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bags = cohort(4000, 4000, features=64)
        monkeypatch.setattr(
            "mil.memory.available_bytes", lambda device: round(0.6 * step_memory(bags, WIDE, CPU).total)
        )
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60)
        sentence = out_of_memory_sentence(caught.value, bags, WIDE, CPU)
        assert sentence is not None
        assert re.fullmatch(
            r"out of memory: a step of 2 bags with 8000 instances needs about \d+ MB, and \d+ MB are free on the "
            r"machine; --instance-chunk (4096|2048) would need about \d+ MB, --batch-size 1 would need about \d+ MB",
            sentence,
        )
        assert out_of_memory_sentence(RuntimeError("shapes differ"), bags, WIDE, CPU) is None

    def test_what_is_named_fits_and_the_next_larger_does_not(self) -> None:
        bags = cohort(4000, 4000, features=64)
        there = step_memory(cohort(1500, 1500, features=64), WIDE, CPU).total
        ((flag, size),) = [found for found in settings_that_fit(bags, WIDE, CPU, there) if "chunk" in found[0]]
        chunk = int(flag.split()[1])
        assert size.total <= there
        larger = replace(WIDE, train=replace(WIDE.train, instance_chunk=2 * chunk))
        assert step_memory(bags, larger, CPU).total > there

    def test_what_cannot_be_trained_with_is_not_named(self) -> None:
        """A chunk or batch too small for a batch norm, of the backbone or of the head."""
        normed = replace(SMALL, model=replace(SMALL.model, head_hidden=8, head_norm=True))
        train = replace(SMALL.train, batch_size=4)
        small = step_memory(cohort(1), replace(SMALL, train=replace(train, batch_size=1, freeze="all")), CPU).total
        assert settings_that_fit(cohort(2, 2, 2, 2), replace(normed, train=train), CPU, small) == []
        one_each = cohort(1, 1, 1, 1)  # of which a batch of one is a single tile
        assert settings_that_fit(one_each, replace(SMALL, train=train), CPU, small) == []
        flags = [flag for flag, _ in settings_that_fit(one_each, replace(normed, train=train), CPU, 10**9)]
        assert flags == ["--instance-chunk 2", "--batch-size 2"]

    def test_nothing_that_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mil.memory.available_bytes", lambda device: 1000)
        sentence = out_of_memory_sentence(MemoryError(), cohort(2), SMALL, CPU)
        assert sentence is not None
        assert sentence.endswith("; take a smaller --train-px or --backbone, or fewer --instances when tiling")
