"""Brightness made alike: each tile scaled so that its brightest parts are white."""

import torch
from torch import Tensor

# sRGB to XYZ, each row divided by what it gives for white (D65), so that white is (1, 1, 1).
_XYZ_OF_RGB = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_RGB_OF_XYZ = torch.linalg.inv(torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)).tolist()
_KNEE = 6 / 29  # where the cube root of CIELAB becomes a straight line
_DARKEST = 1.0  # of L: a tile without anything brighter is black and stays so
PERCENTILE = 0.95


def standard_luminosity(tiles_MCHW: Tensor) -> Tensor:
    """Tiles float32 (M, 3, H, W) from 0 to 255 whose L of CIELAB is scaled so that its 95th percentile is 100, white.

    Takes RGB from 0 to 255 of any type. What is brighter becomes white as well; a* and b* stay. As staintools'
    LuminosityStandardizer (Peter Byfield), but without rounding to 8 bits on the way. All pixels of a tile count, so
    that a tile without any glass in it becomes brighter than it was under the microscope.
    """
    rgb = _linear(tiles_MCHW.float() / 255)
    roots = [_root(_mixed(rgb, row)) for row in _XYZ_OF_RGB]
    lightness_MHW = 116 * roots[1] - 16
    count = lightness_MHW[0].numel()
    white_M = lightness_MHW.flatten(1).kthvalue(max(1, -(-95 * count // 100)), dim=1).values
    factor_M = 100 / white_M.clamp(min=_DARKEST)
    shift_MHW = ((factor_M[:, None, None] * lightness_MHW).clamp(max=100) - lightness_MHW) / 116
    # a* and b* are differences of the three roots: where those are shifted alike, L alone changes.
    xyz = torch.stack([_cube(root + shift_MHW) for root in roots], dim=1)
    return _gamma(torch.stack([_mixed(xyz, row) for row in _RGB_OF_XYZ], dim=1)).mul_(255)


def _mixed(planes_MCHW: Tensor, weights: list[float] | tuple[float, ...]) -> Tensor:
    """One plane (M, H, W) of three; no product of matrices, which autocast would do in half precision."""
    first, second, third = planes_MCHW.unbind(1)
    return (first * weights[0]).add_(second, alpha=weights[1]).add_(third, alpha=weights[2])


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _gamma(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _root(ratio: Tensor) -> Tensor:
    return torch.where(ratio > _KNEE**3, ratio ** (1 / 3), ratio / (3 * _KNEE**2) + 4 / 29)


def _cube(root: Tensor) -> Tensor:
    return torch.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
