"""Pixels of tiles moved, each tile by values of its own: symmetries, rotation, blur."""

import math

import torch
from torch import Tensor, nn


def symmetry(tiles_MCHW: Tensor, transposed_M: Tensor, mirrored_M: Tensor, upended_M: Tensor) -> Tensor:
    """Square tiles of any type, each where asked (bool) transposed, then left for right, then top for bottom.

    These are the eight symmetries of the square, exact to the pixel. What is asked is on the CPU, wherever tiles are:
    those of one symmetry are moved together, and a GPU is not waited for to know which they are.
    """
    kind_M = 4 * transposed_M.int() + 2 * mirrored_M + upended_M
    order_M, counts = kind_M.argsort(), kind_M.bincount(minlength=8).tolist()
    there_M, back_M = (places_M.to(tiles_MCHW.device, non_blocking=True) for places_M in (order_M, order_M.argsort()))
    sorted_MCHW = tiles_MCHW.index_select(0, there_M)
    moved_MCHW = torch.empty_like(sorted_MCHW)
    groups = zip(torch.split(sorted_MCHW, counts), torch.split(moved_MCHW, counts), strict=True)
    for kind, (group_MCHW, into_MCHW) in enumerate(groups):
        if kind & 4:
            group_MCHW = group_MCHW.transpose(2, 3)
        into_MCHW.copy_(group_MCHW.flip([dim for dim, bit in ((3, 2), (2, 1)) if kind & bit]))
    return moved_MCHW.index_select(0, back_M)


def rotate(tiles_MCHW: Tensor, degrees_M: Tensor) -> Tensor:
    """Square float tiles turned about their middle, counter-clockwise, bilinear; what comes in is their reflection."""
    px = tiles_MCHW.shape[-1]
    cos, sin = (part[:, None, None] for part in (degrees_M.deg2rad().cos(), degrees_M.deg2rad().sin()))
    centres = (torch.arange(px, device=tiles_MCHW.device) * 2 + 1) / px - 1
    x, y = centres, centres[:, None]
    grid_MHW2 = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=3)
    return nn.functional.grid_sample(tiles_MCHW, grid_MHW2, padding_mode="reflection", align_corners=False)


def blur(tiles_MCHW: Tensor, sigma_M: Tensor, most: float) -> Tensor:
    """Float tiles behind a Gaussian of these deviations in pixels, none above `most`; edges are reflected."""
    count, planes, height, width = tiles_MCHW.shape
    radius = min(math.ceil(3 * most), height - 1, width - 1)
    steps = torch.arange(-radius, radius + 1, device=tiles_MCHW.device)
    weights = torch.exp(-0.5 * (steps / sigma_M[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(planes, 0)[:, None, None]
    tiles = nn.functional.pad(tiles_MCHW, (radius,) * 4, mode="reflect").view(
        1, count * planes, height + 2 * radius, -1
    )
    tiles = nn.functional.conv2d(tiles, weights, groups=count * planes)
    tiles = nn.functional.conv2d(tiles, weights.transpose(2, 3), groups=count * planes)
    return tiles.view(count, planes, height, width)
