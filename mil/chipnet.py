"""ChipNet: a network on the overview of a slide, which learns where to look on it."""

import math

import torch
from torch import Tensor, nn

from mil.chips import Chips
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

    Cells that `chips` skips as background get no attention.
    """

    def __init__(
        self, chips: Chips, head: Head, hidden: int = 128, map_dropout: float = 0.0, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(Encoder(chips, Embedding(chips.channels, ()), nn.Identity()), head)
        self.drop_channels = nn.Dropout2d(map_dropout)
        self.score = nn.Sequential(
            nn.Conv2d(chips.channels, hidden, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )  # fmt: skip
        self.norm = nn.Sequential(nn.Dropout(dropout), nn.ReLU(), nn.BatchNorm1d(chips.channels))
        self.skips_background = chips.skip_background

    def forward(self, instances_M: Tensor, mask_BN: Tensor, metadata_BF: Tensor | None = None) -> MILOutput:
        """Logits and map of slides, each of which is one square: uint8 (M, 3, 32 G, 32 G), or from `through_frozen`.

        `mask_BN` (B, 1) has nothing to say but that there is one. `metadata_BF` float32 is for a head with metadata.
        """
        assert tuple(mask_BN.shape) == (len(instances_M), 1), "ChipNet takes one square for each slide"
        maps_BCGG, background_BGG = self._encode(instances_M), None
        if self.skips_background:
            maps_BCGG, background_BGG = maps_BCGG[:, :-1], maps_BCGG[:, -1] > 0
        maps_BCGG = self.drop_channels(maps_BCGG)
        map_BGG = _softmax(self.score(maps_BCGG).squeeze(1), background_BGG)
        vectors_BC = self.norm(torch.einsum("bcgh,bgh->bc", maps_BCGG.float(), map_BGG))
        return MILOutput(self.head(vectors_BC, metadata_BF), None, map_BGG, vectors_BC)

    def attention_parameters(self) -> list[nn.Parameter]:
        """See Network."""
        return list(self.score.parameters())


def _softmax(scores_BGG: Tensor, masked_BGG: Tensor | None) -> Tensor:
    """Float32 (B, G, G) that sums to 1 over each grid; masked cells, which are not all of a grid, get 0."""
    scores_BL = scores_BGG.flatten(1).float()
    if masked_BGG is not None:
        scores_BL = scores_BL.masked_fill(masked_BGG.flatten(1), -math.inf)
    return scores_BL.softmax(dim=1).view_as(scores_BGG)


def entropy(map_BGG: Tensor) -> Tensor:
    """Entropy (B,) of maps relative to that of an even one: 0 where all attention is in one cell, 1 where it is even.

    One less it is the peakedness of a map.
    """
    logs_BGG = map_BGG.clamp(min=torch.finfo(map_BGG.dtype).tiny).log()  # of a masked cell too, for the gradient
    return -(map_BGG * logs_BGG).sum(dim=(1, 2)) / math.log(map_BGG[0].numel())
