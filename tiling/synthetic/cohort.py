"""Slides with known lesions: H&E-like pyramids and the truth about them, for the demo, tests and benchmarks."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from tiling.errors import InputError
from tiling.output import write_table
from tiling.progress import progress
from tiling.slide import write_pyramid
from tiling.synthetic.artefacts import ARTEFACTS
from tiling.synthetic.fields import Ellipse
from tiling.synthetic.histology import DEFAULT_SIZE_PX, LOOKS, draw_slide

_LEAST_SIDE_PX = 512  # smaller slides have no room for a lesion
_SHARE_SAMPLES = 16  # points along a tile's side at which its lesion share is sampled
_FAULTS_FROM = 12  # a smaller cohort would lose too much of itself to faulty slides
KINDS = ("crowded", "pale")  # of lesions
_KEPT_BYTES = 0.6  # share of the truncated file that is left


@dataclass(frozen=True)
class Lesion:
    """One lesion of a slide: the level-0 bounding box of the axis-aligned ellipse that it fills."""

    slide_id: str
    x0: int
    y0: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class SlidePlan:
    """All that decides one slide's bytes, and its row in the table of labels."""

    slide_id: str = "slide"
    label: int = 0  # 1: has lesions
    patient_id: str = "patient"
    seed: tuple[int, ...] = (0,)
    size_px: tuple[int, int] = DEFAULT_SIZE_PX
    look: str = "pale"
    artefacts: tuple[str, ...] = ()
    tissue: bool = True
    mpp: float | None = 1.0
    truncated: bool = False
    lesions: str = "crowded"


# ---- the truth -------------------------------------------------------------------------------------------------------


def lesion_share(lesions: Sequence[Lesion], x0: np.ndarray, y0: np.ndarray, side_px: float) -> np.ndarray:
    """Share (N,) of each tile's area that lesions cover, from 16 × 16 points of the tile.

    `x0, y0` (N,) are the level-0 corners of tiles of `side_px` level-0 pixels.
    """
    step = (np.arange(_SHARE_SAMPLES) + 0.5) / _SHARE_SAMPLES * side_px
    x = np.asarray(x0)[:, None, None] + step
    y = np.asarray(y0)[:, None, None] + step[:, None]
    covered = np.zeros((len(x), _SHARE_SAMPLES, _SHARE_SAMPLES), bool)
    for lesion in lesions:
        covered |= Ellipse(*astuple(lesion)[1:]).reach(x, y) <= 1
    return covered.mean(axis=(1, 2))


def read_lesions(path: Path) -> dict[str, list[Lesion]]:
    """The lesions of each slide that has any, from a `lesions.csv`."""
    columns = [field.name for field in fields(Lesion)]
    lesions: dict[str, list[Lesion]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                slide_id, *box = (row[column] for column in columns)
                lesions.setdefault(slide_id, []).append(Lesion(slide_id, *map(int, box)))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} is no table of lesions ({error}); it needs the columns {', '.join(columns)}"
        ) from error
    return lesions


# ---- a cohort --------------------------------------------------------------------------------------------------------

# Dealt out in turn to the slides of each label, as the looks are, so that neither tells the label. Eleven sets and
# five looks fall out of step.
_ARTEFACT_SETS: tuple[tuple[str, ...], ...] = (
    (), ("pen_green",), ("border",), (), ("fold",), ("dust", "bubble"), ("pen_blue",), (), ("blur",),
    ("pen_black", "dust"), ("pen_red", "border"),
)  # fmt: skip


def make_cohort(
    out: Path,
    slides: int = 36,
    seed: int = 0,
    prefix: str = "slide",
    workers: int = 2,
    size_px: tuple[int, int] = DEFAULT_SIZE_PX,
    faults: bool = True,
    lesions: str = "crowded",
) -> None:
    """Write `slides/<prefix>_000.tiff …`, `labels.csv` and `lesions.csv` into a new or empty folder."""
    plans = plan_cohort(slides, seed, prefix, size_px, faults, lesions)
    if workers < 1:
        raise InputError(f"workers is {workers}; give at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists and is not an empty folder; choose another or delete it first")
    folder = out / "slides"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make {str(folder)!r} ({error.strerror}); choose another folder") from error
    found: list[Lesion] = []
    with progress(len(plans), "slide", "drawing") as bar:
        for of_slide in _in_processes(partial(write_slide, folder=folder), plans, workers):
            found += of_slide
            bar.update()
    write_table(out / "lesions.csv", [f.name for f in fields(Lesion)], map(astuple, found))
    rows = ((plan.slide_id, plan.label, plan.patient_id) for plan in plans)
    write_table(out / "labels.csv", ["slide_id", "label", "patient_id"], rows)


def plan_cohort(
    slides: int,
    seed: int = 0,
    prefix: str = "slide",
    size_px: tuple[int, int] = DEFAULT_SIZE_PX,
    faults: bool = True,
    lesions: str = "crowded",
) -> list[SlidePlan]:
    """The plans of a cohort: labels balanced, all slides of a patient of one label, every look in both labels.

    With `faults` one slide of twelve or more is truncated (label 1), one empty (label 0), one without mpp.
    """
    if slides < 2 or seed < 0 or not prefix or Path(prefix).name != prefix:
        raise InputError(
            f"slides {slides}, seed {seed}, prefix {prefix!r}: give at least 2 slides, a seed of 0 or more "
            "and a prefix that can begin a file name"
        )
    rng = np.random.default_rng([seed, slides])
    turns = {label: zip(cycle(LOOKS), cycle(_ARTEFACT_SETS), strict=True) for label in (0, 1)}
    plans = [
        SlidePlan(
            slide_id=f"{prefix}_{index:03d}",
            label=label,
            patient_id=f"{prefix}_patient_{patient:03d}",
            seed=(seed, index),
            size_px=size_px,
            look=look,
            artefacts=artefacts,
            lesions=lesions,
        )
        for index, (label, patient) in enumerate(_labels_and_patients(slides, rng))
        for look, artefacts in [next(turns[label])]
    ]
    _check(plans[0])
    return _with_faults(plans, rng) if faults and slides >= _FAULTS_FROM else plans


def _labels_and_patients(slides: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """The label and the patient's number of each slide; a patient has one to three slides."""
    patients = []
    for label, left in ((0, slides - slides // 2), (1, slides // 2)):
        while left:
            size = min(left, int(rng.integers(1, 4)))
            patients.append((label, size))
            left -= size
    for number, index in enumerate(rng.permutation(len(patients))):
        label, size = patients[index]
        yield from [(label, number)] * size


def _with_faults(plans: list[SlidePlan], rng: np.random.Generator) -> list[SlidePlan]:
    benign, malignant = ([i for i, plan in enumerate(plans) if plan.label == label] for label in (0, 1))
    empty, no_mpp = rng.choice(benign, 2, replace=False)
    truncated = rng.choice(malignant)
    out = list(plans)
    out[empty] = replace(plans[empty], tissue=False, artefacts=("dust",))
    out[no_mpp] = replace(plans[no_mpp], mpp=None)
    out[truncated] = replace(plans[truncated], truncated=True)
    return out


def write_slide(plan: SlidePlan, folder: Path) -> list[Lesion]:
    """Draw the planned slide into `folder/<slide_id>.tiff`; the lesions that it has."""
    rgb, lesions = make_slide(plan)
    path = folder / f"{plan.slide_id}.tiff"
    write_pyramid(path, rgb, plan.mpp)
    if plan.truncated:
        os.truncate(path, int(path.stat().st_size * _KEPT_BYTES))
    return lesions


def _in_processes(
    write: Callable[[SlidePlan], list[Lesion]], plans: Sequence[SlidePlan], workers: int
) -> Iterator[list[Lesion]]:
    """What `write` returns for each plan, in order."""
    if workers == 1:
        yield from map(write, plans)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(write, plans)


# ---- a slide ---------------------------------------------------------------------------------------------------------


def make_slide(plan: SlidePlan) -> tuple[np.ndarray, list[Lesion]]:
    """RGB uint8 (height, width, 3) of the planned slide, and its lesions."""
    _check(plan)
    rng = np.random.default_rng(plan.seed)
    rgb, ellipses = draw_slide(
        plan.size_px, LOOKS[plan.look], plan.tissue, plan.label == 1, rng, plan.lesions == "pale"
    )
    for name in plan.artefacts:
        ARTEFACTS[name](rgb, rng)
    return rgb, [Lesion(plan.slide_id, *ellipse) for ellipse in ellipses]


def _check(plan: SlidePlan) -> None:
    if plan.lesions not in KINDS:
        raise InputError(f"unknown kind of lesions {plan.lesions!r}; choose from {', '.join(KINDS)}")
    for name, known in [(plan.look, LOOKS), *((artefact, ARTEFACTS) for artefact in plan.artefacts)]:
        if name not in known:
            raise InputError(f"unknown look or artefact {name!r}; choose from {', '.join(known)}")
    if min(plan.size_px) < _LEAST_SIDE_PX:
        raise InputError(f"slides of {plan.size_px} px are too small; give at least {_LEAST_SIDE_PX} px a side")
