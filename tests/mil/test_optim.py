"""What learns how fast: groups, freezing, schedule."""

import math

import pytest
import torch

from mil.errors import ModelError
from mil.model import MILNet, build_model
from mil.optim import cosine, make_optimizer, prepare
from mil.settings import ModelSpec, TrainSpec
from mil.task import Task

TASK = Task(("a", "b"))


def build(**settings: object) -> MILNet:
    return build_model(ModelSpec(backbone="test_resnet", train_px=32, **settings), TASK, {"instances": 4})  # type: ignore


def rates(model: MILNet, spec: TrainSpec) -> dict[str, float]:
    """The learning rate of each parameter by name; every one that learns must be in one group, once."""
    optimizer = make_optimizer(model, spec)
    ids = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert len(ids) == len(set(ids))
    lr_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert set(lr_of) == {id(weight) for weight in model.parameters() if weight.requires_grad}
    return {name: lr_of[id(weight)] for name, weight in model.named_parameters() if id(weight) in lr_of}


def test_one_rate_for_all() -> None:
    assert set(rates(build(), TrainSpec(lr=0.5)).values()) == {0.5}


def test_a_rate_for_each_part() -> None:
    found = rates(build(embed=(8,)), TrainSpec(lr=0.1, lr_attention=0.2, lr_head=0.3))
    by_part = {"encoder.backbone": 0.1, "pooling": 0.2, "head": 0.3, "encoder.embedding": 0.3}
    for name, lr in found.items():
        assert [lr] == [rate for part, rate in by_part.items() if name.startswith(part)], name


def test_layers_decay_from_the_last_to_the_first() -> None:
    model = build()
    found = rates(model, TrainSpec(lr=1.0, layer_decay=0.5, lr_head=3.0))
    depths = model.encoder.backbone.depth_groups()  # type: ignore[operator]
    assert len(depths) > 3
    names = {id(weight): name for name, weight in model.named_parameters()}
    for depth, group in enumerate(depths):
        for weight in group:
            assert found[names[id(weight)]] == 0.5 ** (len(depths) - 1 - depth)
    first, last = (next(weight for weight in group) for group in (depths[0], depths[-1]))
    order = list(names)
    assert order.index(id(first)) < order.index(id(last))


def test_what_is_frozen_is_in_no_group() -> None:
    model = build()
    spec = TrainSpec(freeze="all")
    prepare(model, spec)
    assert {name.split(".")[0] for name in rates(model, spec)} == {"pooling", "head"}


def test_prepare_sets_how_it_is_computed() -> None:
    model = build()
    prepare(model, TrainSpec(instance_chunk=3, channels_last=True, batch_norm="frozen"))
    model.train()
    assert model.instance_chunk == 3
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)
    weight = model.encoder.backbone.net.layer4[0].conv1.weight  # type: ignore[union-attr, index]
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "settings",
    [{"freeze": 1}, {"batch_norm": "frozen"}, {"channels_last": True}, {"compile": True}, {"layer_decay": 0.5}],
)
def test_what_features_have_no_use_for_is_refused(settings: dict[str, object]) -> None:
    model = build_model(ModelSpec(), TASK, {"features": 3})
    flag = "--" + next(iter(settings)).replace("_", "-")
    with pytest.raises(ModelError, match=f"{flag} is for bags of tiles, and these hold features; leave it out"):
        prepare(model, TrainSpec(**settings))  # type: ignore[arg-type]


def test_guided_attention_learns_as_attention() -> None:
    found = rates(build(guided="softmax"), TrainSpec(lr=0.1, lr_attention=0.2, lr_head=0.3))
    assert {lr for name, lr in found.items() if ".attentions." in name} == {0.2}
    assert {lr for name, lr in found.items() if ".net." in name} == {0.1}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_optimizers(name: str, kind: type) -> None:
    optimizer = make_optimizer(build(), TrainSpec(optimizer=name, weight_decay=0.3))  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert optimizer.defaults["weight_decay"] == 0.3


def test_cosine_ends_every_group_in_proportion() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 10.0}])
    schedule = cosine(optimizer, 4, 0.1)
    found = []
    for _ in range(5):
        found.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert [rates[0] for rates in found] == pytest.approx(expected)
    assert [rates[1] for rates in found] == pytest.approx([10 * each for each in expected])
    assert found[-1] == pytest.approx([0.1, 1.0])
