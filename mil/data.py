"""Bags as a training reads them: who reads a bag, in what form it comes, and what is known of it besides.

`mil.feed` makes batches of them: the instances of all bags stacked, so that no padding is read, moved or computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tiling.bag import NO_TILES, Bag, BagRef, read_bag
from tiling.features import read_features
from tiling.pixels import square_1CHW, tiles_NCHW

JPEG = "jpeg"


class Batch(NamedTuple):
    """The instances of all bags, stacked; bool (B, N) with True = real; int64 (B,) or float (B, K); (B, F); int64 (B,).

    Instances are uint8 pictures (M, 3, px, px), tiles or overviews, or float32 features (M, C), where M is the number
    of True in the mask, in its order. Instances, targets and metadata are on the device that is trained on, the mask
    and the places of the bags in their dataset (`index_B`) on the CPU.
    """

    instances_M: Tensor
    mask_BN: Tensor
    target_B: Tensor
    metadata_BF: Tensor
    index_B: Tensor


@dataclass(frozen=True)
class Stored:
    """Tiles that lie in a file as they are: uint8 of the shape (N, 3, px, px), nothing before or behind them."""

    path: Path
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True)
class Jpegs:
    """Tiles of the bag `name` still encoded, to be decoded where they are trained on, to a side of `px`."""

    name: str
    pictures: tuple[bytes, ...]
    px: int

    def __len__(self) -> int:
        return len(self.pictures)


Instances = Tensor | Stored | Jpegs
Reader = Callable[[BagRef | Path], Instances]


class PixelReader:
    """Reads the tiles of a bag, best first, as uint8 (N, 3, px, px)."""

    def __init__(self, px: int) -> None:
        self.px = px

    def __call__(self, bag: BagRef | Path) -> Tensor:
        """The tiles; raises BagError where the bag is damaged."""
        return bag_tensor(read_bag(bag, self.px), self.px)


class JpegReader:
    """Reads the tiles of a bag for a GPU that decodes them; those of another codec than JPEG it decodes itself."""

    def __init__(self, px: int) -> None:
        self.px = px

    def __call__(self, bag: BagRef | Path) -> Jpegs | Tensor:
        """The tiles, best first; raises BagError where the bag is damaged."""
        read = read_bag(bag, self.px)
        if read.header.codec != JPEG:
            return bag_tensor(read, self.px)
        pictures = tuple(read.encoded(index, self.px) for index in range(len(read)))
        return Jpegs(read.header.slide_id, pictures, self.px)


class OverviewReader:
    """Reads the overview of a bag as a square, the one instance of its slide: uint8 (1, 3, px, px)."""

    def __init__(self, px: int) -> None:
        self.px = px

    def __call__(self, bag: BagRef | Path) -> Tensor:
        """The square; raises BagError where the bag is damaged. Its tiles are not read."""
        return square_tensor(read_bag(bag, NO_TILES).overview_rgb(), self.px)


def square_tensor(overview_rgb: np.ndarray, px: int) -> Tensor:
    """Uint8 (1, 3, px, px): an overview RGB uint8 (H, W, 3) as ChipNet sees it (see tiling.overview)."""
    return torch.from_numpy(square_1CHW(overview_rgb, px))


def read_feature_tensor(bag: BagRef | Path) -> Tensor:
    """The features of a bag, float32 (N, C); raises BagError where it is damaged."""
    return torch.from_numpy(read_features(BagRef(bag) if isinstance(bag, Path) else bag).features_NC)


class Kept:
    """Reads a bag once and keeps it."""

    def __init__(self, read: Callable[[BagRef | Path], Tensor]) -> None:
        self.read = read
        self.bags: dict[BagRef | Path, Tensor] = {}

    def __call__(self, bag: BagRef | Path) -> Tensor:
        """What the reader gives, which must not be changed; raises what it raises."""
        if bag not in self.bags:
            self.bags[bag] = self.read(bag)
        return self.bags[bag]


class BagDataset:
    """Bags, the reader that reads them, and what is true of each: targets, and `metadata` float32 (bags, F)."""

    def __init__(
        self, bags: Sequence[BagRef | Path], targets: np.ndarray, read: Reader, metadata: np.ndarray | None = None
    ) -> None:
        self.bags, self.read = list(bags), read
        self.targets = targets
        self.metadata = np.zeros((len(self.bags), 0), np.float32) if metadata is None else metadata

    def __len__(self) -> int:
        return len(self.bags)

    def batch(self, places: np.ndarray, lengths: Sequence[int], instances_M: Tensor) -> Batch:
        """The batch of the bags at `places`, given their instances, and how many each has."""
        # In numpy: this is done for each batch, and costs torch ten times as much.
        mask_BN = np.arange(max(lengths)) < np.array(lengths)[:, None]
        parts = (mask_BN, self.targets[places], self.metadata[places], places.astype(np.int64))
        return Batch(instances_M, *map(torch.from_numpy, parts))


def bag_tensor(bag: Bag, px: int) -> Tensor:
    """The tiles of a bag, best first, as uint8 (N, 3, px, px); raises BagError where one cannot be decoded."""
    return torch.from_numpy(tiles_NCHW(bag, px))
