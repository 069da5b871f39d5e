"""The slides of a training: labels matched with bags, and what does not match said aloud."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mil.errors import LabelsError
from mil.labels import Labels
from tiling.bag import SUFFIX, bag_path, read_header
from tiling.manifest import read_manifest


class Cohort(NamedTuple):
    """Labelled slides with a bag each, and the spec that all bags share.

    `missing` has the labelled slides without a bag and, in the column `error`, why; `unlabelled` names the bags
    without a label, which training does not use.
    """

    labels: Labels
    bags: list[Path]
    tile_spec: dict[str, Any]
    missing: pd.DataFrame
    unlabelled: list[str]


def gather(labels: Labels, folder: Path, skip_missing: bool) -> Cohort:
    """Match labels with the bags in a folder.

    Raises LabelsError where a labelled slide has no bag (unless `skip_missing`), a class is left without any, or
    bags were made with different settings; BagError where a bag is damaged.
    """
    if not folder.is_dir():
        raise LabelsError(f"no such folder of bags: {str(folder)!r}; make it with `python -m tiling SLIDES --out BAGS`")
    table = labels.table
    has_bag = np.array([bag_path(folder, slide_id).exists() for slide_id in table["slide_id"]])
    if not has_bag.any():
        raise LabelsError(
            f"no slide of the labels table has a bag in {str(folder)!r}; "
            "its slide_ids must be the names of the .h5 files there"
        )
    missing = _with_causes(table[~has_bag], folder)
    if len(missing) and not skip_missing:
        slide_id, cause = missing["slide_id"].iloc[0], missing["error"].iloc[0]
        raise LabelsError(
            f"{len(missing)} of the labelled slides have no bag in {str(folder)!r}, "
            f"the first is {slide_id!r} ({cause}); tile them, delete their rows, or give --skip-missing"
        )
    kept = table[has_bag].reset_index(drop=True)
    absent = set(labels.classes) - set(kept["label"])
    if absent:
        raise LabelsError(f"no slide with the label {min(absent)!r} has a bag in {str(folder)!r}; tile some")
    bags = [bag_path(folder, slide_id) for slide_id in kept["slide_id"]]
    known = set(table["slide_id"])
    unlabelled = sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if path.stem not in known)
    return Cohort(Labels(kept, labels.classes), bags, _common_spec(bags), missing, unlabelled)


def _with_causes(slides: pd.DataFrame, folder: Path) -> pd.DataFrame:
    manifest = read_manifest(folder)
    causes = [
        (manifest[slide_id].error or "its bag is gone") if slide_id in manifest else "it was never tiled"
        for slide_id in slides["slide_id"]
    ]
    return slides.assign(error=causes)


def _common_spec(bags: list[Path]) -> dict[str, Any]:
    first = read_header(bags[0]).spec
    for path in bags[1:]:
        spec = read_header(path).spec
        differing = sorted(name for name in {*first, *spec} if first.get(name) != spec.get(name))
        if differing:
            raise LabelsError(
                f"the bags {bags[0].name!r} and {path.name!r} in {str(path.parent)!r} were made with different "
                f"{', '.join(differing)}; tile all slides of a training alike"
            )
    return first
