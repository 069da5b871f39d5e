"""What learns, how fast: groups of parameters, the optimiser, the schedule."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mil.guided import GuidedBackbone
from mil.model import Features, MILNet, bare, refuse_changed
from mil.settings import TrainSpec

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def prepare(model: MILNet, spec: TrainSpec) -> None:
    """Freeze what the spec says, and set how the model is computed; raises ModelError where that cannot be."""
    backbone = model.encoder.backbone
    model.instance_chunk, model.half_precision = spec.instance_chunk, spec.precision == "bf16"
    if isinstance(backbone, Features):
        refuse_changed(spec, ("freeze", "batch_norm", "layer_decay", "channels_last", "compile"))
        return
    if spec.freeze is not None:
        backbone.freeze(None if spec.freeze == "all" else int(spec.freeze))
    if spec.batch_norm == "frozen":
        backbone.freeze_batch_norm()
    if spec.channels_last:
        backbone.to(memory_format=torch.channels_last)
    if spec.compile:
        backbone.compile()


def make_optimizer(model: MILNet, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser of a spec, with a group for each learning rate; what is frozen is in none of them."""
    groups: dict[float, list[nn.Parameter]] = {}
    for lr, weights in _rates(model, spec):
        learning = [weight for weight in weights if weight.requires_grad]
        if learning:
            groups.setdefault(lr, []).extend(learning)
    optimizer = _OPTIMIZERS[spec.optimizer]
    return optimizer(
        [{"params": weights, "lr": lr} for lr, weights in groups.items()],
        weight_decay=spec.weight_decay,  # type: ignore[call-arg]  # both have it
        fused=True,
    )


def cosine(optimizer: torch.optim.Optimizer, steps: int, end: float) -> LambdaLR:
    """Every group's learning rate down half a cosine in `steps` steps, to `end` times what it started at."""
    return LambdaLR(optimizer, lambda step: end + (1 - end) * (1 + math.cos(math.pi * step / steps)) / 2)


def _rates(model: MILNet, spec: TrainSpec) -> list[tuple[float, list[nn.Parameter]]]:
    """Learning rates and the parameters that have them: the backbone layer by layer, attention, and all the rest."""
    backbone, attention = model.encoder.backbone, list(model.pooling.parameters())
    if isinstance(backbone, GuidedBackbone):
        attention += backbone.attentions.parameters()
    net = bare(backbone)
    depths = [] if net is None else net.depth_groups()
    rates = [(spec.lr * spec.layer_decay**above, group) for above, group in enumerate(reversed(depths))]
    rates.append((spec.lr if spec.lr_attention is None else spec.lr_attention, attention))
    taken = {id(weight) for _, weights in rates for weight in weights}
    rest = [weight for weight in model.parameters() if id(weight) not in taken]
    rates.append((spec.lr if spec.lr_head is None else spec.lr_head, rest))
    return rates
