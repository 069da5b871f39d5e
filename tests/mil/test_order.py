"""The order of bags follows from seed and epoch, and no bag is left alone."""

import numpy as np
import pytest

from mil.order import Batches


@pytest.mark.parametrize(
    ("bags", "size", "sizes"),
    [
        (9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (4, 3, [4]), (2, 8, [2]),
        (0, 4, []),
    ],
)  # fmt: skip
def test_no_bag_is_left_over_alone(bags: int, size: int, sizes: list[int]) -> None:
    for shuffle in (True, False):
        batches = Batches(bags, size, 0, shuffle)
        found = [places.tolist() for places in batches.plan(0)]
        assert [len(places) for places in found] == sizes
        assert len(batches) == len(sizes)
        assert sorted(place for places in found for place in places) == list(range(bags))


def test_what_holds_for_any_numbers() -> None:
    for world in (1, 2, 3, 8):
        for size in (*range(world, world + 5), 32):
            for count in (*range(70), 1000):
                batches = Batches(count, size, 5, True, world=world)
                plan = batches.plan(3)
                lengths = [len(places) for places in plan]
                assert len(lengths) == len(batches) <= count
                assert sorted(np.concatenate([*plan, np.zeros(0, int)])) == list(range(count))
                least = min(size, max(2, world))
                assert all(length == size for length in lengths[:-1])
                assert all(length >= least for length in lengths) or len(lengths) == 1
                assert all(length < size + least for length in lengths)
                # Cut for the processes, each has a bag of each batch.
                assert count < world or all(len(places[rank::world]) for places in plan for rank in range(world))


def test_order_is_that_of_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, batches: Batches | None = None) -> list[int]:
        return np.concatenate((batches or Batches(50, 4, seed, True)).plan(epoch)).tolist()

    used = Batches(50, 4, 1, True)
    orders = [order(1, epoch, used) for epoch in range(3)]
    assert [order(1, epoch) for epoch in (2, 0, 1)] == [orders[2], orders[0], orders[1]]
    assert orders[0] != orders[1] != order(2, 1)
    assert order(0, 1) != order(1, 0)
    assert np.concatenate(Batches(50, 4, 1, False).plan(7)).tolist() == list(range(50))


def test_bags_are_drawn_by_their_weights() -> None:
    """Nine bags of one class and one of another, of weights that balance them, and a bag that has none."""
    weights = np.array([1.0] * 9 + [9.0, 0.0])
    batches = Batches(11, 4, 0, True, weights)
    counts = np.zeros(11)
    for epoch in range(2000):
        plan = batches.plan(epoch)
        assert [len(places) for places in plan] == [4, 4, 3]
        counts += np.bincount(np.concatenate(plan), minlength=11)
    share = counts / counts.sum()
    assert counts[10] == 0
    assert share[9] == pytest.approx(1 / 2, abs=0.012)  # 22000 draws: 3.5 deviations
    np.testing.assert_allclose(share[:9], 1 / 18, atol=0.006)
    assert [places.tolist() for places in Batches(11, 4, 0, True, 2 * weights).plan(5)] == [
        places.tolist() for places in batches.plan(5)
    ]
