"""Leaks: a patient, an overview or a tile on two sides of a split.

A slide that is in a cohort twice, under two names and maybe two patients, is trained on and tested on. Its bags show
it: they hold the same bytes. What says nothing of where it comes from is no leak: a constant tile, a vector of zeros.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mil.cohort import Cohort
from mil.errors import LabelsError
from mil.folds import Split
from tiling.bag import Bag, BagRef, read_bag
from tiling.features import is_features, read_features
from tiling.progress import progress

ANY_PX = 1  # tiles of a pixel are made from the small copies where there are any, so that only those are read
_BLOCK_PX, _FLAT, _FLAT_SHARE = 8, 3, 0.95
_WITH_A_BAR = 200  # bags, which take a second or two
_MOST_APART = 16
_Pair = tuple[int, int]


class Prints(NamedTuple):
    """What tells a bag's content: a digest of its overview, None of features, and of each instance, uint64 (N,).

    `codec` is that of the bytes the digests are of, empty for those of pixels and of features.
    """

    overview: int | None
    instances_N: np.ndarray
    codec: str


class Shared(NamedTuple):
    """Two slides, by their places in the cohort, and what they have in common, such as `the same overview`."""

    first: int
    second: int
    what: str


def refuse_leaks(cohort: Cohort, splits: Sequence[Split]) -> None:
    """Raise LabelsError, naming two slides, where a patient, an overview or a tile is on two sides of a split.

    Reads all bags, once. BagError where one is damaged.
    """
    refuse_split_patients(cohort, splits)
    if leaks := crossing(find_shared(cohort.bags), splits, len(cohort.bags)):
        raise LabelsError(in_words(cohort, leaks))


def refuse_split_patients(cohort: Cohort, splits: Sequence[Split]) -> None:
    """Raise LabelsError, naming two slides, where a patient is on two sides of a split."""
    table = cohort.labels.slides
    sides = _sides(splits, len(table))
    first_of: dict[str, int] = {}
    for place, (slide_id, patient) in enumerate(zip(table["slide_id"], table["patient_id"], strict=True)):
        first = first_of.setdefault(patient, place)
        differs = np.flatnonzero(_apart(sides[first], sides[place]))
        if len(differs):
            raise LabelsError(
                f"the slides {table['slide_id'].iloc[first]!r} and {slide_id!r} of the patient {patient!r} are on two "
                f"sides of the split of fold {splits[differs[0]].name}; put all slides of a patient into one fold"
            )


def crossing(shared: Iterable[Shared], splits: Sequence[Split], slides: int) -> list[Shared]:
    """Those of the pairs, among so many slides, that some split has on two sides."""
    sides = _sides(splits, slides)
    return [pair for pair in shared if _apart(sides[pair.first], sides[pair.second]).any()]


def in_words(cohort: Cohort, pairs: Sequence[Shared]) -> str:
    """One sentence on pairs that leak: the first of them, what to do, and how many there are."""
    table = cohort.labels.slides
    (first, second), what = (table.iloc[place] for place in pairs[0][:2]), pairs[0].what
    more = f" ({len(pairs) - 1} more pairs of slides are alike)" if len(pairs) > 1 else ""
    move = f"and the same {cohort.labels.fold_from} " if "fold" in table else ""
    return (
        f"the slides {first['slide_id']!r} and {second['slide_id']!r} of the patients {first['patient_id']!r} and "
        f"{second['patient_id']!r} have {what}, and would be learned from and tested on; give both the same patient_id "
        f"{move}in the labels table, or delete the row of one{more}"
    )


def find_shared(bags: Sequence[BagRef]) -> list[Shared]:
    """Pairs of bags that share an overview or a tile, or features; of three alike, the first with each other.

    Bags of features share what nobody can look at: a vector that a bag has twice, or whose values are all the same,
    counts for nothing, and of others there must be two, or all that one of the bags has.
    """
    prints = read_prints(bags)
    instances = [each.instances_N for each in prints]
    if all(each.overview is None for each in prints):
        return [Shared(*pair, what) for pair, what in sorted(_same_vectors(instances).items())]
    last_bag = lru_cache(maxsize=1)(read_bag)

    def overview_of(place: int, digest: int) -> np.ndarray:
        return last_bag(bags[place], ANY_PX).overview_rgb()

    def tile_of(place: int, digest: int) -> np.ndarray:
        return _picture(last_bag(bags[place], ANY_PX), int(np.flatnonzero(instances[place] == digest)[0]))

    whole = _telling(_alike([np.array([each.overview], np.uint64) for each in prints]), overview_of)
    parts = {pair: digests for pair, digests in _alike(instances).items() if pair not in whole}
    found = dict.fromkeys(whole, "the same overview")
    for pair, count in _telling(parts, tile_of).items():
        found[pair] = f"{count} tiles in common" if count > 1 else "a tile in common"
    return [Shared(*pair, what) for pair, what in sorted(found.items())]


def read_prints(bags: Sequence[BagRef]) -> list[Prints]:
    """The digests of all bags, by their bytes; by their pixels where bags of several codecs are together."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        if is_features(bags[0]):
            return _watched(pool.map(_feature_prints, bags), len(bags))
        prints = _watched(pool.map(_tile_prints, bags), len(bags))
        if len({each.codec for each in prints}) > 1:
            prints = _watched(pool.map(_pixel_prints, bags), len(bags))
        return prints


def _watched(prints: Iterable[Prints], count: int) -> list[Prints]:
    if count < _WITH_A_BAR:
        return list(prints)
    found = []
    with progress(count, "bag", "same tiles") as bar:
        for each in prints:
            found.append(each)
            bar.update()
    return found


def _tile_prints(ref: BagRef) -> Prints:
    bag = read_bag(ref, ANY_PX)
    pictures = bag.tiles if bag.small is None else bag.small
    assert pictures is not None
    return Prints(_digest(bag.overview), np.array([*map(_digest, pictures)], np.uint64), bag.header.codec)


def _pixel_prints(ref: BagRef) -> Prints:
    bag = read_bag(ref, ANY_PX)
    digests = [_digest(_picture(bag, place).tobytes()) for place in range(len(bag))]
    return Prints(_digest(bag.overview), np.array(digests, np.uint64), "")


def _feature_prints(ref: BagRef) -> Prints:
    features_NC = read_features(ref).features_NC
    varied = features_NC[(features_NC != features_NC[:, :1]).any(axis=1)]
    return Prints(None, np.array([_digest(row.tobytes()) for row in varied], np.uint64), "")


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _alike(digests: Sequence[np.ndarray]) -> dict[_Pair, list[int]]:
    """Pairs of bags with digests in common, and which: the first bag that has a digest with each other."""
    every, owners = _sorted(digests)
    bounds = np.flatnonzero(np.r_[True, every[1:] != every[:-1], True])
    runs = np.flatnonzero(np.diff(bounds) > 1)  # of equal digests
    pairs: dict[_Pair, list[int]] = {}
    for start, end in zip(bounds[runs], bounds[runs + 1], strict=True):
        first, *others = map(int, np.unique(owners[start:end]))
        for other in others:
            pairs.setdefault((first, other), []).append(int(every[start]))
    return pairs


def _sorted(digests: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All digests, equal ones beside each other, and the places of the bags they are of, in order among equal ones."""
    owners = np.repeat(np.arange(len(digests)), [len(each) for each in digests])
    every = np.concatenate(digests)
    order = np.lexsort((owners, every))
    return every[order], owners[order]


def _telling(alike: dict[_Pair, list[int]], picture_of: Callable[[int, int], np.ndarray]) -> dict[_Pair, int]:
    """Pairs that share a picture that says something, and how many; `picture_of` gives one by its bag and digest."""
    says: dict[int, bool] = {}
    counts = {}
    for pair, digests in sorted(alike.items()):
        for digest in digests:
            if digest not in says:
                says[digest] = _says_something(picture_of(pair[0], digest))
        counts[pair] = sum(says[digest] for digest in digests)
    return {pair: count for pair, count in counts.items() if count}


def _same_vectors(digests: Sequence[np.ndarray]) -> dict[_Pair, str]:
    own = [np.unique(each, return_counts=True) for each in digests]
    twice = np.concatenate([each[counts > 1] for each, counts in own])
    single = [np.setdiff1d(each, twice) for each, _ in own]
    alike = {
        pair: f"{count} vectors of features in common" if count > 1 else "their only vector in common"
        for pair, count in _counts_in_common(single).items()
        if count > 1 or count == min(len(single[place]) for place in pair)
    }
    before: dict[int, set[int]] = {}
    for first, second in alike:
        before.setdefault(second, set()).add(first)
    # Two bags that are both like an earlier one need not be named as a pair too.
    return {pair: what for pair, what in alike.items() if before.get(pair[0], set()).isdisjoint(before[pair[1]])}


def _counts_in_common(digests: Sequence[np.ndarray]) -> Counter[_Pair]:
    """How many digests pairs of bags have in common, each bag having a digest once.

    All pairs are counted, as two bags may share one digest with a third and another without it; of a digest that more
    than 17 bags have, each of them with the 16 behind it.
    """
    every, owners = _sorted(digests)
    found: Counter[_Pair] = Counter()
    for apart in range(1, _MOST_APART + 1):
        places = np.flatnonzero(every[apart:] == every[:-apart])
        if not len(places):
            break
        codes, counts = np.unique(owners[places] * len(digests) + owners[places + apart], return_counts=True)
        for code, count in zip(codes, counts, strict=True):
            found[divmod(int(code), len(digests))] += int(count)
    return found


def _says_something(rgb: np.ndarray) -> bool:
    """Whether a picture, uint8 (H, W, 3), tells one slide from another: it is not flat nearly everywhere.

    Flat are blocks of 8 px, those of JPEG, in which no colour changes by more than a trace. Of two flat halves only the
    blocks on their border are not.
    """
    side = min(_BLOCK_PX, *rgb.shape[:2])
    height, width = (length // side * side for length in rgb.shape[:2])
    blocks = rgb[:height, :width].reshape(height // side, side, width // side, side, 3)
    spread = blocks.max(axis=(1, 3)).astype(int) - blocks.min(axis=(1, 3))
    return bool((spread.max(axis=2) <= _FLAT).mean() < _FLAT_SHARE)


def _picture(bag: Bag, place: int) -> np.ndarray:
    return bag.tile(place, bag.header.train_px)


def _sides(splits: Sequence[Split], slides: int) -> np.ndarray:
    """Int8 (slides, splits): 1 for the slides a split trains on, 2 for those it stops on, 3 for those it tests, else 0.

    On no side of a split are slides with pseudo labels of which it may learn nothing.
    """
    sides = np.zeros((slides, len(splits)), np.int8)
    for column, split in enumerate(splits):
        for side, rows in ((1, split.train), (1, split.soft), (2, split.valid), (3, split.test)):
            sides[rows, column] = side
    return sides


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Bool (splits,): where two slides are on different sides."""
    return (first != second) & (first > 0) & (second > 0)
