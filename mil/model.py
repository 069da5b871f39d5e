"""MILNet: a network on all instances of a batch at once, pooled to one vector a bag, and one head."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.chunks import in_chunks
from mil.errors import ModelError
from mil.guided import GuidedBackbone
from mil.head import Head, initialise, silence
from mil.metadata import MetadataCoder
from mil.pooling import POOLINGS, Pooling, PoolingOptions, Positions
from mil.settings import DEFAULT_BACKBONE, ModelSpec
from mil.task import Task
from mil.weights import WeightsReport, load_weights
from tiling.features import FEATURES


class MILOutput(NamedTuple):
    """Logits (B, K), and the attention (B, N) of poolings that have one."""

    logits_BK: Tensor
    attention_BN: Tensor | None


class Features(nn.Module):
    """Stands where the backbone does for bags of features, which come from an encoder of somebody else.

    `mean` and `deviation` (C,) are 0 and 1 unless they were set to those of the training slides.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, features_MC: Tensor) -> Tensor:
        """Maps (M, C, 1, 1) of features (M, C)."""
        return ((features_MC.to(self.mean.dtype) - self.mean) / self.deviation)[:, :, None, None]


AnyBackbone = Backbone | GuidedBackbone | Features


class Embedding(nn.Sequential):
    """Layers with ReLU and dropout on the channels of maps, the same at every position."""

    def __init__(self, channels: int, widths: tuple[int, ...], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width_in, width in zip((channels, *widths), widths, strict=False):
            layers += [nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers)
        self.channels = widths[-1] if widths else channels

    def forward(self, maps_MCHW: Tensor) -> Tensor:
        """Maps (M, channels, H, W) of maps (M, C, H, W)."""
        maps_MHWC = maps_MCHW.permute(0, 2, 3, 1)
        for layer in self:
            maps_MHWC = layer(maps_MHWC)
        return maps_MHWC.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """What each instance goes through alone: backbone, embedding, and the pooling over positions if it comes first."""

    def __init__(self, backbone: AnyBackbone, embedding: Embedding, positions: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = embedding
        self.positions = positions

    def forward(self, instances_M: Tensor) -> Tensor:
        """Maps (M, C, H, W) of instances (M, …)."""
        return self.behind(self.backbone(instances_M))

    def behind(self, maps_MCHW: Tensor) -> Tensor:
        """What becomes of the backbone's maps; never in less than single precision."""
        maps_MCHW = self.embedding(maps_MCHW)
        return self.positions(maps_MCHW.float() if maps_MCHW.dtype in (torch.bfloat16, torch.float16) else maps_MCHW)


class MILNet(nn.Module):
    """Bags to logits: an encoder of instances, pooling over them, pooling over positions, head.

    A pooling over positions that commutes with that over instances is done first, so that maps need not be kept.
    With `instance_chunk` set, that many instances go through the encoder at a time (see mil.chunks). With
    `half_precision` (bfloat16 or float16) backbone and embedding are computed in it; pooling and head are not, for sums
    over many instances, exponentials and probabilities want all digits.
    """

    def __init__(
        self, backbone: AnyBackbone, embedding: Embedding, pooling: Pooling, positions: Positions, head: Head
    ) -> None:
        super().__init__()
        first = positions.kind in pooling.commutes
        self.encoder = Encoder(backbone, embedding, positions if first else nn.Identity())
        self.pooling = pooling
        self.positions = nn.Identity() if first else positions
        self.head = head
        self.instance_chunk: int | None = None
        self.half_precision: torch.dtype | None = None

    def forward(self, instances_M: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """Logits and attention of bags.

        `instances_M` are the instances of all bags, stacked: uint8 (M, 3, px, px), features (M, C), or what
        `through_frozen` gave. `mask_BN` bool says whose they are: its True stand for them, in order. It may stay on the
        CPU: then nothing waits for a GPU. `metadata_BF` float32 is for a head with metadata.
        """
        with self._precision(instances_M):
            maps_MCHW = self._encode(instances_M)
        return self._pooled(maps_MCHW, mask_BN, metadata_BF)

    def from_maps(self, maps_MCHW: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """What `forward` gives, from the maps (M, C, h, w) that the backbone gives for the instances."""
        return self._pooled(self.encoder.behind(maps_MCHW), mask_BN, metadata_BF)

    def _pooled(self, maps_MCHW: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None) -> MILOutput:
        pooled = self.pooling(unstack(maps_MCHW, mask_BN), mask_BN.to(maps_MCHW.device))
        logits_BK = self.head(self.positions(pooled.maps_BCHW).flatten(1), metadata_BF)
        return MILOutput(logits_BK, pooled.attention_BN)

    @property
    def is_frozen(self) -> bool:
        """Whether there is a backbone, and nothing in it learns."""
        backbone = self.encoder.backbone
        return not isinstance(backbone, Features) and not any(weight.requires_grad for weight in backbone.parameters())

    def through_frozen(self, instances_M: Tensor) -> Tensor:
        """Maps (M, C, h, w) of tiles before anything that learns; given in their place, they lead to the same."""
        with self._precision(instances_M):
            part = self.encoder.backbone if len(self.encoder.embedding) else self.encoder
            return in_chunks(part, instances_M, self.instance_chunk)

    def _precision(self, instances_M: Tensor) -> torch.autocast:
        return torch.autocast(instances_M.device.type, self.half_precision, enabled=self.half_precision is not None)

    def _encode(self, instances_M: Tensor) -> Tensor:
        if not self.is_frozen:
            return in_chunks(self.encoder, instances_M, self.instance_chunk)
        # Floats in place of tiles have been through it; in chunks there is nothing to compute it once more for.
        maps_MCHW = instances_M if instances_M.is_floating_point() else self.through_frozen(instances_M)
        return self.encoder.behind(maps_MCHW) if len(self.encoder.embedding) else maps_MCHW


def unstack(maps_MCHW: Tensor, mask_BN: Tensor) -> Tensor:
    """Maps (B, N, C, H, W) of stacked ones (M, C, H, W), each in the place of its True in the mask, else zeros."""
    bags, longest = mask_BN.shape
    if bags * longest == len(maps_MCHW):
        return maps_MCHW.view(bags, longest, *maps_MCHW.shape[1:])
    places_M = mask_BN.flatten().nonzero().squeeze(1).to(maps_MCHW.device)
    padded = maps_MCHW.new_zeros((bags * longest, *maps_MCHW.shape[1:])).index_copy(0, places_M, maps_MCHW)
    return padded.view(bags, longest, *maps_MCHW.shape[1:])


def build_model(spec: ModelSpec, task: Task, bag_spec: dict[str, Any], metadata: MetadataCoder | None = None) -> MILNet:
    """The network of a spec for bags made as `bag_spec` says, with metadata as they are coded.

    Raises ModelError for an unknown backbone, and for settings that bags of this kind have no use for.
    """
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


def start_from_weights(model: MILNet, spec: ModelSpec) -> WeightsReport | None:
    """Load the file of `--weights` into the backbone, if there is one; raises ModelError where it does not fit."""
    if spec.weights is None:
        return None
    backbone = bare(model.encoder.backbone)
    assert backbone is not None, "features take no weights"
    return load_weights(backbone, Path(spec.weights))


def standardize(model: MILNet, bags: Iterable[Any]) -> None:
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


def bare(backbone: AnyBackbone) -> Backbone | None:
    """The backbone itself, without guided attention; None for features."""
    if isinstance(backbone, Features):
        return None
    return backbone.backbone if isinstance(backbone, GuidedBackbone) else backbone


def refuse_changed(spec: Any, names: Sequence[str]) -> None:
    """Raise ModelError for a setting of these that has another value than its default: features have no use for it."""
    default = type(spec)()
    for name in names:
        if getattr(spec, name) != getattr(default, name):
            flag = ("--no-" if getattr(default, name) is True else "--") + name.replace("_", "-")
            raise ModelError(f"{flag} is for bags of tiles, and these hold features; leave it out")


def _backbone(spec: ModelSpec) -> Backbone | GuidedBackbone:
    if spec.standardize:
        raise ModelError("--standardize is for bags of features; pixels are scaled as the backbone wants them")
    backbone = Backbone(
        spec.backbone or DEFAULT_BACKBONE, spec.train_px, spec.channels, spec.pretrained, spec.luminosity
    )
    return backbone if spec.guided is None else GuidedBackbone(backbone, spec.guided)


def _features(spec: ModelSpec, channels: int) -> Features:
    refuse_changed(
        spec, ("backbone", "pretrained", "weights", "channels", "train_px", "luminosity", "guided", "positions")
    )
    return Features(channels)
