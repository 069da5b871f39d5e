"""Maps (M, C, h, w) from whatever a timm model gives: maps, channels-last maps, tokens, an embedding."""

from typing import Any

from torch import Tensor


def as_maps(net: Any, features: Any, channels_last: bool) -> Tensor | None:
    """Maps (M, C, h, w) of features (M, C, h, w), `channels_last` (M, h, w, C), tokens (M, L, C) or (M, C).

    Class, distillation and register tokens are set aside, the others put on their grid. None for anything else: lists,
    or tokens that fill no grid.
    """
    if not isinstance(features, Tensor) or features.ndim not in (2, 3, 4):
        return None
    if features.ndim == 2:
        return features[:, :, None, None]
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    tokens_MLC = features[:, _prefix_tokens(net) :]
    grid = _grid(net, tokens_MLC.shape[1])
    return tokens_MLC.reshape(len(tokens_MLC), *grid, -1).permute(0, 3, 1, 2) if grid else None


def is_channels_last(net: Any, features: Any) -> bool:
    """True of features (1, h, w, C); square ones tell by themselves, others are taken to be what the model says."""
    if not isinstance(features, Tensor) or features.ndim != 4:
        return False
    first, middle, last = features.shape[1:]
    if (first == middle) != (middle == last):
        return first == middle
    return str(getattr(net, "output_fmt", "NCHW")) == "NHWC"


def _prefix_tokens(net: Any) -> int:
    """How many class, distillation and register tokens come before those of the picture."""
    class_token = getattr(net, "cls_token", None)
    tokens = class_token.shape[1] if isinstance(class_token, Tensor) else 0
    return int(getattr(net, "num_prefix_tokens", tokens))


def _grid(net: Any, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of so many tokens: those of the patches or, after merging, a square; None for no such."""
    rows, columns = getattr(getattr(net, "patch_embed", None), "grid_size", None) or (0, 0)
    side = round(tokens**0.5)
    if tokens and rows * columns == tokens:
        return rows, columns
    return (side, side) if tokens and side * side == tokens else None
