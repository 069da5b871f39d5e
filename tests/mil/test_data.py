"""Bags as tensors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mil.data import BagDataset, Item, collate, loader, random_symmetry
from tests.tiling.test_bag import make_bag
from tiling import merge
from tiling.bag import merged_ref, read_bag, write_bag, write_merged
from tiling.bags import open_bags
from tiling.errors import BagError


def test_dataset_gives_the_tiles_best_first(bags: Path) -> None:
    path = bags / "s01.h5"
    item = BagDataset([path], [1], 32)[0]
    assert (item.tiles_NCHW.dtype, item.tiles_NCHW.shape, item.target) == (torch.uint8, (6, 3, 32, 32), 1)
    np.testing.assert_array_equal(item.tiles_NCHW[2].permute(1, 2, 0).numpy(), read_bag(path).tile(2))
    assert BagDataset([path], [1], 20)[0].tiles_NCHW.shape == (6, 3, 20, 20)


def test_dataset_reads_the_small_copies_alone(tmp_path: Path) -> None:
    """Its tiles are spoilt, which only shows where they are needed."""
    bag = make_bag(codec="jpeg", train_px=8)
    write_bag(tmp_path / "a.h5", replace(bag, tiles=(b"spoilt",) * 3))
    write_merged(tmp_path / "all.h5", [("a", replace(bag, tiles=(b"spoilt",) * 3))], [])
    for path in (tmp_path / "a.h5", merged_ref(tmp_path / "all.h5", "a")):
        for px in (8, 5):
            tiles = BagDataset([path], [0], px)[0].tiles_NCHW.permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(tiles, [bag.tile(index, px) for index in range(3)])
        with pytest.raises(BagError, match="tile 0 of bag 'slide é' cannot be decoded"):
            BagDataset([path], [0], 9)[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_a_merged_file(bags: Path, tmp_path: Path, context: str) -> None:
    assert merge.main([str(bags), "--out", str(tmp_path / "all.h5")]) == 0
    batches = []
    for path in (bags, tmp_path / "all.h5"):
        refs = list(open_bags(path).refs.values())
        items = loader(BagDataset(refs, [0] * 12, 32), 5, workers=2)
        items.multiprocessing_context = context
        batches.append(list(items))
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(*parts) for parts in zip(one, other, strict=True))


def test_collate_pads_to_the_longest() -> None:
    items = [Item(torch.full((n, 3, 2, 2), n, dtype=torch.uint8), n % 2, place) for place, n in enumerate((1, 3))]
    batch = collate(items)
    assert batch.tiles_BNCHW.shape == (2, 3, 3, 2, 2)
    assert batch.tiles_BNCHW[:, :, 0, 0, 0].tolist() == [[1, 0, 0], [3, 3, 3]]
    assert batch.mask_BN.tolist() == [[True, False, False], [True, True, True]]
    assert (batch.target_B.tolist(), batch.index_B.tolist()) == ([1, 1], [0, 1])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_order_follows_the_seed(bags: Path, workers: int) -> None:
    paths = sorted(bags.glob("*.h5"))
    dataset = BagDataset(paths, [0] * len(paths), 8)
    orders = [
        torch.cat([batch.index_B for batch in loader(dataset, 5, workers, shuffle=True, seed=seed)]).tolist()
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(12))


def test_symmetries_are_the_eight_of_the_square() -> None:
    torch.manual_seed(0)
    tile = torch.arange(9, dtype=torch.uint8).view(1, 1, 1, 3, 3).expand(1, 400, 3, 3, 3)
    turned = random_symmetry(tile)
    assert turned.shape == tile.shape
    found = {tuple(each.flatten().tolist()) for each in turned[0, :, 0]}
    square = np.arange(9).reshape(3, 3)
    expected = {tuple(np.rot90(each, k).ravel().tolist()) for each in (square, square[:, ::-1]) for k in range(4)}
    assert found == expected
    assert (turned[0, :, 0] == turned[0, :, 2]).all()  # all channels of a tile turn together
