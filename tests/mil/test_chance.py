"""Seeds of different places are different, and the same each time."""

from itertools import product

import numpy as np
import torch

from mil.chance import seed_of


def test_each_place_has_its_own() -> None:
    places = [place for length in (1, 2, 3) for place in product(range(6), repeat=length)]
    # numpy fills up with zeros, so that a place and the same with zeros behind it are one.
    distinct = {tuple(np.trim_zeros(place, "b")) for place in places}
    assert len({seed_of(*place) for place in places}) == len(distinct)


def test_it_is_always_the_same_and_torch_takes_it() -> None:
    assert seed_of(2**32 - 1, 4) == seed_of(2**32 - 1, 4) < 2**63
    torch.manual_seed(seed_of(2**32 - 1, 4))
