"""Grad-CAM through a whole bag: where on its tiles lies what speaks for a class.

Selvaraju et al. 2017 (Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
arXiv:1610.02391), on the maps that the pooling takes from the backbone, which are (M, C, h, w) for every backbone.
The gradient is that of the slide's one logit: it goes through head, pooling and attention to all tiles at once, so
that the maps of a slide's tiles compare. No gradient goes through the backbone: it takes about as long as a score.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mil.data import bag_tensor
from mil.errors import ModelError
from mil.guided import GuidedBackbone
from mil.model import MILNet
from mil.predict import Run, metadata_tensor
from mil.task import ONE_VS_NORMAL, Task
from tiling.bag import Bag


def grad_cam(run: Run, bag: Bag, index: int, metadata: pd.DataFrame | None = None) -> np.ndarray:
    """Heat float64 (N, h, w) on the tiles of a bag for the class at `index`, in logits per position, at least 0.

    The folds are taken as one network whose logit is the mean of theirs. `metadata` as of `predict_bag`. Raises
    ModelError where `check_maps` does.
    """
    check_maps(run)
    tiles_MCHW = bag_tensor(bag, run.px).to(run.device)
    heat = [
        _fold_heat(model, tiles_MCHW, metadata_tensor(run, card, metadata), run.card.task, index)
        for model, card in zip(run.models, run.cards, strict=True)
        if isinstance(model, MILNet)  # all are, as has been checked
    ]
    return torch.stack(heat).mean(0).relu().double().cpu().numpy()


@torch.no_grad()
def check_maps(run: Run) -> None:
    """Raise ModelError for a run whose network sees a tile as a single position: there is nothing to draw."""
    net = run.models[0]
    if not isinstance(net, MILNet):
        raise ModelError("Grad-CAM is for runs of --arch milnet: leave it out, the others draw a map of their own")
    blank_MCHW = torch.zeros(1, 3, run.px, run.px, dtype=torch.uint8, device=run.device)
    maps_MCHW, _ = _split(net, blank_MCHW)
    if maps_MCHW.shape[2:].numel() == 1:
        raise ModelError(
            f"the backbone {run.card.model.backbone!r} sees a tile of {run.px} px as one position, so that there is "
            "no Grad-CAM to draw; leave it out, or train with a larger --train-px or another --backbone"
        )


def heat_of(score: Tensor, maps_MCHW: Tensor) -> Tensor:
    """Σ_c α_c A_c (M, h, w) of maps A, where α is the mean of d score / d A over positions (eq. 1, and 2 without ReLU).

    The ReLU is left to the caller, who may have several networks to add up.
    """
    (gradient_MCHW,) = torch.autograd.grad(score, maps_MCHW)
    return torch.einsum("mc,mchw->mhw", gradient_MCHW.mean(dim=(2, 3)), maps_MCHW.detach())


def class_score(task: Task, logits_K: Tensor, index: int) -> Tensor:
    """The logit of the class at `index`; against a normal class, which has none, the log odds of normal for it."""
    if task.kind != ONE_VS_NORMAL:
        return logits_K[index]
    if index == task.normal_index:
        return -logits_K.logsumexp(dim=0)
    return logits_K[index - (index > task.normal_index)]


def _fold_heat(net: MILNet, tiles_MCHW: Tensor, metadata_BF: Tensor, task: Task, index: int) -> Tensor:
    with torch.no_grad():
        maps_MCHW, rest = _split(net, tiles_MCHW)
    maps_MCHW.requires_grad_(True)
    mask_BN = torch.ones(1, len(tiles_MCHW), dtype=torch.bool)
    with torch.enable_grad():
        logits_BK = net.from_maps(rest(maps_MCHW), mask_BN, metadata_BF).logits_BK
        return heat_of(class_score(task, logits_BK[0], index), maps_MCHW)


def _split(net: MILNet, tiles_MCHW: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The last maps that keep their positions, and what the backbone makes of them."""
    backbone = net.encoder.backbone
    parts = torch.split(tiles_MCHW, net.instance_chunk or len(tiles_MCHW))
    if not isinstance(backbone, GuidedBackbone):
        return torch.cat([backbone(part) for part in parts]), lambda maps_MCHW: maps_MCHW
    stages = [backbone.backbone.last_stages(part) for part in parts]
    *earlier, last_MCHW = (torch.cat(maps) for maps in zip(*stages, strict=True))
    return last_MCHW, lambda maps_MCHW: backbone.embed([*earlier, maps_MCHW])
