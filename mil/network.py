"""What the networks have in common: an encoder of instances, and what comes out of them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.chips import Chips
from mil.chunks import in_chunks
from mil.guided import GuidedBackbone
from mil.head import Head


class MILOutput(NamedTuple):
    """Logits (B, K), and the attention that a network has: (B, N) on instances, or (B, G, G) on cells of an overview.

    `map_BGG` is float32 and sums to 1 over the square that ChipNet was given. `vectors_BC` is what the head is given of
    each slide, metadata aside.
    """

    logits_BK: Tensor
    attention_BN: Tensor | None
    map_BGG: Tensor | None = None
    vectors_BC: Tensor | None = None


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


AnyBackbone = Backbone | GuidedBackbone | Chips | Features


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


class Network(nn.Module):
    """Base of the networks: instances of bags to logits, by an encoder, something that makes one of many, and a head.

    With `instance_chunk` set, that many instances go through the encoder at a time (see mil.chunks). With
    `half_precision` (bfloat16 or float16) backbone and embedding are computed in it; what follows is not, for sums over
    many instances, exponentials and probabilities want all digits.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.instance_chunk: int | None = None
        self.half_precision: torch.dtype | None = None

    def forward(self, instances_M: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """Logits and attention of bags."""
        raise NotImplementedError

    def attention_parameters(self) -> list[nn.Parameter]:
        """Those of the attention behind the encoder."""
        raise NotImplementedError

    @property
    def is_frozen(self) -> bool:
        """Whether there is a backbone, and nothing in it learns."""
        backbone = self.encoder.backbone
        return not isinstance(backbone, Features) and not any(weight.requires_grad for weight in backbone.parameters())

    def through_frozen(self, instances_M: Tensor) -> Tensor:
        """Maps (M, C, h, w) of tiles before anything that learns; given in their place, they lead to the same."""
        return self._frozen(instances_M)

    def _encode(self, instances_M: Tensor) -> Tensor:
        """Maps (M, C, H, W) of instances, or of what `through_frozen` made of them."""
        with self._precision(instances_M):
            if not self.is_frozen:
                return in_chunks(self.encoder, instances_M, self.instance_chunk)
            # Floats in place of tiles have been through it; in chunks there is nothing to compute it once more for.
            maps_MCHW = instances_M if instances_M.is_floating_point() else self._frozen(instances_M)
            return self.encoder.behind(maps_MCHW) if len(self.encoder.embedding) else maps_MCHW

    def _frozen(self, instances_M: Tensor) -> Tensor:
        with self._precision(instances_M):
            part = self.encoder.backbone if len(self.encoder.embedding) else self.encoder
            return in_chunks(part, instances_M, self.instance_chunk)

    def _precision(self, instances_M: Tensor) -> torch.autocast:
        return torch.autocast(instances_M.device.type, self.half_precision, enabled=self.half_precision is not None)


def bare(backbone: AnyBackbone) -> Backbone | None:
    """The backbone itself, without guided attention or the cutting of chips; None for features."""
    if isinstance(backbone, Features):
        return None
    return backbone.backbone if isinstance(backbone, GuidedBackbone | Chips) else backbone
