"""A network is tried as a training would start with it."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from mil.cohort import Cohort
from mil.errors import MilError
from mil.labels import Labels
from mil.recipe import LossSpec, OptimSpec, Recipe, TrainSpec
from mil.settings import ModelSpec
from mil.task import Task
from mil.trial import describe, explained, seconds_per_instance, try_model

CPU = torch.device("cpu")
COHORT = Cohort(
    Labels(pd.DataFrame({"target": [0, 1]}), Task(("0", "1"))), [], [4, 6], {"instances": 6}, pd.DataFrame(), []
)
RECIPE = Recipe(model=ModelSpec(backbone="test_resnet", train_px=32), train=TrainSpec(precision="fp32"))


def test_as_it_would_start() -> None:
    frozen = replace(RECIPE, train=replace(RECIPE.train, freeze="all", instance_chunk=3))
    net, weights = try_model(COHORT, frozen, CPU)
    assert (net.instance_chunk, weights) == (3, None)
    learning = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    every = sum(weight.numel() for weight in net.parameters())
    assert describe(net, frozen) == (
        f"test_resnet on 32 px, maps 96 deep, attention pooling: {every / 1e6:.1f} million weights, of which "
        f"{100 * learning / every:.0f} % learn"
    )
    assert seconds_per_instance(net, COHORT, frozen, CPU) > 0


@pytest.mark.parametrize(
    ("recipe", "world", "sentence"),
    [
        (replace(RECIPE, optim=OptimSpec(optimizer="adamv")), 1, "timm has no optimiser 'adamv'; did you mean"),
        (replace(RECIPE, loss=LossSpec(loss="focal", focal_alpha=(1, 2, 3))), 1, "--focal-alpha has 3 weights and"),
        (replace(RECIPE, train=TrainSpec(decode="gpu")), 1, "--decode gpu needs a GPU to train on"),
        (replace(RECIPE, train=TrainSpec(precision="fp16")), 1, "--precision fp16 is for GPUs"),
        (
            replace(RECIPE, train=TrainSpec(batch_size=3)),
            4,
            "each process takes a bag of a batch: .* --batch-size of 4",
        ),
        (
            Recipe(replace(RECIPE.table), ModelSpec(head_hidden=8, head_norm=True), train=TrainSpec(batch_size=1)),
            1,
            "--head-norm takes means over bags: give a --batch-size of 2 or more",
        ),
    ],
)
def test_what_training_refuses(recipe: Recipe, world: int, sentence: str) -> None:
    with pytest.raises(MilError, match=sentence):
        try_model(COHORT, recipe, CPU, world)


def test_errors_of_a_step() -> None:
    norm = explained(ValueError("Expected more than 1 value per channel when training"), COHORT, RECIPE, CPU)
    assert norm is not None
    assert norm.startswith("batch norm has nothing to take a mean of (Expected more than 1 value per channel when")
    memory = explained(MemoryError(), COHORT, RECIPE, CPU)
    assert memory is not None
    assert memory.startswith("out of memory: a step of 2 bags with 10 tiles of 32 px needs about ")
    unsupported = type("Unsupported", (RuntimeError,), {"__module__": "torch._dynamo.exc"})("no graph\nof it")
    assert explained(unsupported, COHORT, RECIPE, CPU) == (
        "the backbone cannot be compiled here (no graph of it); train without --compile"
    )
    assert explained(RuntimeError("shapes differ"), COHORT, RECIPE, CPU) is None
