"""Bags as tensors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mil.data import BagDataset, Kept, PixelReader, read_feature_tensor
from tests.tiling.test_bag import make_bag
from tiling.bag import merged_ref, read_bag, write_bag, write_merged
from tiling.errors import BagError
from tiling.features import write_features


def test_tiles_come_best_first(bags: Path) -> None:
    path = bags / "s01.h5"
    tiles = PixelReader(32)(path)
    assert (tiles.dtype, tiles.shape, tiles.is_contiguous()) == (torch.uint8, (6, 3, 32, 32), True)
    for index in range(6):
        np.testing.assert_array_equal(tiles[index].permute(1, 2, 0).numpy(), read_bag(path).tile(index))
    assert PixelReader(20)(path).shape == (6, 3, 20, 20)


def test_features(tmp_path: Path) -> None:
    features = np.arange(6, dtype=np.float16).reshape(3, 2)
    write_features(tmp_path / "a.h5", features)
    for read in (read_feature_tensor, Kept(read_feature_tensor)):
        tensor = read(tmp_path / "a.h5")
        assert tensor.dtype == torch.float32
        assert tensor.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_kept_reads_once() -> None:
    read: list[Path] = []
    kept = Kept(lambda bag: torch.full((1,), len(read)) if read.append(bag) is None else torch.empty(0))
    assert [kept(Path(name)).item() for name in "abab"] == [1, 2, 1, 2]
    assert read == [Path("a"), Path("b")]


def test_small_copies_are_read_alone(tmp_path: Path) -> None:
    """Its tiles are spoilt, which only shows where they are needed."""
    bag = make_bag(codec="jpeg", train_px=8)
    write_bag(tmp_path / "a.h5", replace(bag, tiles=(b"spoilt",) * 3))
    write_merged(tmp_path / "all.h5", [("a", replace(bag, tiles=(b"spoilt",) * 3))], [])
    for path in (tmp_path / "a.h5", merged_ref(tmp_path / "all.h5", "a")):
        for px in (8, 5):
            tiles = PixelReader(px)(path).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(tiles, [bag.tile(index, px) for index in range(3)])
        with pytest.raises(BagError, match="tile 0 of bag 'slide é' cannot be decoded"):
            PixelReader(9)(path)


def test_a_batch_of_bags_of_other_lengths() -> None:
    dataset = BagDataset([], np.array([1, 0, 1]), PixelReader(8), np.array([[0.5], [1.5], [2.5]], np.float32))
    instances = torch.arange(4)
    batch = dataset.batch(np.array([2, 0]), [1, 3], instances)
    assert batch.instances_M is instances
    assert batch.mask_BN.tolist() == [[True, False, False], [True, True, True]]
    assert (batch.target_B.tolist(), batch.index_B.tolist()) == ([1, 1], [2, 0])
    assert batch.metadata_BF.tolist() == [[2.5], [0.5]]
