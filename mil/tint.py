"""Colours of tiles changed, each tile by values of its own. Tiles are float (M, 3, H, W), RGB from 0 to 255."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

# Optical densities of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001, table 1).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def adjust(tiles_MCHW: Tensor, brightness_M: Tensor, contrast_M: Tensor, saturation_M: Tensor) -> Tensor:
    """Tiles with brightness, contrast and saturation multiplied by these factors, in this order; 1 changes nothing.

    As torchvision's adjust_brightness, adjust_contrast and adjust_saturation, but nothing is cut off in between:
    where brightness takes a pixel above white, contrast may bring it back.
    """
    brightness, contrast, saturation = (
        factor[:, None, None, None] for factor in (brightness_M, contrast_M, saturation_M)
    )
    grey = rgb_to_grayscale(tiles_MCHW)
    mean = (1 - contrast) * brightness * grey.mean(dim=(1, 2, 3), keepdim=True)
    kept = contrast * brightness
    return (tiles_MCHW * (saturation * kept)).add_(((1 - saturation) * kept) * grey + mean)


def turn_hue(tiles_MCHW: Tensor, turn_M: Tensor) -> Tensor:
    """Tiles with their hue turned by a share of the colour circle, from -0.5 to 0.5, as torchvision's adjust_hue."""
    red, green, blue = tiles_MCHW.unbind(1)
    least, most = tiles_MCHW.aminmax(dim=1)
    chroma = most - least
    scale = 1 / chroma.clamp(min=1e-6)
    sixths = torch.where(
        most == red,
        (green - blue) * scale,
        torch.where(most == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    ).add_(6 * turn_M[:, None, None])
    # A plane is highest over two sixths of the circle, lowest over the opposite two, and linear in between.
    planes = []
    for offset in (5, 3, 1):
        place = (sixths + offset).remainder_(6)
        planes.append(most - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(planes, dim=1)


def stain_change(factor_M3: Tensor, shift_M3: Tensor) -> tuple[Tensor, Tensor]:
    """What `restain` needs to multiply the amounts of haematoxylin, eosin and DAB by factors, and then shift them.

    Amounts are optical densities (log10), unmixed as by Ruifrok and Johnston 2001 (Quantification of histochemical
    staining by color deconvolution), and changed as by Tellez et al. 2018 (Whole-slide mitosis detection in H&E breast
    histology). Gives (M, 3, 3) and (M, 3): what a tile's natural logarithms are multiplied by from the right, and what
    is added to them then.
    """
    stains = torch.tensor(_STAINS, dtype=torch.float64, device="cpu")
    mixed_M33 = torch.linalg.inv(stains) @ (factor_M3.double()[:, :, None] * stains)
    return mixed_M33.float(), (-math.log(10) * shift_M3.double() @ stains).float()


def restain(tiles_MCHW: Tensor, mixed_M33: Tensor, added_M3: Tensor) -> Tensor:
    """Tiles with other amounts of stains, as `stain_change` has it."""
    logs = tiles_MCHW.add(1).div_(256).log_()  # one more than the value, so that black has a logarithm
    first, second, third = logs.unbind(1)
    weights_3M311 = mixed_M33.movedim(1, 0)[..., None, None]
    out = first[:, None] * weights_3M311[0] + added_M3[:, :, None, None]
    out.addcmul_(second[:, None], weights_3M311[1]).addcmul_(third[:, None], weights_3M311[2])
    return out.exp_().mul_(256).sub_(1)
