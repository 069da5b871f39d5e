"""Pixels of tiles moved, each tile by values of its own: symmetries, rotation, blur."""

import math

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import horizontal_flip, vertical_flip


def symmetry(tiles_MCHW: Tensor, transposed_M: Tensor, mirrored_M: Tensor, upended_M: Tensor) -> Tensor:
    """Square tiles of any type, each where asked (bool) transposed, then left for right, then top for bottom.

    These are the eight symmetries of the square, exact to the pixel.
    """
    for asked_M, turned in (
        (transposed_M, lambda tiles: tiles.transpose(2, 3)), (mirrored_M, horizontal_flip), (upended_M, vertical_flip)
    ):  # fmt: skip
        tiles_MCHW = torch.where(asked_M[:, None, None, None], turned(tiles_MCHW), tiles_MCHW)
    return tiles_MCHW


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
