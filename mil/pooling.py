"""From the feature maps of a bag's instances to one map, and from a map to a vector.

Over instances: avg, max, logsumexp, concat, attention, gated attention. Each takes maps (B, N, C, H, W) and a mask
(B, N), True = real, and leaves padded instances out exactly, whatever is in them. Over positions: avg, max, both.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil.errors import ModelError


class Pooled(NamedTuple):
    """One map a bag (B, C', H, W), and how much each instance counted (B, N), None where that has no meaning."""

    maps_BCHW: Tensor
    attention_BN: Tensor | None


class Pooling(nn.Module):
    """Base of the poolings over instances; `channels` is the depth of the pooled maps.

    `commutes` names the poolings over positions that may as well be done before, on each instance: the result is the
    same, and much less has to be kept.
    """

    commutes: frozenset[str] = frozenset()

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """The pooled maps; every bag must have at least one real instance."""
        raise NotImplementedError


class Avg(Pooling):
    """Mean over the real instances."""

    commutes = frozenset({"avg"})

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        weights_BN = mask_BN.to(maps_BNCHW.dtype)
        weights_BN = weights_BN / weights_BN.sum(dim=1, keepdim=True)
        return Pooled(_weighted_sum(_fill_padding(maps_BNCHW, mask_BN, 0.0), weights_BN), weights_BN)


class Max(Pooling):
    """Maximum over the real instances, at each channel and position; instances that tie share the gradient."""

    commutes = frozenset({"max"})

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        return Pooled(_fill_padding(maps_BNCHW, mask_BN, -torch.inf).amax(dim=1), None)


class LogSumExp(Pooling):
    """t log Σ exp(h / t) over the real instances, at each channel and position: a maximum that every instance moves.

    With the temperature t towards 0 it becomes the maximum; it exceeds it by at most t log N.
    """

    def __init__(self, channels: int, temperature: float = 1.0) -> None:
        super().__init__(channels)
        self.temperature = temperature

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        maps = _fill_padding(maps_BNCHW, mask_BN, -torch.inf) / self.temperature
        return Pooled(self.temperature * maps.logsumexp(dim=1), None)


class Concat(Pooling):
    """Instances side by side on the channels, in their order; a short bag is filled up with zeros."""

    commutes = frozenset({"avg", "max"})

    def __init__(self, channels: int, instances: int) -> None:
        super().__init__(channels * instances)
        self.instances = instances

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling; raises ModelError for a bag longer than it was built for."""
        missing = self.instances - maps_BNCHW.shape[1]
        if missing < 0:
            raise ModelError(
                f"concat pooling was built for {self.instances} tiles a bag and got {maps_BNCHW.shape[1]}; "
                "tile with fewer --instances or choose another --pooling"
            )
        maps = nn.functional.pad(_fill_padding(maps_BNCHW, mask_BN, 0.0), (0, 0, 0, 0, 0, 0, 0, missing))
        return Pooled(maps.flatten(1, 2), None)


class Attention(Pooling):
    """Sum of the instances weighted by a softmax over learned scores (Ilse et al. 2018, eq. 8).

    The score of an instance comes from its map averaged over positions: w' tanh(V h). Beyond the paper's, both
    layers have a bias; that of w changes nothing, for the softmax takes it out again.
    """

    commutes = frozenset({"avg"})

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels)
        self.tanh = nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        maps_BNCHW = _fill_padding(maps_BNCHW, mask_BN, 0.0)
        scores_BN = self.scores(maps_BNCHW.mean(dim=(3, 4)))
        attention_BN = scores_BN.masked_fill(~mask_BN, -torch.inf).softmax(dim=1)
        return Pooled(_weighted_sum(maps_BNCHW, attention_BN), attention_BN)

    def scores(self, embeddings_BNC: Tensor) -> Tensor:
        """Scores (B, N) before the softmax."""
        return self.score(torch.tanh(self.tanh(embeddings_BNC))).squeeze(2)


class GatedAttention(Attention):
    """Attention whose hidden units are gated: w' (tanh(V h) ⊙ sigmoid(U h)) (Ilse et al. 2018, eq. 9)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, hidden)
        self.gate = nn.Linear(channels, hidden)

    def scores(self, embeddings_BNC: Tensor) -> Tensor:
        """Scores (B, N) before the softmax."""
        hidden = torch.tanh(self.tanh(embeddings_BNC)) * torch.sigmoid(self.gate(embeddings_BNC))
        return self.score(hidden).squeeze(2)


class PoolingOptions(NamedTuple):
    """What some poolings want to know: instances a bag at most (None: any number), hidden units, temperature."""

    instances: int | None = None
    hidden: int = 128
    temperature: float = 1.0


def make_concat(channels: int, options: PoolingOptions) -> Concat:
    """Concat pooling; raises ModelError where bags may be of any size."""
    if options.instances is None:
        raise ModelError("concat pooling needs bags of a size known beforehand; choose another --pooling")
    return Concat(channels, options.instances)


POOLINGS: dict[str, Callable[[int, PoolingOptions], Pooling]] = {
    "avg": lambda channels, options: Avg(channels),
    "max": lambda channels, options: Max(channels),
    "logsumexp": lambda channels, options: LogSumExp(channels, options.temperature),
    "concat": make_concat,
    "attention": lambda channels, options: Attention(channels, options.hidden),
    "gated": lambda channels, options: GatedAttention(channels, options.hidden),
}


class Positions(nn.Module):
    """The positions of a map as one: their mean, their maximum, or both, one behind the other on the channels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.factor = 2 if kind == "both" else 1  # output channels for an input channel

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (…, factor · C, 1, 1) of maps (…, C, H, W)."""
        parts = []
        if self.kind in ("avg", "both"):
            parts.append(maps.mean(dim=(-2, -1), keepdim=True))
        if self.kind in ("max", "both"):
            parts.append(maps.amax(dim=(-2, -1), keepdim=True))
        return torch.cat(parts, dim=-3)


def _weighted_sum(maps_BNCHW: Tensor, weights_BN: Tensor) -> Tensor:
    return torch.einsum("bnchw,bn->bchw", maps_BNCHW, weights_BN.to(maps_BNCHW.dtype))


def _fill_padding(maps_BNCHW: Tensor, mask_BN: Tensor, value: float) -> Tensor:
    return maps_BNCHW.masked_fill(~mask_BN[:, :, None, None, None], value)
