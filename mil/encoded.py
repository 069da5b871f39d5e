"""What a frozen backbone says of tiles, computed once: it says the same in every epoch."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mil.data import Batch, Reader
from mil.network import Network
from tiling.bag import BagRef

MOST_BYTES = 2**32  # maps of a cohort up to this size are kept

Maps = dict[BagRef | Path, Tensor]


class Encodings:
    """Maps of bags, kept from one fold to the next as long as its frozen backbone has the same weights."""

    def __init__(self) -> None:
        self._weights, self._maps = "", Maps()

    def by(self, net: Network) -> Maps:
        """Those by the backbone of a network: all that there are, to which more can be added."""
        if (weights := fingerprint(net.encoder.backbone)) != self._weights:
            self._weights, self._maps = weights, {}
        return self._maps


def fingerprint(module: nn.Module) -> str:
    """The same for modules of one kind that have the same weights, to the bit."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def encode_once(
    net: Network, batches: Iterable[Batch], bags: Sequence[BagRef | Path], instances: int, most_bytes: int, maps: Maps
) -> Reader | None:
    """A reader that gives each bag as the frozen part of the network sees it, float32 (N, C, h, w) in memory.

    `batches` hold all the `bags`, with `instances` in all; what is found is added to `maps`. None where that would be
    more than `most_bytes`.
    """
    net.eval()
    for batch in batches:
        maps_MCHW = net.through_frozen(batch.instances_M).float().cpu()
        if maps_MCHW[0].nbytes * instances > most_bytes:
            return None
        parts = torch.split(maps_MCHW, batch.mask_BN.sum(1).tolist())
        maps |= {bags[place]: part.clone() for place, part in zip(batch.index_B.tolist(), parts, strict=True)}
    return maps.__getitem__
