"""The slides of a training: labels matched with bags, and what does not match said aloud."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mil.errors import LabelsError
from mil.labels import Labels
from tiling.bag import BagRef, differing, read_header
from tiling.bags import Bags, open_bags
from tiling.features import is_features, read_feature_header


class Cohort(NamedTuple):
    """Labelled slides with a bag each, how many instances it holds, and the spec that all bags share.

    The spec of bags of features says how many: `features`. `missing` has the labelled slides without a bag and, in the
    column `error`, why; `unlabelled` names the bags without a label, which training does not use.
    """

    labels: Labels
    bags: list[BagRef]
    sizes: list[int]
    bag_spec: dict[str, Any]
    missing: pd.DataFrame
    unlabelled: list[str]


def gather(labels: Labels, path: Path, skip_missing: bool) -> Cohort:
    """Match labels with the bags in a folder or merged file.

    Raises LabelsError where a labelled slide has no bag (unless `skip_missing`), a class is left without any, or
    bags were made with different settings; InputError where there are no bags; BagError where a bag is damaged.
    """
    bags = open_bags(path)
    table = labels.table
    has_bag = np.array([slide_id in bags.refs for slide_id in table["slide_id"]])
    if not has_bag.any():
        raise LabelsError(
            f"no slide of the labels table has a bag in {str(path)!r}; "
            f"its slide_ids must be the names of the bags there{_for_example(bags)}"
        )
    missing = table[~has_bag].assign(error=[bags.why_missing(each) for each in table["slide_id"][~has_bag]])
    if len(missing) and not skip_missing:
        slide_id, cause = missing["slide_id"].iloc[0], missing["error"].iloc[0]
        raise LabelsError(
            f"{len(missing)} of the labelled slides have no bag in {str(path)!r}, "
            f"the first is {slide_id!r} ({cause}); tile them, delete their rows, or give --skip-missing"
        )
    chosen = labels.at(has_bag)
    if absent := chosen.absent:
        raise LabelsError(f"no slide with the label {absent!r} has a bag in {str(path)!r}; tile some")
    refs = [bags.refs[slide_id] for slide_id in chosen.table["slide_id"]]
    unlabelled = sorted(bags.refs.keys() - set(table["slide_id"]))
    sizes, spec = _headers(refs)
    return Cohort(chosen, refs, sizes, spec, missing, unlabelled)


def _for_example(bags: Bags) -> str:
    return f", such as {min(bags.refs)!r}" if bags.refs else ""


def _headers(bags: list[BagRef]) -> tuple[list[int], dict[str, Any]]:
    """How many instances each bag holds, and the spec they share."""
    read = _feature_header if is_features(bags[0]) else _tile_header
    sizes, specs = zip(*map(read, bags), strict=True)
    for bag, spec in zip(bags[1:], specs[1:], strict=True):
        if names := differing(specs[0], spec):
            raise LabelsError(
                f"the bags {bags[0]} and {bag} were made with different {', '.join(names)}; "
                "make the bags of a training alike"
            )
    return list(sizes), specs[0]


def _tile_header(bag: BagRef) -> tuple[int, dict[str, Any]]:
    header = read_header(bag)
    return header.tiles, header.spec


def _feature_header(bag: BagRef) -> tuple[int, dict[str, Any]]:
    header = read_feature_header(bag)
    return header.instances, header.spec
