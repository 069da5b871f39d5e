"""Bags as tensors: dataset, collation, augmentation on whole batches.

The instances of a batch are stacked: no padding is ever read, moved or computed. A mask says whose they are.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from tiling.bag import Bag, BagRef, read_bag
from tiling.features import read_features

Reader = Callable[[BagRef | Path], Tensor]


class Item(NamedTuple):
    """One bag: its instances (N, …), what is true of it, its metadata (F,), and its place in the dataset."""

    instances_N: Tensor
    target: Tensor
    metadata_F: Tensor
    place: int


class Batch(NamedTuple):
    """The instances of all bags, stacked; bool (B, N) with True = real; int64 (B,) or float (B, K); (B, F); int64 (B,).

    Instances are uint8 tiles (M, 3, px, px) or float32 features (M, C), where M is the number of True in the mask, in
    its order.
    """

    instances_M: Tensor
    mask_BN: Tensor
    target_B: Tensor
    metadata_BF: Tensor
    index_B: Tensor


class PixelReader:
    """Reads the tiles of a bag, best first, as uint8 (N, 3, px, px)."""

    def __init__(self, px: int) -> None:
        self.px = px

    def __call__(self, bag: BagRef | Path) -> Tensor:
        """The tiles; raises BagError where the bag is damaged."""
        return bag_tensor(read_bag(bag, self.px), self.px)


def read_feature_tensor(bag: BagRef | Path) -> Tensor:
    """The features of a bag, float32 (N, C); raises BagError where it is damaged."""
    return torch.from_numpy(read_features(BagRef(bag) if isinstance(bag, Path) else bag).features_NC)


class Kept:
    """Reads a bag once and keeps it."""

    def __init__(self, read: Reader) -> None:
        self.read = read
        self.bags: dict[BagRef | Path, Tensor] = {}

    def __call__(self, bag: BagRef | Path) -> Tensor:
        """What the reader gives, which must not be changed; raises what it raises."""
        if bag not in self.bags:
            self.bags[bag] = self.read(bag)
        return self.bags[bag]


class BagDataset(Dataset[Item]):
    """Bags as tensors, read when asked for; `metadata` float32 (bags, F)."""

    def __init__(
        self, bags: Sequence[BagRef | Path], targets: np.ndarray, read: Reader, metadata: np.ndarray | None = None
    ) -> None:
        self.bags, self.read = list(bags), read
        self.targets = torch.from_numpy(targets)
        self.metadata = torch.zeros(len(self.bags), 0) if metadata is None else torch.from_numpy(metadata)

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> Item:
        return Item(self.read(self.bags[index]), self.targets[index], self.metadata[index], index)


def bag_tensor(bag: Bag, px: int) -> Tensor:
    """The tiles of a bag, best first, as uint8 (N, 3, px, px)."""
    tiles = np.stack([bag.tile(index, px) for index in range(len(bag))])
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous()


def collate(items: Sequence[Item]) -> Batch:
    """One batch of bags of any lengths."""
    lengths = torch.tensor([len(item.instances_N) for item in items])
    return Batch(
        torch.cat([item.instances_N for item in items]),
        torch.arange(int(lengths.max())) < lengths[:, None],
        torch.stack([item.target for item in items]),
        torch.stack([item.metadata_F for item in items]),
        torch.tensor([item.place for item in items]),
    )


def loader(
    dataset: BagDataset, batch_size: int, workers: int, shuffle: bool = False, seed: int = 0
) -> DataLoader[Batch]:
    """Batches of bags; the same seed gives the same order.

    A bag that would be left over alone goes into the batch before: batch norm cannot learn from one.
    """
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # collate turns items into batches
        batch_sampler=_Batches(order, batch_size),
        num_workers=workers,
        collate_fn=collate,
        generator=generator,
        persistent_workers=workers > 0,
    )


class _Batches(Sampler[list[int]]):
    """Places in the dataset, some at a time, and never one alone where a batch is of more."""

    def __init__(self, order: Sampler[int], size: int) -> None:
        self.order, self.size = order, size

    def __iter__(self) -> Iterator[list[int]]:
        places = list(self.order)
        for batch in range(len(self)):
            last = batch == len(self) - 1
            yield places[batch * self.size : None if last else (batch + 1) * self.size]

    def __len__(self) -> int:
        count = len(self.order)  # type: ignore[arg-type]  # ours have a length
        full, left = divmod(count, self.size)
        return full + (left > 1 or (left == 1 and not full))


def random_symmetry(tiles_MCHW: Tensor) -> Tensor:
    """Each tile turned by one of the eight symmetries of the square, drawn for it alone; tiles must be square."""
    symmetry = torch.randint(8, (len(tiles_MCHW),), device="cpu").to(tiles_MCHW.device)
    out = torch.empty_like(tiles_MCHW)
    for turn in range(8):
        chosen = symmetry == turn
        turned = torch.rot90(tiles_MCHW[chosen], turn % 4, (2, 3))
        out[chosen] = turned.flip(3) if turn >= 4 else turned
    return out
