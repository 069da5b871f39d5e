"""Pixels of tiles hidden, each tile's by values of its own: single ones, rectangles, hairs."""

import torch
from torch import Tensor


def drop_pixels(tiles_MCHW: Tensor, seed_M: Tensor, share: float) -> Tensor:
    """Tiles of any type with a share of their pixels black, other ones for each seed (int32).

    Whether a pixel goes is a hash of its number and the seed (the finaliser of MurmurHash3 by Austin Appleby), not a
    draw: it is the same on every device, and a hundred million draws need not be sent there.
    """
    height, width = tiles_MCHW.shape[2:]
    numbers = torch.arange(height * width, dtype=torch.int32, device=tiles_MCHW.device).view(height, width)
    hashed = _mixed(numbers + seed_M[:, None, None])
    return tiles_MCHW.masked_fill((hashed < round(share * 2**32) - 2**31)[:, None], 0)


def _mixed(bits: Tensor) -> Tensor:
    """Hashed int32; products overflow as they should, shifts are those of unsigned numbers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = bits ^ (bits >> shift) & (2 ** (32 - shift) - 1)
        bits = bits * (factor - 2**32 if factor >= 2**31 else factor)
    return bits


def drop_rectangles(tiles_MCHW: Tensor, boxes_MR4: Tensor) -> Tensor:
    """Tiles of any type, black inside rectangles: left, top, right and bottom as shares of the side."""
    height, width = tiles_MCHW.shape[2:]
    rows, columns = (_centres(side, tiles_MCHW.device) for side in (height, width))
    left, top, right, bottom = boxes_MR4.unbind(2)
    across = (columns >= left[:, :, None]) & (columns < right[:, :, None])
    down = (rows >= top[:, :, None]) & (rows < bottom[:, :, None])
    inside = torch.zeros(len(tiles_MCHW), height, width, dtype=torch.bool, device=tiles_MCHW.device)
    for number in range(boxes_MR4.shape[1]):
        inside |= down[:, number, :, None] & across[:, number, None, :]
    return tiles_MCHW.masked_fill(inside[:, None], 0)


def draw_hairs(tiles_MCHW: Tensor, hairs_MH8: Tensor, colour_M3: Tensor) -> Tensor:
    """Square float tiles with dark curved lines drawn over them.

    A hair is: x and y of its middle, its length, its greatest width, all as shares of the side; its direction in
    radians; how far its middle stands out from the chord, and how far it bends the other way behind (an S), as shares
    of half its length; how dark it is, from 0 (not there) to 1. It becomes thinner towards its tip. The line is a
    cubic over its chord, and the distance of a pixel to it that of first order (height over slope). `colour_M3` is
    from 0 to 255.
    """
    px = tiles_MCHW.shape[-1]
    centres = _centres(px, tiles_MCHW.device)
    seen = torch.zeros(len(tiles_MCHW), px, px, device=tiles_MCHW.device)
    for number in range(hairs_MH8.shape[1]):
        x, y, length, width, angle, bow, twist, dark = hairs_MH8[:, number, :, None, None].unbind(1)
        cos, sin, half = 2 * angle.cos() / length, 2 * angle.sin() / length, length / 2
        across, down = centres - x, (centres[:, None] - y)
        # Along the chord from -1 to 1, and beside it in the same unit.
        along, beside = across * cos + down * sin, down * cos - across * sin
        square = along.square()
        bend = (1 - square) * (bow + twist * along)
        slope = twist * (1 - 3 * square) - 2 * bow * along
        distance = (beside - bend).abs_() * slope.square_().add_(1).rsqrt_()
        thickness = width * (0.625 - 0.375 * along)  # that of the root at -1; a quarter of it at the tip
        # Both in pixels: what a pixel has of the line, whose edges and ends take one pixel to fade.
        cover = (thickness * (px / 2) + 0.5).sub_(distance.mul_(half * px)).clamp_(0, 1)
        ends = (1 - along.abs()).mul_(half * px).add_(0.5).clamp_(0, 1)
        seen = torch.maximum(seen, cover.mul_(ends).mul_(dark))
    return tiles_MCHW + seen[:, None] * (colour_M3[:, :, None, None] - tiles_MCHW)


def _centres(px: int, device: torch.device) -> Tensor:
    return (torch.arange(px, device=device) + 0.5) / px
