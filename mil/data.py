"""Bags as tensors: dataset, collation with a mask, augmentation on whole batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tiling.bag import Bag, BagRef, read_bag


class Item(NamedTuple):
    """One bag: tiles uint8 (N, 3, px, px), its target, and its place in the dataset."""

    tiles_NCHW: Tensor
    target: int
    place: int


class Batch(NamedTuple):
    """Bags padded to the longest: uint8 (B, N, 3, px, px), bool (B, N) with True = real, int64 (B,) twice."""

    tiles_BNCHW: Tensor
    mask_BN: Tensor
    target_B: Tensor
    index_B: Tensor


class BagDataset(Dataset[Item]):
    """Bags as tensors at training size, decoded when asked for."""

    def __init__(self, bags: Sequence[BagRef | Path], targets: Sequence[int], px: int) -> None:
        self.bags, self.targets, self.px = list(bags), list(targets), px

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> Item:
        return Item(bag_tensor(read_bag(self.bags[index], self.px), self.px), self.targets[index], index)


def bag_tensor(bag: Bag, px: int) -> Tensor:
    """The tiles of a bag, best first, as uint8 (N, 3, px, px)."""
    tiles = np.stack([bag.tile(index, px) for index in range(len(bag))])
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous()


def collate(items: Sequence[Item]) -> Batch:
    """One batch of bags of any lengths."""
    longest = max(len(item.tiles_NCHW) for item in items)
    tiles_BNCHW = torch.zeros((len(items), longest, *items[0].tiles_NCHW.shape[1:]), dtype=torch.uint8)
    mask_BN = torch.zeros((len(items), longest), dtype=torch.bool)
    for row, item in enumerate(items):
        tiles_BNCHW[row, : len(item.tiles_NCHW)] = item.tiles_NCHW
        mask_BN[row, : len(item.tiles_NCHW)] = True
    return Batch(
        tiles_BNCHW,
        mask_BN,
        torch.tensor([item.target for item in items]),
        torch.tensor([item.place for item in items]),
    )


def loader(
    dataset: BagDataset, batch_size: int, workers: int, shuffle: bool = False, seed: int = 0
) -> DataLoader[Batch]:
    """Batches of bags; the same seed gives the same order."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # collate turns items into batches
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=workers > 0,
    )


def random_symmetry(tiles_BNCHW: Tensor) -> Tensor:
    """Each tile turned by one of the eight symmetries of the square, drawn for it alone; tiles must be square."""
    flat = tiles_BNCHW.flatten(0, 1)
    symmetry = torch.randint(8, (len(flat),), device="cpu").to(flat.device)
    out = torch.empty_like(flat)
    for turn in range(8):
        chosen = symmetry == turn
        turned = torch.rot90(flat[chosen], turn % 4, (2, 3))
        out[chosen] = turned.flip(3) if turn >= 4 else turned
    return out.view_as(tiles_BNCHW)
