"""Any timm image model as a source of feature maps. This is the only module that imports timm."""

import difflib
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from mil.errors import ModelError


class Backbone(nn.Module):
    """A timm model without its head: uint8 pictures in, feature maps out.

    `channels` is the depth of the maps. Pictures are scaled to the mean and deviation the model was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, px: int, pretrained: bool = False) -> None:
        super().__init__()
        self.net: Any = _create(name, px, pretrained)  # timm's models share attributes that no type tells
        self.channels = int(self.net.num_features)
        config = resolve_model_data_config(self.net)
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self._try(px)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Float maps (N, channels, h, w) of RGB uint8 (N, 3, px, px)."""
        features = self.net.forward_features((images_NCHW - self.mean) / self.std)
        return self._as_maps(features)

    def _try(self, px: int) -> None:
        """Run one empty picture through, so that a backbone that does not fit is refused before it is trained."""
        self.eval()
        try:
            with torch.inference_mode():
                self(torch.zeros(1, 3, px, px, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"the backbone {type(self.net).__name__} does not take pictures of {px} px ({cause}); "
                "choose another --train-px"
            ) from error
        self.train()

    def _as_maps(self, features: Any) -> Tensor:
        """Maps (N, C, h, w), whether the model gives them so, channels last, or as tokens behind prefix tokens."""
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise ModelError(f"the backbone {type(self.net).__name__} gives no single feature map; choose another")
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if getattr(self.net, "output_fmt", "NCHW") == "NHWC" else features
        tokens = features[:, getattr(self.net, "num_prefix_tokens", 0) :]
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise ModelError(
                f"the backbone {type(self.net).__name__} gives {tokens.shape[1]} tokens, which is no square"
            )
        return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _create(name: str, px: int, pretrained: bool) -> Any:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise ModelError(f"timm has no model {name!r}; {hint}")
    try:
        return _sized(name, px, pretrained)
    except Exception as error:
        if not pretrained:
            raise
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(
            f"cannot get the pretrained weights of {name!r} ({cause}); "
            "check that the model hub can be reached, or train without --pretrained"
        ) from error


def _sized(name: str, px: int, pretrained: bool) -> Any:
    """The model built for pictures of `px`, where it needs to know."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=px)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
