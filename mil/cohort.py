"""The slides of a training: labels matched with bags, and what does not match said aloud."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mil.errors import LabelsError, MilError
from mil.labels import Labels
from tiling.bag import BagRef, differing, read_header
from tiling.bags import Bags, open_bags
from tiling.errors import TilingError
from tiling.features import is_features, read_feature_header
from tiling.overview import OVERVIEW_SETTINGS, OVERVIEWS


class Cohort(NamedTuple):
    """Labelled slides with a bag each, how many instances it holds, and what all bags are `made` with.

    Behind the `bags` and `sizes` of the labelled slides are those of the slides with pseudo labels, `labels.soft`.
    The spec of bags of features says how many: `features`. Where overviews are looked at, and not tiles, each bag holds
    one, and the spec says so: `overviews`, beside the settings that make one of a slide. `missing` has the labelled
    slides without a bag and, in the column `error`, why; `unlabelled` names the bags without a label, which training
    does not use. `votes` says, for each labelled slide, which fold of a ChipNet run picked its tiles, or "all", or None
    for none.
    """

    labels: Labels
    bags: list[BagRef]
    sizes: list[int]
    bag_spec: dict[str, Any]
    missing: pd.DataFrame
    unlabelled: list[str]
    votes: Sequence[str | None] = ()


class Matched(NamedTuple):
    """The slides that can be trained on, None where there are none, and all that is wrong with the others."""

    cohort: Cohort | None
    problems: list[MilError | TilingError]


def gather(labels: Labels, path: Path, skip_missing: bool, overviews: bool = False) -> Cohort:
    """Match labels with the bags in a folder or merged file, for their tiles or features, or for their `overviews`.

    Raises LabelsError where a labelled slide has no bag (unless `skip_missing`), a class is left without any, or bags
    were made with different settings, on which overviews do not depend; InputError where there are no bags; BagError
    where a bag is damaged.
    """
    cohort, problems = match(labels, path, skip_missing, overviews)
    if problems:
        raise problems[0]
    assert cohort is not None
    return cohort


def match(labels: Labels, path: Path, skip_missing: bool, overviews: bool = False) -> Matched:
    """As `gather`, but what is wrong with the slides is given, all of it, and not raised; the cohort is without them.

    Raises what leaves nothing to look at: InputError where there are no bags, BagError for a file that is none.
    """
    bags = open_bags(path)
    table = labels.table
    has_bag = np.array([slide_id in bags.refs for slide_id in table["slide_id"]])
    if not has_bag.any():
        sentence = (
            f"no slide of the labels table has a bag in {str(path)!r}; "
            f"its slide_ids must be the names of the bags there{_for_example(bags)}"
        )
        return Matched(None, [LabelsError(sentence)])
    problems: list[MilError | TilingError] = []
    missing = table[~has_bag].assign(error=[bags.why_missing(each) for each in table["slide_id"][~has_bag]])
    if len(missing) and not skip_missing:
        slide_id, cause = missing["slide_id"].iloc[0], missing["error"].iloc[0]
        sentence = (
            f"{len(missing)} of the labelled slides have no bag in {str(path)!r}, "
            f"the first is {slide_id!r} ({cause}); tile them, delete their rows, or give --skip-missing"
        )
        problems.append(LabelsError(sentence))
    chosen = _with_bags(labels, bags, skip_missing, problems).at(has_bag)
    if absent := chosen.absent:
        problems.append(LabelsError(f"no slide with the label {absent!r} has a bag in {str(path)!r}; tile some"))
    headers, wrong = _headers([bags.refs[slide_id] for slide_id in chosen.slides["slide_id"]], overviews)
    problems += wrong
    if not headers:
        return Matched(None, problems)
    unlabelled = sorted(bags.refs.keys() - set(labels.slides["slide_id"]))
    first = next(iter(headers.values()))
    found, places = [*headers.values()], np.array([*headers])
    refs, sizes = [each.ref for each in found], [each.size for each in found]
    labelled = places < len(chosen)
    votes = [each.vote for each, is_labelled in zip(found, labelled, strict=True) if is_labelled]
    problems += _picked(found[len(votes) :])
    soft = None if chosen.soft is None else chosen.soft.at(places[~labelled] - len(chosen))
    chosen = replace(chosen.at(places[labelled]), soft=soft)
    return Matched(Cohort(chosen, refs, sizes, first.spec, missing, unlabelled, votes), problems)


def _with_bags(
    labels: Labels, bags: Bags, skip_missing: bool, problems: list[MilError | TilingError]
) -> Labels:  # fmt: skip
    """The labels without the pseudo labels of slides that have no bag, which are a problem unless they are skipped."""
    if labels.soft is None:
        return labels
    slides = labels.soft.table["slide_id"]
    has_bag = np.array([slide_id in bags.refs for slide_id in slides])
    if not has_bag.all() and not skip_missing:
        slide_id = slides[~has_bag].iloc[0]
        sentence = (
            f"{(~has_bag).sum()} of the slides with pseudo labels have no bag in {str(bags.path)!r}, the first is "
            f"{slide_id!r} ({bags.why_missing(slide_id)}); give a folder that has their bags beside those of the "
            "labelled slides, or --skip-missing"
        )
        problems.append(LabelsError(sentence))
    return replace(labels, soft=labels.soft.at(np.flatnonzero(has_bag)))


def _picked(soft: Sequence["_Header"]) -> list[MilError | TilingError]:
    """What is wrong where a ChipNet picked the tiles of slides with pseudo labels."""
    picked = [each.ref for each in soft if each.vote is not None]
    return [
        LabelsError(
            f"the tiles of {ref} were picked by a ChipNet that learned from slides that are tested, and its slide has "
            "a pseudo label; leave such slides out, or choose all tiles otherwise"
        )
        for ref in picked[:1]
    ]


def _for_example(bags: Bags) -> str:
    return f", such as {min(bags.refs)!r}" if bags.refs else ""


class _Header(NamedTuple):
    """What is asked of a bag: where it is, how many instances it holds, how it was made, and who picked them."""

    ref: BagRef
    size: int
    spec: dict[str, Any]
    vote: str | None = None


def _headers(refs: list[BagRef], overviews: bool) -> tuple[dict[int, _Header], list[MilError | TilingError]]:
    """The headers of the bags that are alike, by their places, and an error for each of the others or their kind."""
    headers: dict[int, _Header] = {}
    problems: list[MilError | TilingError] = []
    read, kinds = None, set()
    for place, ref in enumerate(refs):
        try:
            read = read or _reader_of(ref, overviews)
            header = read(ref)
        except TilingError as error:
            problems.append(error)
            continue
        first = next(iter(headers.values()), header)
        if overviews or not (names := tuple(differing(first.spec, header.spec))):
            headers[place] = header
        elif names not in kinds:
            kinds.add(names)
            sentence = f"the bags {first.ref} and {ref} were made with different {', '.join(names)}"
            problems.append(LabelsError(f"{sentence}; make the bags of a training alike"))
    return headers, problems


def _reader_of(ref: BagRef, overviews: bool) -> Callable[[BagRef], _Header]:
    if is_features(ref):
        return _no_overview if overviews else _feature_header
    return _overview_header if overviews else _tile_header


def _overview_header(bag: BagRef) -> _Header:
    spec = read_header(bag).spec
    return _Header(bag, 1, {OVERVIEWS: True, **{name: spec[name] for name in OVERVIEW_SETTINGS if name in spec}})


def _no_overview(bag: BagRef) -> _Header:
    raise LabelsError(f"{bag} holds features, and --arch chipnet looks at overviews; give a folder of bags")


def _tile_header(bag: BagRef) -> _Header:
    header = read_header(bag)
    return _Header(bag, header.tiles, header.made, None if header.picked is None else header.picked.folds)


def _feature_header(bag: BagRef) -> _Header:
    header = read_feature_header(bag)
    return _Header(bag, header.instances, header.spec)
