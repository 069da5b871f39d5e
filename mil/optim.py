"""What learns, and by which optimiser: groups of parameters, each with its learning rate and weight decay."""

import difflib
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from torch import nn

from mil.errors import ModelError, SettingsError
from mil.guided import GuidedBackbone
from mil.model import refuse_changed
from mil.network import Features, Network, bare
from mil.recipe import OptimSpec, TrainSpec

FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)  # these have one kernel for all of a step, on any device
_CANNOT_BE_USED = {
    "Adahessian": "it needs second derivatives",
    "Kron": "it draws numbers that a checkpoint does not hold",
    "AdafactorBigVision": "a checkpoint cannot hold its state",
}


def prepare(model: Network, spec: TrainSpec, device: torch.device, world: int = 1) -> None:
    """Freeze what the spec says, and set how the model is computed on this kind of device by `world` processes.

    Raises ModelError where that cannot be.
    """
    backbone = model.encoder.backbone
    model.instance_chunk, model.half_precision = spec.instance_chunk, half_precision(spec.precision, device)
    if isinstance(backbone, Features):
        refuse_changed(spec, ("freeze", "batch_norm", "channels_last", "compile"))
        return
    if spec.freeze is not None:
        backbone.freeze(None if spec.freeze == "all" else int(spec.freeze))
    if spec.batch_norm == "frozen":
        backbone.freeze_batch_norm()
    if spec.batch_norm == "sync" and world > 1:
        if device.type == "cpu":
            raise ModelError("--batch-norm sync is for GPUs, and these processes train without; leave it at train")
        synchronise_batch_norm(model)
    if spec.channels_last:
        backbone.to(memory_format=torch.channels_last)
    if spec.compile:
        backbone.compile()


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that stands for `precision` on a device, None for float32; raises ModelError where it is not there."""
    if precision == "fp16" and device.type == "cpu":
        raise ModelError("--precision fp16 is for GPUs; on a CPU give bf16 or fp32")
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def synchronise_batch_norm(model: Network) -> None:
    """Make all batch norms, that of the head too, take their statistics over the batches of all processes.

    Weights keep their names. From now on the model learns on a GPU alone; it still predicts anywhere.
    """
    convert_sync_batchnorm(model)  # timm's, which also knows batch norms that hold an activation


def make_optimizer(model: Network, spec: OptimSpec) -> torch.optim.Optimizer:
    """The optimiser of a spec, with a group for each learning rate and weight decay; what is frozen is in none of them.

    Weight decay is for matrices and kernels: as in timm, biases, scales of norms, and what a backbone names
    (`no_weight_decay`, such as position embeddings) have none. Each group has its learning rate also as `initial_lr`,
    of which the schedule gives it a part. Raises SettingsError for an optimiser that timm has not, or that cannot be
    used, ModelError for layer decay without a backbone.
    """
    if isinstance(model.encoder.backbone, Features):
        refuse_changed(spec, ("layer_decay",))
    name = _known(spec)
    without = _without_decay(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for lr, weights in _rates(model, spec):
        for weight in weights:
            if weight.requires_grad:
                decay = 0.0 if weight in without else spec.weight_decay
                groups.setdefault((lr, decay), []).append(weight)
    options: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay, "momentum": spec.momentum}
    if get_optimizer_info(name).opt_class in FUSED:
        options["fused"] = True
    try:
        optimizer = create_optimizer_v2(
            [
                {"params": weights, "lr": lr, "initial_lr": lr, "weight_decay": decay}
                for (lr, decay), weights in groups.items()
            ],
            name,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(f"--optimizer {name} does not take these settings ({error}); change them") from error
    for group in optimizer.param_groups:
        if "max_lr_snapshot" in group:  # decay by lr² / its maximum, which timm takes to be one for all groups
            group["max_lr_snapshot"] = group["lr"] or spec.lr
    return optimizer


def _known(spec: OptimSpec) -> str:
    """The name of an optimiser that can be used; raises SettingsError for another, or a momentum that it has not."""
    name = spec.optimizer.lower()
    if name not in list_optimizers():
        if name.startswith("lookahead_"):
            raise SettingsError(f"--optimizer {name}: look-ahead is not for use here; leave it out, or give --ema")
        close = difflib.get_close_matches(name, list_optimizers(), 3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.optim.list_optimizers()"
        raise SettingsError(f"timm has no optimiser {spec.optimizer!r}; {hint}")
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        package = info.opt_class.partition(".")[0]
        raise SettingsError(f"--optimizer {name} is of the package {package}, which is not used here; choose another")
    if reason := _CANNOT_BE_USED.get(info.opt_class.__name__):
        raise SettingsError(f"--optimizer {name} cannot be used here: {reason}; choose another")
    if spec.momentum != OptimSpec.momentum and not info.has_momentum:
        raise SettingsError(f"--momentum is for optimisers that have one, and {name} has not; leave it out")
    return name


def _without_decay(model: Network) -> set[nn.Parameter]:
    """What no weight decay is for."""
    backbone = bare(model.encoder.backbone)
    named: set[str] = set()
    if backbone is not None and hasattr(backbone.net, "no_weight_decay"):
        (place,) = (place for place, module in model.named_modules() if module is backbone.net)
        named = {f"{place}.{name}" for name in backbone.net.no_weight_decay()}
    groups = param_groups_weight_decay(model, weight_decay=1.0, no_weight_decay_list=named)
    return {weight for group in groups if not group["weight_decay"] for weight in group["params"]}


def _rates(model: Network, spec: OptimSpec) -> list[tuple[float, list[nn.Parameter]]]:
    """Learning rates and the parameters that have them: the backbone layer by layer, attention, and all the rest."""
    backbone, attention = model.encoder.backbone, model.attention_parameters()
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
