"""Tiles decoded on the GPU that trains on them, by torchvision, which uses nvJPEG there.

What nvJPEG gives differs from what the CPU decodes: by rounding where the JPEG's colours have full resolution (4:4:4),
by more where they have less (4:2:0), for torchvision lets nvJPEG repeat the coarser colours where the CPU interpolates.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mil.data import JPEG, Instances, Jpegs
from mil.errors import SettingsError
from tiling.errors import BagError

_alone = Lock()


def decode(parts: Sequence[Instances], device: torch.device) -> Tensor:
    """The tiles of bags, of which at least one is Jpegs, as uint8 (M, 3, px, px) on `device`, best first in each.

    Tiles of another side than asked for are reduced there, with bilinear weights that heed all pixels. Raises BagError
    where a tile cannot be decoded; an error of the device, such as that its memory has run out, stays what it is.
    """
    # On a GPU torchvision writes pictures at once into memory that PyTorch holds for free, also where work that is
    # waiting on this stream has yet to read it (pytorch/vision pull request 9606): nothing may be waiting before,
    # nothing that reads its pictures may wait when they are let go, and no other thread may add to it in between.
    with _alone:
        _finish(device)
        rows: list[Tensor] = []
        pictures: list[Tensor] = []
        for part in parts:
            if isinstance(part, Jpegs):
                decoded = _decoded(part, device)
                pictures += decoded
                rows += [_sized(picture, part.px) for picture in decoded]
            else:
                assert isinstance(part, Tensor), "tiles are encoded or not, and in no cache"
                rows += part.to(device)
        tiles_MCHW = torch.stack(rows)
        _finish(device)
        return tiles_MCHW


def _decoded(part: Jpegs, device: torch.device) -> list[Tensor]:
    """The pictures as they are, uint8 (3, H, W) each."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in part.pictures]
    try:
        return list(decode_jpeg(encoded, ImageReadMode.RGB, device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        try:
            decode_jpeg(encoded, ImageReadMode.RGB)
        except RuntimeError:
            raise BagError(f"a tile of bag {part.name!r} cannot be decoded ({error}); tile the slide again") from error
        raise  # what a CPU decodes is not damaged: the GPU is at fault


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _sized(picture_CHW: Tensor, px: int) -> Tensor:
    if picture_CHW.shape[1:] == (px, px):
        return picture_CHW
    reduced = interpolate(picture_CHW[None].float(), (px, px), mode="bilinear", antialias=True)
    return reduced[0].round().clamp(0, 255).byte()


def decodes_alike(spec: dict[str, Any], px: int) -> bool:
    """Whether a GPU decodes tiles of bags of this spec as the CPU does, but for rounding."""
    return spec.get("codec") == JPEG and spec.get("chroma") == 444 and spec.get("size") == px


def check_decoder(spec: dict[str, Any], device: torch.device) -> None:
    """Raise SettingsError where tiles of bags of this spec cannot be decoded on `device`."""
    if device.type != "cuda":
        raise SettingsError("--decode gpu needs a GPU to train on; leave it at auto")
    if spec.get("codec") != JPEG:
        raise SettingsError(
            f"--decode gpu takes tiles in JPEG, and these bags have {spec.get('codec')!r}; leave it at auto"
        )
    if not torchvision_decodes():
        raise SettingsError("this torchvision decodes no JPEG; install one that does, or leave --decode at auto")


def torchvision_decodes() -> bool:
    """Whether torchvision is there and still has its decoder, which it means to give away to another package."""
    try:
        from torchvision.io import decode_jpeg
    except (ImportError, RuntimeError):
        return False
    return callable(decode_jpeg)
