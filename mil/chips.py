"""Squares cut into chips, each of which a backbone sees alone."""

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.luminosity import standard_luminosity

CHIP_PX = 32
# Standard deviation of a chip's pixels, of 255, in its most varied channel. On the overviews of 22 H&E slides it is
# above this in every chip of which 1 % or more is tissue, at 224, 448 and 896 px, and below it in 95 to 98 % of the
# chips without any.
BACKGROUND = 3.0


class Chips(nn.Module):
    """A backbone for pictures of 32 px that is given larger ones: it sees the chips they are cut into, one by one.

    The embedding of a chip is the mean of the backbone's maps over their positions, of which most backbones leave one
    of 32 px; it has `channels`. With `luminosity` the brightness of each square is made alike, not that of each chip.

    With `skip_background` chips of background do not go through the backbone, which saves most of the work: their
    embeddings are 0, and one more channel, the last, is 1 there and 0 elsewhere. Of a square that is nothing but
    background all chips go through it, and that channel is 0.
    """

    def __init__(self, backbone: Backbone, luminosity: bool = False, skip_background: bool = False) -> None:
        super().__init__()
        assert backbone.px == CHIP_PX and not backbone.luminosity, "a backbone of chips sees chips as they are"
        self.backbone, self.luminosity, self.skip_background = backbone, luminosity, skip_background
        self.channels = backbone.channels

    def forward(self, squares_MCHW: Tensor) -> Tensor:
        """Embeddings on the grid of chips (M, channels, G, G) of RGB uint8 (M, 3, 32 G, 32 G), and see above."""
        squares, grid = len(squares_MCHW), squares_MCHW.shape[-1] // CHIP_PX
        skipped_L = _skippable(squares_MCHW).flatten() if self.skip_background else None
        if self.luminosity:
            squares_MCHW = standard_luminosity(squares_MCHW)
        chips_LCHW = cut(squares_MCHW)
        embeddings_LC = self._embed(chips_LCHW) if skipped_L is None else self._embed_others(chips_LCHW, skipped_L)
        return embeddings_LC.view(squares, grid, grid, -1).permute(0, 3, 1, 2)

    def _embed(self, chips_LCHW: Tensor) -> Tensor:
        return self.backbone(chips_LCHW).mean(dim=(2, 3))

    def _embed_others(self, chips_LCHW: Tensor, skipped_L: Tensor) -> Tensor:
        seen = (~skipped_L).nonzero(as_tuple=True)
        seen_LC = self._embed(chips_LCHW[seen])
        all_LC = seen_LC.new_zeros(len(chips_LCHW), self.channels).index_put(seen, seen_LC)
        return torch.cat([all_LC, skipped_L[:, None].to(all_LC.dtype)], dim=1)

    def freeze(self, stages: int | None) -> None:
        """See Backbone."""
        self.backbone.freeze(stages)

    def freeze_batch_norm(self) -> None:
        """See Backbone."""
        self.backbone.freeze_batch_norm()


def cut(squares_MCHW: Tensor) -> Tensor:
    """Chips (M G G, C, 32, 32) of squares (M, C, 32 G, 32 G): square by square, from the top left row by row."""
    squares, channels, height, width = squares_MCHW.shape
    assert height == width and height % CHIP_PX == 0, "squares are cut into whole chips"
    grid = height // CHIP_PX
    cells = squares_MCHW.reshape(squares, channels, grid, CHIP_PX, grid, CHIP_PX)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, CHIP_PX, CHIP_PX)


def background(squares_MCHW: Tensor) -> Tensor:
    """Bool (M, G, G), True on chips of RGB uint8 (M, 3, 32 G, 32 G) whose pixels hardly differ: glass, padding.

    Turns and mirrors move it with the pixels, and changes of colour hardly change it. Black pixels (0, 0, 0) count for
    nothing, so that neither a dropout of pixels nor a scanner's border makes tissue of glass.
    """
    chips_LCP = cut(squares_MCHW).flatten(2)
    counts_LP = (chips_LCP > 0).any(dim=1).float()
    chips_LCP, pixels_L1 = chips_LCP.float(), counts_LP.sum(dim=1, keepdim=True).clamp(min=1)
    mean_LC = (chips_LCP * counts_LP[:, None]).sum(dim=2) / pixels_L1
    squared_LCP = (chips_LCP - mean_LC[:, :, None]).square() * counts_LP[:, None]
    deviation_L = (squared_LCP.sum(dim=2) / pixels_L1).sqrt().amax(dim=1)
    grid = squares_MCHW.shape[-1] // CHIP_PX
    return (deviation_L < BACKGROUND).view(-1, grid, grid)


def _skippable(squares_MCHW: Tensor) -> Tensor:
    """Bool (M, G, G), True on background of squares that have something else."""
    background_MGG = background(squares_MCHW)
    return background_MGG & ~background_MGG.flatten(1).all(dim=1)[:, None, None]
