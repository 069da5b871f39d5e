"""What learns how fast, and by which optimiser: groups, freezing, all optimisers there are."""

import json
from typing import Any

import pytest
import torch
from timm.optim import list_optimizers
from torch import Tensor

from mil.errors import ModelError, SettingsError
from mil.model import MILNet, build_model
from mil.optim import half_precision, make_optimizer, prepare, synchronise_batch_norm
from mil.recipe import OptimSpec, TrainSpec
from mil.settings import ModelSpec
from mil.task import Task

TASK = Task(("a", "b"))
CPU, GPU = torch.device("cpu"), torch.device("cuda")  # a GPU that need not be there


def build(backbone: str = "test_resnet", **settings: object) -> MILNet:
    return build_model(ModelSpec(backbone=backbone, train_px=32, **settings), TASK, {"instances": 4})  # type: ignore


def rates(model: MILNet, spec: OptimSpec, what: str = "lr") -> dict[str, float]:
    """The learning rate of each parameter by name; every one that learns must be in one group, once."""
    optimizer = make_optimizer(model, spec)
    ids = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert len(ids) == len(set(ids))
    lr_of = {id(weight): group[what] for group in optimizer.param_groups for weight in group["params"]}
    assert set(lr_of) == {id(weight) for weight in model.parameters() if weight.requires_grad}
    return {name: lr_of[id(weight)] for name, weight in model.named_parameters() if id(weight) in lr_of}


def test_one_rate_for_all() -> None:
    assert set(rates(build(), OptimSpec(lr=0.5)).values()) == {0.5}


def test_a_rate_for_each_part() -> None:
    found = rates(build(embed=(8,)), OptimSpec(lr=0.1, lr_attention=0.2, lr_head=0.3))
    by_part = {"encoder.backbone": 0.1, "pooling": 0.2, "head": 0.3, "encoder.embedding": 0.3}
    for name, lr in found.items():
        assert [lr] == [rate for part, rate in by_part.items() if name.startswith(part)], name


def test_layers_decay_from_the_last_to_the_first() -> None:
    model = build()
    found = rates(model, OptimSpec(lr=1.0, layer_decay=0.5, lr_head=3.0))
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
    prepare(model, TrainSpec(freeze="all"), CPU)
    assert {name.split(".")[0] for name in rates(model, OptimSpec())} == {"pooling", "head"}


def test_prepare_sets_how_it_is_computed() -> None:
    model = build()
    prepare(model, TrainSpec(instance_chunk=3, channels_last=True, batch_norm="frozen"), CPU)
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
    [{"freeze": 1}, {"batch_norm": "frozen"}, {"channels_last": True}, {"compile": True}],
)
def test_what_features_have_no_use_for_is_refused(settings: dict[str, object]) -> None:
    model = build_model(ModelSpec(), TASK, {"features": 3})
    flag = "--" + next(iter(settings)).replace("_", "-")
    with pytest.raises(ModelError, match=f"{flag} is for bags of tiles, and these hold features; leave it out"):
        prepare(model, TrainSpec(**settings), CPU)  # type: ignore[arg-type]


def test_features_have_no_layers() -> None:
    model = build_model(ModelSpec(), TASK, {"features": 3})
    with pytest.raises(ModelError, match="--layer-decay is for bags of tiles, and these hold features; leave it out"):
        make_optimizer(model, OptimSpec(layer_decay=0.5))
    assert set(rates(model, OptimSpec()).values()) == {1e-4}


def test_guided_attention_learns_as_attention() -> None:
    found = rates(build(guided="softmax"), OptimSpec(lr=0.1, lr_attention=0.2, lr_head=0.3))
    assert {lr for name, lr in found.items() if ".attentions." in name} == {0.2}
    assert {lr for name, lr in found.items() if ".net." in name} == {0.1}


def test_weight_decay_is_for_matrices_and_kernels() -> None:
    model = build(embed=(8,), head_hidden=4)
    found = rates(model, OptimSpec(weight_decay=0.3, lr_head=1.0), "weight_decay")
    assert {name: decay for name, decay in found.items() if decay} == {
        name: 0.3 for name, weight in model.named_parameters() if weight.ndim > 1
    }
    assert found["encoder.backbone.net.layer1.0.conv1.weight"] == 0.3
    assert found["encoder.backbone.net.layer1.0.bn1.weight"] == found["head.classifier.1.bias"] == 0


@pytest.mark.parametrize("guided", [None, "softmax"])
def test_no_weight_decay_for_what_the_backbone_names(guided: str | None) -> None:
    found = rates(build("test_vit", guided=guided), OptimSpec(weight_decay=0.3), "weight_decay")
    (place,) = {name.removesuffix("pos_embed") for name in found if name.endswith("pos_embed")}
    assert found[f"{place}pos_embed"] == 0
    assert found[f"{place}blocks.0.attn.qkv.weight"] == 0.3


def test_groups_remember_where_they_start() -> None:
    model = build()
    found = rates(model, OptimSpec(lr=0.1, lr_attention=0.2, lr_head=0.3), "initial_lr")
    assert found == rates(model, OptimSpec(lr=0.1, lr_attention=0.2, lr_head=0.3))
    assert set(found.values()) == {0.1, 0.2, 0.3}


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("SGD", torch.optim.SGD)]
)
def test_torchs_own_optimizers_are_fused(name: str, kind: type) -> None:
    optimizer = make_optimizer(build(), OptimSpec(optimizer=name))
    assert type(optimizer) is kind
    assert all(group["fused"] for group in optimizer.param_groups)


def test_adamw_is_torchs() -> None:
    """Groups, fusion and timm change nothing but what has weight decay."""
    ours, theirs = learner(), learner()
    decayed = [weight for weight in theirs.parameters() if weight.ndim > 1]
    rest = [weight for weight in theirs.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    teach(ours, make_optimizer(ours, OptimSpec(lr=1e-2, weight_decay=0.1)), range(5))
    teach(theirs, torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1, fused=True), range(5))
    assert equal(ours, theirs)


REFUSED = {
    "adahessian": "it needs second derivatives; choose another",
    "kron": "it draws numbers that a checkpoint does not hold; choose another",
    "adafactorbv": "a checkpoint cannot hold its state; choose another",
    "bnbadamw8bit": "--optimizer bnbadamw8bit is of the package bitsandbytes, which is not used here; choose another",
    "fusedadam": "--optimizer fusedadam is of the package apex",
    "lookahead_adamw": "look-ahead is not for use here; leave it out, or give --ema",
    "adamv": "timm has no optimiser 'adamv'; did you mean adam",
    "": "timm has no optimiser ''; see timm.optim.list_optimizers\\(\\)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=REFUSED[name]):
        make_optimizer(learner(), OptimSpec(optimizer=name))


def test_momentum_is_for_those_that_have_one() -> None:
    optimizer = make_optimizer(learner(), OptimSpec(optimizer="sgd", momentum=0.5))
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}
    with pytest.raises(SettingsError, match="--momentum is for optimisers that have one, and adamw has not"):
        make_optimizer(learner(), OptimSpec(momentum=0.5))
    with pytest.raises(
        SettingsError, match="--optimizer sgd does not take these settings .*[Nn]esterov.*; change them"
    ):
        make_optimizer(learner(), OptimSpec(optimizer="sgd", momentum=0.0))


# adahessian, kron and adafactorbv have cautious (c…) and decoupled (…w, …c) kin.
USED = list_optimizers(
    exclude_filters=["bnb*", "fused*", "adahessian", "kron", "kronw", "kronc", "adafactorbv*", "cadafactorbv*"]
)


def test_the_usual_optimizers_are_among_those_that_are_used() -> None:
    assert len(USED) > 60
    usual = "adam adamw nadamw radam adan adopt lamb lars lion mars muon laprop madgrad novograd rmsprop sgd momentum"
    assert set(usual.split()) <= set(USED)


@pytest.mark.parametrize("name", USED)
def test_every_optimizer_learns_and_goes_on_from_its_saved_state(name: str) -> None:
    spec = OptimSpec(optimizer=name, lr=1e-3, lr_head=2e-3)
    model, resumed = learner(), learner()
    optimizer = make_optimizer(model, spec)
    teach(model, optimizer, range(7))  # radam only begins to move at its sixth step
    assert all(weight.isfinite().all() for weight in model.parameters())
    for kernel in ("encoder.backbone.net.conv1.0.weight", "head.classifier.1.weight"):
        assert not torch.equal(model.get_parameter(kernel), resumed.get_parameter(kernel))
    resumed.load_state_dict(model.state_dict())
    again = make_optimizer(resumed, spec)
    again.load_state_dict(saved(optimizer.state_dict()))
    teach(model, optimizer, range(7, 9))
    teach(resumed, again, range(7, 9))
    assert equal(model, resumed)


def test_decay_that_goes_by_the_largest_rate_takes_each_groups_own() -> None:
    optimizer = make_optimizer(learner(), OptimSpec(optimizer="adamc", lr=1e-3, lr_head=2e-3, lr_attention=0.0))
    assert {(group["lr"], group["max_lr_snapshot"]) for group in optimizer.param_groups} == {
        (1e-3, 1e-3), (2e-3, 2e-3), (0.0, 1e-3),
    }  # fmt: skip


def learner() -> MILNet:
    """A small network, always the same."""
    torch.manual_seed(0)
    return build()


def teach(model: MILNet, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    """A step for each seed, on pictures and classes of its own."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        tiles = torch.randint(256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
        mask, target = torch.ones(3, 2, dtype=torch.bool), torch.randint(2, (3,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tiles, mask).logits_BK, target).backward()
        optimizer.step()


def equal(model: MILNet, other: MILNet) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(value, its) for value, its in pairs)


def saved(value: Any) -> Any:
    """What a file of tensors and a file of JSON hold of a state."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        assert all(type(name) in (str, int) for name in value)
        return {name: saved(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return [saved(each) for each in value]
    assert type(value) in (int, float, bool, str, type(None)), f"{value!r} cannot be saved"
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_synchronised_batch_norms_keep_names_and_predictions(backbone: str) -> None:
    model = build(backbone, head_hidden=4, head_norm=True).eval()
    tiles, mask = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool)
    before, names = model(tiles, mask).logits_BK, list(model.state_dict())
    weights = {id(weight) for weight in model.parameters()}
    synchronise_batch_norm(model)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) and not norm.training for norm in norms)
    assert list(model.state_dict()) == names
    assert {id(weight) for weight in model.parameters()} == weights
    assert torch.equal(model(tiles, mask).logits_BK, before)


def test_batch_norms_are_synchronised_among_processes_with_gpus() -> None:
    def synchronised(device: torch.device, world: int) -> bool:
        model = build()
        prepare(model, TrainSpec(batch_norm="sync", precision="fp32"), device, world)
        return any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())

    assert [synchronised(GPU, 1), synchronised(CPU, 1), synchronised(GPU, 2)] == [False, False, True]
    with pytest.raises(ModelError, match="--batch-norm sync is for GPUs, and these processes train without"):
        synchronised(CPU, 2)


@pytest.mark.parametrize(("precision", "device", "expected"), [
    ("auto", CPU, None), ("fp32", CPU, None), ("bf16", CPU, torch.bfloat16), ("fp32", GPU, None),
    ("bf16", GPU, torch.bfloat16), ("fp16", GPU, torch.float16),
], ids=str)  # fmt: skip
def test_half_precision(precision: str, device: torch.device, expected: torch.dtype | None) -> None:
    assert half_precision(precision, device) is expected


def test_no_half_precision_of_this_kind_on_a_cpu() -> None:
    with pytest.raises(ModelError, match="--precision fp16 is for GPUs; on a CPU give bf16 or fp32"):
        half_precision("fp16", CPU)
