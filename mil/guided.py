"""Attention over positions, guided by what the last stage sees."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.errors import ModelError

NORMALISE = ("softmax", "sigmoid")


class GuidedBackbone(nn.Module):
    """A backbone whose two stages before the last are looked at where the last one says.

    Jetley et al. 2018 (Learn to Pay Attention, arXiv:1804.02391), with the parametrised compatibility of Yan, Kawahara
    and Hamarneh 2019 (Melanoma Recognition via Visual Attention, eq. 1 and 2): with the map L of a stage and the map G
    of the last one, the compatibility is c = φ(relu(W_l L + up(W_g G))), where W_l and W_g are convolutions of 1 x 1
    to `hidden` channels without bias, φ is one to a single channel, and up is bilinear. The attention is the softmax
    of c over positions, and L summed with it; or the sigmoid of c, and the mean over positions of L weighted with it.

    The embedding, `channels` deep, is the mean of G, then L attended of the stage before the last, then of the one
    before that: 512 + 512 + 256 of vgg16_bn, from its pools 5, 4 and 3. Stages are those of `Backbone.last_stages`.
    Raises ModelError for a backbone without intermediate maps, or an unknown `normalise`.
    """

    def __init__(self, backbone: Backbone, normalise: str = "softmax", hidden: int = 256) -> None:
        super().__init__()
        if normalise not in NORMALISE:
            raise ModelError(f"guided attention is normalised by {' or '.join(NORMALISE)}, not {normalise!r}")
        self.backbone = backbone
        *local, last = backbone.settle(backbone.last_stages)
        self.channels = last + sum(local)
        self.attentions = nn.ModuleList(_Attention(depth, last, hidden, normalise) for depth in reversed(local))

    def forward(self, images_MCHW: Tensor) -> Tensor:
        """Embeddings as maps (M, channels, 1, 1) of RGB uint8 (M, 3, px, px)."""
        return self.embed(self.backbone.last_stages(images_MCHW))

    def embed(self, stages: Sequence[Tensor]) -> Tensor:
        """Embeddings as maps (M, channels, 1, 1) of the maps (M, C, h, w) of the last three stages, the last last."""
        return self._attended(stages)[0][:, :, None, None]

    def attend(self, images_MCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (M, channels), and the attention (M, h, w) on the stage before the last and the one before that.

        A softmax attention sums to 1 over positions, a sigmoid one is from 0 to 1 at each.
        """
        return self._attended(self.backbone.last_stages(images_MCHW))

    def _attended(self, stages: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        *local, last_MCHW = stages
        parts, attention = [last_MCHW.mean(dim=(2, 3))], []
        for attend, maps_MCHW in zip(self.attentions, reversed(local), strict=True):
            attended_MC, attention_MHW = attend(maps_MCHW, last_MCHW)
            parts.append(attended_MC)
            attention.append(attention_MHW)
        return torch.cat(parts, dim=1), attention

    def freeze(self, stages: int | None) -> None:
        """Freeze the backbone, see there; the attention still learns."""
        self.backbone.freeze(stages)

    def freeze_batch_norm(self) -> None:
        """See Backbone."""
        self.backbone.freeze_batch_norm()


class _Attention(nn.Module):
    """Attention on the maps of one stage."""

    def __init__(self, channels: int, guide_channels: int, hidden: int, normalise: str) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, hidden, 1, bias=False)
        self.guide = nn.Conv2d(guide_channels, hidden, 1, bias=False)
        self.score = nn.Conv2d(hidden, 1, 1)
        self.normalised = _NORMALISED[normalise]

    def forward(self, maps_MCHW: Tensor, guide_MCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Maps attended (M, C), and the attention (M, h, w)."""
        guide = nn.functional.interpolate(
            self.guide(guide_MCHW), size=maps_MCHW.shape[2:], mode="bilinear", align_corners=False
        )
        scores_MHW = self.score(torch.relu(self.local(maps_MCHW) + guide)).squeeze(1)
        attention_MHW, weights_MHW = self.normalised(scores_MHW)
        return torch.einsum("mchw,mhw->mc", maps_MCHW, weights_MHW.to(maps_MCHW.dtype)), attention_MHW


def _softmax(scores_MHW: Tensor) -> tuple[Tensor, Tensor]:
    attention_MHW = scores_MHW.flatten(1).softmax(dim=1).view_as(scores_MHW)
    return attention_MHW, attention_MHW


def _sigmoid(scores_MHW: Tensor) -> tuple[Tensor, Tensor]:
    attention_MHW = scores_MHW.sigmoid()
    return attention_MHW, attention_MHW / scores_MHW[0].numel()


_NORMALISED: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"softmax": _softmax, "sigmoid": _sigmoid}
