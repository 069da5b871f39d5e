"""MILNet: a backbone on all instances of a batch at once, pooled to one map a slide, and one head."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.pooling import POOLINGS, Pooling
from mil.settings import ModelSpec


class MILOutput(NamedTuple):
    """Logits (B, K), and the attention (B, N) of poolings that have one."""

    logits_BK: Tensor
    attention_BN: Tensor | None


class MILNet(nn.Module):
    """Slides to logits: backbone, pooling over instances, mean over positions, classifier."""

    def __init__(self, backbone: Backbone, pooling: Pooling, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(pooling.channels, classes))

    def forward(self, tiles_BNCHW: Tensor, mask_BN: Tensor) -> MILOutput:
        """Logits and attention of bags uint8 (B, N, 3, px, px) with mask bool (B, N), True = real."""
        # Only real instances go through the backbone: padding costs nothing and touches no batch norm.
        maps_MCHW = self.backbone(tiles_BNCHW[mask_BN])
        maps_BNCHW = maps_MCHW.new_zeros((*mask_BN.shape, *maps_MCHW.shape[1:]))
        maps_BNCHW[mask_BN] = maps_MCHW
        pooled = self.pooling(maps_BNCHW, mask_BN)
        return MILOutput(self.head(pooled.maps_BCHW.mean(dim=(2, 3))), pooled.attention_BN)


def build_model(spec: ModelSpec, classes: int, instances: int) -> MILNet:
    """The network of a spec, for bags of at most `instances` tiles; raises ModelError for an unknown backbone."""
    backbone = Backbone(spec.backbone, spec.train_px, spec.pretrained)
    pooling = POOLINGS[spec.pooling](backbone.channels, instances, spec.attention_hidden)
    return MILNet(backbone, pooling, classes, spec.dropout)


def probabilities(logits_BK: Tensor) -> Tensor:
    """Softmax in float64, so that a confident model's probabilities do not round to 0 and 1."""
    return torch.softmax(logits_BK.double(), dim=1)
