"""Brightness made alike: each tile scaled so that its brightest parts are white."""

import torch
from torch import Tensor

# sRGB to XYZ, each row divided by what it gives for white (D65), so that white is (1, 1, 1).
_XYZ_OF_RGB = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_RGB_OF_XYZ = torch.linalg.inv(torch.tensor(_XYZ_OF_RGB, dtype=torch.float64, device="cpu")).tolist()
_KNEE = 6 / 29  # where the cube root of CIELAB becomes a straight line
_DARKEST = 1.0  # of L: a tile without anything brighter is black and stays so
_PIXELS_AT_A_TIME = {"cpu": 2**18}  # few enough for its cache
PERCENT = 95


def standard_luminosity(tiles_MCHW: Tensor) -> Tensor:
    """Tiles float32 (M, 3, H, W) from 0 to 255 whose L of CIELAB is scaled so that its 95th percentile is 100, white.

    Takes RGB uint8. What is brighter becomes white as well; a* and b* stay. As staintools' LuminosityStandardizer
    (Peter Byfield), but without rounding to 8 bits on the way. All pixels of a tile count, so that a tile without any
    glass in it becomes brighter than it was under the microscope.
    """
    assert tiles_MCHW.dtype == torch.uint8, "pictures are uint8"
    device = tiles_MCHW.device
    linear = _linear(torch.arange(256, device=device) / 255)
    size = max(1, _PIXELS_AT_A_TIME.get(device.type, 2**22) // tiles_MCHW[:1, 0].numel())
    return torch.cat([_standard(tiles, linear) for tiles in torch.split(tiles_MCHW, size)])


def _standard(tiles_MCHW: Tensor, linear: Tensor) -> Tensor:
    rgb_MCHW = linear.index_select(0, tiles_MCHW.flatten().int()).view(tiles_MCHW.shape)
    roots = [_root(_mixed(rgb_MCHW, row)) for row in _XYZ_OF_RGB]
    lightness_MHW = 116 * roots[1] - 16
    brighter = lightness_MHW[0].numel() * (100 - PERCENT) // 100
    white_M = lightness_MHW.flatten(1).topk(brighter + 1, dim=1, sorted=False).values.amin(1).clamp(min=_DARKEST)
    scaled_MHW = (lightness_MHW * (100 / white_M)[:, None, None]).clamp_(max=100)
    # a* and b* are differences of the three roots: where those are shifted alike, L alone changes.
    shift_MHW = scaled_MHW.sub_(lightness_MHW).div_(116)
    xyz_MCHW = torch.stack([_cube(root.add_(shift_MHW)) for root in roots], dim=1)
    return _gamma(torch.stack([_mixed(xyz_MCHW, row) for row in _RGB_OF_XYZ], dim=1)).mul_(255)


def _mixed(planes_MCHW: Tensor, weights: list[float] | tuple[float, ...]) -> Tensor:
    """One plane (M, H, W) of three; no product of matrices, which autocast would do in half precision."""
    first, second, third = planes_MCHW.unbind(1)
    return (first * weights[0]).add_(second, alpha=weights[1]).add_(third, alpha=weights[2])


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _gamma(linear: Tensor) -> Tensor:
    linear = linear.clamp_(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, (linear ** (1 / 2.4)).mul_(1.055).sub_(0.055))


def _root(ratio: Tensor) -> Tensor:
    return torch.where(ratio > _KNEE**3, ratio ** (1 / 3), ratio / (3 * _KNEE**2) + 4 / 29)


def _cube(root: Tensor) -> Tensor:
    return torch.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
