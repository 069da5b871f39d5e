"""Bags as tensors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mil.data import BagDataset, Item, PixelReader, collate, loader, random_symmetry, read_feature_tensor
from tests.tiling.test_bag import make_bag
from tiling import merge
from tiling.bag import merged_ref, read_bag, write_bag, write_merged
from tiling.bags import open_bags
from tiling.errors import BagError
from tiling.features import write_features


def test_dataset_gives_the_tiles_best_first(bags: Path) -> None:
    path = bags / "s01.h5"
    item = BagDataset([path], np.array([1]), PixelReader(32))[0]
    assert (item.instances_N.dtype, item.instances_N.shape, item.target) == (torch.uint8, (6, 3, 32, 32), 1)
    np.testing.assert_array_equal(item.instances_N[2].permute(1, 2, 0).numpy(), read_bag(path).tile(2))
    assert item.metadata_F.shape == (0,)
    assert PixelReader(20)(path).shape == (6, 3, 20, 20)


def test_dataset_of_features(tmp_path: Path) -> None:
    features = np.arange(6, dtype=np.float16).reshape(3, 2)
    write_features(tmp_path / "a.h5", features)
    metadata = np.array([[7, 8]], np.float32)
    item = BagDataset([tmp_path / "a.h5"], np.array([[1, np.nan]]), read_feature_tensor, metadata)[0]
    assert item.instances_N.dtype == torch.float32
    assert item.instances_N.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert item.target[0] == 1
    assert item.target[1].isnan()
    assert item.metadata_F.tolist() == [7, 8]


def test_dataset_reads_the_small_copies_alone(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_a_merged_file(bags: Path, tmp_path: Path, context: str) -> None:
    assert merge.main([str(bags), "--out", str(tmp_path / "all.h5")]) == 0
    batches = []
    for path in (bags, tmp_path / "all.h5"):
        refs = list(open_bags(path).refs.values())
        items = loader(BagDataset(refs, np.zeros(12, int), PixelReader(32)), 5, workers=2)
        items.multiprocessing_context = context
        batches.append(list(items))
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(*parts) for parts in zip(one, other, strict=True))


def test_collate_stacks_and_says_whose_they_are() -> None:
    items = [
        Item(torch.full((n, 3, 2, 2), n, dtype=torch.uint8), torch.tensor(n % 2), torch.tensor([0.5 * n]), place)
        for place, n in enumerate((1, 3))
    ]
    batch = collate(items)
    assert batch.instances_M.shape == (4, 3, 2, 2)
    assert batch.instances_M[:, 0, 0, 0].tolist() == [1, 3, 3, 3]
    assert batch.mask_BN.tolist() == [[True, False, False], [True, True, True]]
    assert (batch.target_B.tolist(), batch.index_B.tolist()) == ([1, 1], [0, 1])
    assert batch.metadata_BF.tolist() == [[0.5], [1.5]]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_order_follows_the_seed(bags: Path, workers: int) -> None:
    paths = sorted(bags.glob("*.h5"))
    dataset = BagDataset(paths, np.zeros(len(paths), int), PixelReader(8))
    orders = [
        torch.cat([batch.index_B for batch in loader(dataset, 5, workers, shuffle=True, seed=seed)]).tolist()
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(12))


@pytest.mark.parametrize(
    ("bags", "size", "sizes"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (4, 3, [4]), (2, 8, [2])],
)
def test_no_bag_is_left_over_alone(bags: int, size: int, sizes: list[int]) -> None:
    dataset = BagDataset([Path(str(n)) for n in range(bags)], np.zeros(bags, int), lambda _: torch.zeros(1, 2))
    for shuffle in (True, False):
        batches = loader(dataset, size, 0, shuffle)
        assert len(batches) == len(sizes)
        found = [batch.index_B.tolist() for batch in batches]
        assert [len(places) for places in found] == sizes
        assert sorted(place for places in found for place in places) == list(range(bags))


def test_symmetries_are_the_eight_of_the_square() -> None:
    torch.manual_seed(0)
    tile = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3).expand(400, 3, 3, 3)
    turned = random_symmetry(tile)
    assert turned.shape == tile.shape
    found = {tuple(each.flatten().tolist()) for each in turned[:, 0]}
    square = np.arange(9).reshape(3, 3)
    expected = {tuple(np.rot90(each, k).ravel().tolist()) for each in (square, square[:, ::-1]) for k in range(4)}
    assert found == expected
    assert (turned[:, 0] == turned[:, 2]).all()  # all channels of a tile turn together
