"""MILNet: a network on all instances of a batch at once, pooled to one vector a bag, and one head; who builds which."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.chipnet import ChipNet
from mil.chips import CHIP_PX, Chips
from mil.errors import ModelError
from mil.guided import GuidedBackbone
from mil.head import Head, initialise, silence
from mil.metadata import MetadataCoder
from mil.network import AnyBackbone, Embedding, Encoder, Features, MILOutput, Network, bare
from mil.pooling import POOLINGS, Pooling, PoolingOptions, Positions
from mil.settings import DEFAULT_BACKBONE, ModelSpec
from mil.task import Task
from mil.weights import WeightsReport, load_weights
from tiling.features import FEATURES


class MILNet(Network):
    """Bags to logits: an encoder of instances, pooling over them, pooling over positions, head.

    A pooling over positions that commutes with that over instances is done first, so that maps need not be kept.
    """

    def __init__(
        self, backbone: AnyBackbone, embedding: Embedding, pooling: Pooling, positions: Positions, head: Head
    ) -> None:
        first = positions.kind in pooling.commutes
        super().__init__(Encoder(backbone, embedding, positions if first else nn.Identity()), head)
        self.pooling = pooling
        self.positions = nn.Identity() if first else positions

    def forward(self, instances_M: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """Logits and attention of bags.

        `instances_M` are the instances of all bags, stacked: uint8 (M, 3, px, px), features (M, C), or what
        `through_frozen` gave. `mask_BN` bool says whose they are: its True stand for them, in order. It may stay on the
        CPU: then nothing waits for a GPU. `metadata_BF` float32 is for a head with metadata.
        """
        return self._pooled(self._encode(instances_M), mask_BN, metadata_BF)

    def from_maps(self, maps_MCHW: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """What `forward` gives, from the maps (M, C, h, w) that the backbone gives for the instances."""
        return self._pooled(self.encoder.behind(maps_MCHW), mask_BN, metadata_BF)

    def _pooled(self, maps_MCHW: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None) -> MILOutput:
        pooled = self.pooling(unstack(maps_MCHW, mask_BN), mask_BN.to(maps_MCHW.device))
        vectors_BC = self.positions(pooled.maps_BCHW).flatten(1)
        return MILOutput(self.head(vectors_BC, metadata_BF), pooled.attention_BN, None, vectors_BC)

    def attention_parameters(self) -> list[nn.Parameter]:
        """See Network."""
        return list(self.pooling.parameters())


def unstack(maps_MCHW: Tensor, mask_BN: Tensor) -> Tensor:
    """Maps (B, N, C, H, W) of stacked ones (M, C, H, W), each in the place of its True in the mask, else zeros."""
    bags, longest = mask_BN.shape
    if bags * longest == len(maps_MCHW):
        return maps_MCHW.view(bags, longest, *maps_MCHW.shape[1:])
    places_M = mask_BN.flatten().nonzero().squeeze(1).to(maps_MCHW.device)
    padded = maps_MCHW.new_zeros((bags * longest, *maps_MCHW.shape[1:])).index_copy(0, places_M, maps_MCHW)
    return padded.view(bags, longest, *maps_MCHW.shape[1:])


def build_model(
    spec: ModelSpec, task: Task, bag_spec: dict[str, Any], metadata: MetadataCoder | None = None
) -> Network:
    """The network of a spec for bags made as `bag_spec` says, with metadata as they are coded.

    Raises ModelError for an unknown backbone, and for settings that bags of this kind have no use for.
    """
    return _BUILDERS[spec.arch](spec, task, bag_spec, metadata)


def _milnet(spec: ModelSpec, task: Task, bag_spec: dict[str, Any], metadata: MetadataCoder | None) -> MILNet:
    channels = bag_spec.get(FEATURES)
    backbone = _features(spec, int(channels)) if channels is not None else _backbone(spec)
    embedding = Embedding(backbone.channels, spec.embed, spec.embed_dropout)
    options = PoolingOptions(bag_spec.get("instances"), spec.attention_hidden, spec.temperature)
    pooling = POOLINGS[spec.pooling](embedding.channels, options)
    positions = Positions(spec.positions)
    head = Head(
        positions.factor * pooling.channels, task.logits, spec.head_hidden, spec.head_activation, spec.head_norm,
        spec.dropout, metadata.width if metadata else 0, spec.metadata_hidden,
    )  # fmt: skip
    initialise(head, spec.head_init)
    silence(head, metadata.unknown if metadata else ())
    return MILNet(backbone, embedding, pooling, positions, head)


def _chipnet(spec: ModelSpec, task: Task, bag_spec: dict[str, Any], metadata: MetadataCoder | None) -> ChipNet:
    name = spec.backbone or DEFAULT_BACKBONE
    backbone = Backbone(name, CHIP_PX, spec.channels, spec.pretrained, px_flag=None, reduction=spec.reduction)
    chips = Chips(backbone, spec.luminosity, spec.mask_background)
    head = Head(
        chips.channels, task.logits, metadata=metadata.width if metadata else 0, metadata_hidden=spec.metadata_hidden
    )
    initialise(head, spec.head_init)
    silence(head, metadata.unknown if metadata else ())
    return ChipNet(chips, head, spec.attention_hidden, spec.map_dropout, spec.dropout)


_BUILDERS = {"milnet": _milnet, "chipnet": _chipnet}


def start_from_weights(model: Network, spec: ModelSpec) -> WeightsReport | None:
    """Load the file of `--weights` into the backbone, if there is one; raises ModelError where it does not fit."""
    if spec.weights is None:
        return None
    backbone = bare(model.encoder.backbone)
    assert backbone is not None, "features take no weights"
    return load_weights(backbone, Path(spec.weights))


def standardize(model: Network, bags: Iterable[Any]) -> None:
    """Set mean and deviation of the network's input to those of all instances of some bags of features (N, C)."""
    inputs = model.encoder.backbone
    assert isinstance(inputs, Features), "only features are standardised here"
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for bag in bags:
        features = bag.double()
        count, total, squares = count + len(features), total + features.sum(0), squares + features.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    inputs.mean.copy_(mean)
    # A feature that is the same everywhere says nothing: it becomes 0, but for rounding.
    inputs.deviation.copy_(torch.where(deviation > 1e-6 * mean.abs(), deviation, 1))


def refuse_changed(spec: Any, names: Sequence[str], why: str = "is for bags of tiles, and these hold features") -> None:
    """Raise ModelError for a setting of these that has another value than its default: what is trained has no use."""
    default = type(spec)()
    for name in names:
        if getattr(spec, name) != getattr(default, name):
            flag = ("--no-" if getattr(default, name) is True else "--") + name.replace("_", "-")
            raise ModelError(f"{flag} {why}; leave it out")


def _backbone(spec: ModelSpec) -> Backbone | GuidedBackbone:
    if spec.standardize:
        raise ModelError("--standardize is for bags of features; pixels are scaled as the backbone wants them")
    backbone = Backbone(
        spec.backbone or DEFAULT_BACKBONE, spec.train_px, spec.channels, spec.pretrained, spec.luminosity,
        reduction=spec.reduction,
    )  # fmt: skip
    return backbone if spec.guided is None else GuidedBackbone(backbone, spec.guided)


def _features(spec: ModelSpec, channels: int) -> Features:
    refuse_changed(
        spec,
        (
            "backbone", "pretrained", "weights", "channels", "reduction", "train_px", "luminosity", "guided",
            "positions",
        ),
    )  # fmt: skip
    return Features(channels)
