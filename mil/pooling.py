"""From the feature maps of a bag's instances to one map: avg, max, logsumexp, concat, attention, gated attention.

Every pooling takes maps (B, N, C, H, W) and a mask (B, N), True = real, and leaves padded instances out exactly.
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
    """Base of the poolings; `channels` is the depth of the pooled maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """The pooled maps; every bag must have at least one real instance."""
        raise NotImplementedError


class Avg(Pooling):
    """Mean over the real instances."""

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        weights_BN = mask_BN.to(maps_BNCHW.dtype)
        weights_BN = weights_BN / weights_BN.sum(dim=1, keepdim=True)
        return Pooled(_weighted_sum(maps_BNCHW, weights_BN), weights_BN)


class Max(Pooling):
    """Maximum over the real instances, at each channel and position."""

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        return Pooled(_fill_padding(maps_BNCHW, mask_BN, -torch.inf).amax(dim=1), None)


class LogSumExp(Pooling):
    """log Σ exp over the real instances, at each channel and position: a maximum that every instance moves."""

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
        return Pooled(_fill_padding(maps_BNCHW, mask_BN, -torch.inf).logsumexp(dim=1), None)


class Concat(Pooling):
    """Instances side by side on the channels, in their order; a short bag is filled up with zeros."""

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

    The score of an instance comes from its map averaged over positions: w' tanh(V h).
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels)
        self.tanh = nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, maps_BNCHW: Tensor, mask_BN: Tensor) -> Pooled:
        """See Pooling."""
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


POOLINGS: dict[str, Callable[[int, int, int], Pooling]] = {
    "avg": lambda channels, instances, hidden: Avg(channels),
    "max": lambda channels, instances, hidden: Max(channels),
    "logsumexp": lambda channels, instances, hidden: LogSumExp(channels),
    "concat": lambda channels, instances, hidden: Concat(channels, instances),
    "attention": lambda channels, instances, hidden: Attention(channels, hidden),
    "gated": lambda channels, instances, hidden: GatedAttention(channels, hidden),
}


def _weighted_sum(maps_BNCHW: Tensor, weights_BN: Tensor) -> Tensor:
    return torch.einsum("bnchw,bn->bchw", maps_BNCHW, weights_BN.to(maps_BNCHW.dtype))


def _fill_padding(maps_BNCHW: Tensor, mask_BN: Tensor, value: float) -> Tensor:
    return maps_BNCHW.masked_fill(~mask_BN[:, :, None, None, None], value)
