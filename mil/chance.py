"""Seeds for what is drawn, each its own."""

import numpy as np


def seed_of(*place: int) -> int:
    """A seed below 2**63 for a place, such as a run's seed, fold, epoch and step; others have other ones.

    Sums would not do: fold 1 of seed 0 would begin as fold 0 of seed 1.
    """
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
