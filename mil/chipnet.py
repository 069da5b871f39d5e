"""ChipNet: a network on the overview of a slide, which learns where to look on it."""

import math

import torch
from torch import Tensor, nn

from mil.chips import Chips, background
from mil.head import Head
from mil.network import Embedding, Encoder, MILOutput, Network


class ChipNet(Network):
    """Overviews to logits, and to a map of how much each place of them counted.

    A square is cut into chips of 32 px, each of which goes through the backbone alone; their embeddings are put back on
    the grid. Of these maps, behind a dropout of whole channels, convolutions of 3 x 3 make a score for each cell, the
    softmax of which over all cells is the map. The sum of the embeddings weighted with it goes through dropout, ReLU
    and batch norm into the head. No weight knows the size of the grid: a larger square gives a finer map.

    Channels are dropped as a whole (Tompson et al. 2015, arXiv:1411.4280), in all cells at once: cells that differ
    would otherwise differ by which of their numbers were dropped, which the score of a cell would have to see through.

    With `mask_background`, cells of pure background (see mil.chips) get no attention, unless all are that.
    """

    def __init__(
        self, chips: Chips, head: Head, hidden: int = 128, map_dropout: float = 0.0, dropout: float = 0.0,
        mask_background: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(Encoder(chips, Embedding(chips.channels, ()), nn.Identity()), head)
        self.drop_channels = nn.Dropout2d(map_dropout)
        self.score = nn.Sequential(
            nn.Conv2d(chips.channels, hidden, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )  # fmt: skip
        self.norm = nn.Sequential(nn.Dropout(dropout), nn.ReLU(), nn.BatchNorm1d(chips.channels))
        self.mask_background = mask_background

    def forward(self, instances_M: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """Logits and map of slides, each of which is one square: uint8 (M, 3, 32 G, 32 G), or from `through_frozen`.

        `mask_BN` (B, 1) has nothing to say but that there is one. `metadata_BF` float32 is for a head with metadata.
        """
        assert tuple(mask_BN.shape) == (len(instances_M), 1), "ChipNet takes one square for each slide"
        background_BGG = None
        if self.mask_background and instances_M.is_floating_point():
            instances_M, background_BGG = instances_M[:, :-1], instances_M[:, -1] > 0
        elif self.mask_background:
            background_BGG = background(instances_M)
        maps_BCGG = self.drop_channels(self._encode(instances_M))
        map_BGG = _softmax(self.score(maps_BCGG).squeeze(1), background_BGG)
        vectors_BC = torch.einsum("bcgh,bgh->bc", maps_BCGG.float(), map_BGG)
        return MILOutput(self.head(self.norm(vectors_BC), metadata_BF), None, map_BGG)

    def through_frozen(self, instances_M: Tensor) -> Tensor:
        """See Network; with `mask_background` a last channel says which cells are background."""
        maps_MCGG = super().through_frozen(instances_M)
        if not self.mask_background:
            return maps_MCGG
        return torch.cat([maps_MCGG, background(instances_M)[:, None].to(maps_MCGG.dtype)], dim=1)

    def attention_parameters(self) -> list[nn.Parameter]:
        """See Network."""
        return list(self.score.parameters())


def _softmax(scores_BGG: Tensor, masked_BGG: Tensor | None) -> Tensor:
    """Float32 (B, G, G) that sums to 1 over each grid; masked cells get 0, unless all of a grid are masked."""
    scores_BL = scores_BGG.flatten(1).float()
    if masked_BGG is not None:
        masked_BL = masked_BGG.flatten(1)
        scores_BL = scores_BL.masked_fill(masked_BL & ~masked_BL.all(dim=1, keepdim=True), -math.inf)
    return scores_BL.softmax(dim=1).view_as(scores_BGG)


def entropy(map_BGG: Tensor) -> Tensor:
    """Entropy (B,) of maps relative to that of an even one: 0 where all attention is in one cell, 1 where it is even.

    One less it is the peakedness of a map.
    """
    logs_BGG = map_BGG.clamp(min=torch.finfo(map_BGG.dtype).tiny).log()  # of a masked cell too, for the gradient
    return -(map_BGG * logs_BGG).sum(dim=(1, 2)) / math.log(map_BGG[0].numel())
