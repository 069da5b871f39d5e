"""What a frozen backbone says of tiles, computed once for a fold: it says the same in every epoch."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mil.data import Batch, Reader
from mil.network import Network
from tiling.bag import BagRef

MOST_BYTES = 2**32  # maps of a fold up to this size are kept


@torch.inference_mode()
def encode_once(
    net: Network, batches: Iterable[Batch], bags: Sequence[BagRef | Path], instances: int, most_bytes: int
) -> Reader | None:
    """A reader that gives each bag as the frozen part of the network sees it, float32 (N, C, h, w) in memory.

    `batches` hold all the `bags`, with `instances` in all. None where that would be more than `most_bytes`.
    """
    net.eval()
    found: dict[BagRef | Path, Tensor] = {}
    for batch in batches:
        maps_MCHW = net.through_frozen(batch.instances_M).float().cpu()
        if maps_MCHW[0].nbytes * instances > most_bytes:
            return None
        parts = torch.split(maps_MCHW, batch.mask_BN.sum(1).tolist())
        found |= {bags[place]: part.clone() for place, part in zip(batch.index_B.tolist(), parts, strict=True)}
    return found.__getitem__
