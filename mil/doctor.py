"""What stands in the way of a training, found in seconds, before anything is trained.

Nothing is checked by other rules than those of the training itself: what it would raise, one thing at a time, is
gathered here, and what it would not mind but a user should know stands beside it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil.cache import AUTO, AUTO_MOST_PX, AUTO_SHARE, OWN_FOLDER, auto_folder
from mil.cohort import Cohort, match
from mil.folds import Split, make_folds, make_split
from mil.labels import Labels, read_labels
from mil.leaks import Shared, crossing, find_shared, in_words
from mil.memory import in_gb, settings_that_fit, step_memory
from mil.predict import pick_device
from mil.recipe import Recipe
from mil.report import Report, some
from mil.room import available_bytes
from mil.settings import DEFAULT_BACKBONE
from mil.task import ANY_OF
from mil.tracking import check_tracker
from mil.trial import describe, explained, seconds_per_instance, try_model
from mil.votes import refuse_known_patients, refuse_other_folds
from tiling.bag import NO_TILES, BagRef, read_bag
from tiling.errors import TilingError
from tiling.features import FEATURES, read_features
from tiling.overview import OVERVIEW_PX, OVERVIEWS
from tiling.progress import short

FEW_PATIENTS = 10  # of a class: an interval over them is hardly shorter than all there is
LOOKED_AT = 32  # tiles of a bag at most, as decoding takes milliseconds each
TIGHT = 0.85  # of the memory, above which what the estimate does not see may be too much


def examine(bags: Path, labels: Path, recipe: Recipe, processes: int = 1) -> Report:
    """What is right and wrong with bags, labels and settings of a training; nothing is trained, nothing is written."""
    report = Report()
    read = report.attempt(lambda: read_labels(labels, recipe.table))
    device = report.attempt(lambda: pick_device(recipe.train.device)) or torch.device("cpu")
    if read is None:
        return report
    report.lines += _labels(read)
    matched = report.attempt(lambda: match(read, bags, recipe.train.skip_missing, recipe.model.takes_overviews))
    if matched is None:
        return report
    report.problems += map(str, matched.problems)
    if (cohort := matched.cohort) is None:
        return report
    report.lines += _bags(cohort)
    broken = _broken(cohort, recipe.model.input_px)
    report.problems += broken
    splits = _splits(report, cohort, recipe)
    if not broken:
        _leaks(report, cohort, splits)
    _model(report, cohort, splits, recipe, device, processes)
    report.attempt(lambda: check_tracker(recipe.train.tracker))
    _cache(report, cohort, recipe)
    report.notes += _notes(cohort, splits, recipe)
    return report


def _labels(labels: Labels) -> Iterator[str]:
    yield f"labels   {len(labels)} slides of {labels.table['patient_id'].nunique()} patients"
    for name, slides, patients in zip(labels.strata, labels.strata.sum(), labels.patients, strict=True):
        yield f"         {short(name)}: {slides} slides of {patients} patients"
    if labels.soft is not None:
        counts = [len(labels.soft.of_fold(name)) for name in labels.soft.folds]
        in_folds = f"{min(counts)} to {max(counts)}" if len({*counts}) > 1 else f"{counts[0]}"
        yield f"         pseudo labels: of {len(labels.soft)} slides, {in_folds} in a fold"


def _bags(cohort: Cohort) -> Iterator[str]:
    spec, sizes = cohort.bag_spec, cohort.sizes
    features = spec.get(FEATURES)
    overviews = OVERVIEWS in spec
    kind = f"features ({features} of {spec.get('encoder') or 'an encoder unknown'})"
    kind = kind if features is not None else f"tiles of {spec.get('size')} px"
    kind = kind if not overviews else "overview of the slide"
    range_of = f"{min(sizes)} to {max(sizes)} (median {np.median(sizes):g})" if len({*sizes}) > 1 else f"{sizes[0]}"
    yield f"bags     {len(cohort.bags)}, each of {range_of} {kind}"
    if features is None and not overviews and max(sizes) > LOOKED_AT:
        yield f"         of larger ones up to {LOOKED_AT} tiles are decoded here, spread over all"
    if len(cohort.missing):
        yield f"         {len(cohort.missing)} labelled slides have none:"
        rows = zip(cohort.missing["slide_id"], cohort.missing["error"], strict=True)
        yield from (f"         {row}" for row in some([f"{short(slide_id)}: {error}" for slide_id, error in rows]))
    if cohort.unlabelled:
        named = ", ".join(some([*map(short, cohort.unlabelled)]))
        yield f"         {len(cohort.unlabelled)} bags have no label and are not used: {named}"


def _broken(cohort: Cohort, px: int) -> list[str]:
    """What is wrong with bags whose headers are right: all are read, and pictures of each decoded as training would."""
    look = _look_at_features if FEATURES in cohort.bag_spec else partial(_look_at_tiles, px)
    look = _look_at_overview if OVERVIEWS in cohort.bag_spec else look
    with ThreadPoolExecutor() as pool:
        return some([found for found in pool.map(look, cohort.bags) if found is not None])


def _look_at_features(ref: BagRef) -> str | None:
    return _said(lambda: read_features(ref))


def _look_at_overview(ref: BagRef) -> str | None:
    return _said(lambda: read_bag(ref, NO_TILES).overview_rgb())


def _look_at_tiles(px: int, ref: BagRef) -> str | None:
    def look() -> None:
        bag = read_bag(ref, px)
        for place in range(0, len(bag), -(-len(bag) // LOOKED_AT)):
            bag.tile(place, px)
        bag.overview_rgb()

    return _said(look)


def _said(work: Callable[[], object]) -> str | None:
    try:
        work()
    except TilingError as error:
        return str(error)
    return None


def _splits(report: Report, cohort: Cohort, recipe: Recipe) -> list[Split]:
    """The splits of those folds that can be trained, as a table in the report."""
    labels, spec = cohort.labels, recipe.train
    folds = report.attempt(lambda: make_folds(labels, spec.folds, spec.seed))
    if folds is None:
        return []
    report.attempt(lambda: refuse_known_patients(cohort))
    report.attempt(lambda: refuse_other_folds(cohort, folds))
    splits = []
    for fold in range(len(folds.names)):
        split = report.attempt(partial(make_split, labels, folds, fold, spec.valid_share, spec.seed))
        splits += [] if split is None else [split]
    report.lines.append("folds    slides (of patients) to train on, to stop on and to test, and what those tested are")
    columns = ["fold", "train", "valid", "test", *(short(name) for name in labels.strata)]
    table = pd.DataFrame([_sides(labels, split) for split in splits], columns=columns)
    report.lines += [f"         {line}" for line in table.to_string(index=False).splitlines() if splits]
    return splits


def _sides(labels: Labels, split: Split) -> list[object]:
    """A row of the table of folds."""
    patients, strata = labels.table["patient_id"], labels.strata.iloc[split.test].sum()
    sides = (f"{len(rows)} ({patients.iloc[rows].nunique()})" for rows in (split.train, split.valid, split.test))
    return [short(split.name), *sides, *strata]


def _leaks(report: Report, cohort: Cohort, splits: Sequence[Split]) -> None:
    shared = report.attempt(lambda: find_shared(cohort.bags))
    if shared is None or not splits:
        return
    leaks = crossing(shared, splits, len(cohort.bags))
    report.problems += some([in_words(cohort, [leak]) for leak in leaks])
    if not leaks:
        report.lines.append("leaks    none: no patient, overview or tile is on two sides of a split")
    report.notes += some([_twice(cohort, pair) for pair in shared if pair not in set(leaks)])


def _twice(cohort: Cohort, pair: Shared) -> str:
    first, second = (cohort.labels.slides.iloc[place] for place in pair[:2])
    of_both = max(pair[:2]) < len(cohort.labels)  # a pseudo label may be another in each fold
    labels = (
        ""
        if not of_both or first["label"] == second["label"]
        else f", and are labelled {first['label']} and {second['label']}"
    )
    return (
        f"the slides {first['slide_id']!r} and {second['slide_id']!r} have {pair.what}{labels}; they are always on one "
        "side, but count twice"
    )


def _model(
    report: Report, cohort: Cohort, splits: Sequence[Split], recipe: Recipe, device: torch.device, processes: int
) -> None:
    tried = report.attempt(lambda: try_model(cohort, recipe, device, processes))
    if tried is None:
        return
    net, weights = tried
    report.lines.append(f"model    {describe(net, recipe)}")
    if weights is not None:
        report.lines.append(f"         {weights}")
    with _explaining(report, cohort, recipe, device, processes):
        _memory(report, cohort, recipe, device, processes)
        if splits and report.healthy:
            _time(report, cohort, splits[0], seconds_per_instance(net, cohort, recipe, device))


@contextmanager
def _explaining(report: Report, cohort: Cohort, recipe: Recipe, device: torch.device, processes: int) -> Iterator[None]:
    """What PyTorch raises inside becomes a problem, in the words of a training."""
    try:
        yield
    except (ValueError, RuntimeError, MemoryError) as error:
        if (sentence := explained(error, cohort, recipe, device, processes)) is None:
            raise
        report.problems.append(sentence)


def _time(report: Report, cohort: Cohort, split: Split, each: float) -> None:
    seconds = sum(cohort.sizes[row] for row in split.train) * each
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    report.lines.append(f"time     about {took} for the steps of an epoch of {len(split.train)} slides, by a small one")


def _memory(report: Report, cohort: Cohort, recipe: Recipe, device: torch.device, processes: int) -> None:
    needs = report.attempt(lambda: step_memory(cohort, recipe, device, processes))
    if needs is None:
        return
    there, where = available_bytes(device), "GPU" if device.type == "cuda" else "machine"
    text = f"a step of {needs.bags} bags with {needs.instances} instances needs about {in_gb(needs.total)}"
    report.lines += [
        f"memory   {text}, {in_gb(there)} are free on this {where}",
        f"         weights {in_gb(needs.weights)}, optimiser {in_gb(needs.optimizer)}, instances "
        f"{in_gb(needs.inputs)}, activations and gradients {in_gb(needs.step)}",
    ]
    if needs.total > there:
        fitting = settings_that_fit(cohort, recipe, device, there, processes)
        would = ", or ".join(f"{flag} (about {in_gb(size.total)})" for flag, size in fitting)
        px_flag = "--overview-px" if recipe.model.takes_overviews else "--train-px"
        remedy = f"give {would}" if would else f"take a smaller {px_flag} or --backbone"
        report.problems.append(f"{text} of memory, and {in_gb(there)} are free on this {where}; {remedy}")
    elif needs.total > TIGHT * there:
        report.notes.append("memory is tight: kernels take some for themselves that the estimate does not see")


def _cache(report: Report, cohort: Cohort, recipe: Recipe) -> None:
    where, px = recipe.train.cache, recipe.model.train_px
    if where is None or FEATURES in cohort.bag_spec or OVERVIEWS in cohort.bag_spec:
        return
    if where == AUTO and px > AUTO_MOST_PX:
        report.lines.append(f"cache    none for tiles of {px} px, which are no faster from a disk than decoded")
        return
    size = sum(cohort.sizes) * 3 * px**2
    folder = auto_folder(cohort.bags[0]) if where == AUTO else Path(where) / OWN_FOLDER
    free = shutil.disk_usage(next(each for each in [folder, *folder.absolute().parents] if each.exists())).free
    report.lines.append(f"cache    {in_gb(size)} of tiles at {px} px, {in_gb(free)} are free")
    sentence = f"a cache of {in_gb(size)} does not fit into {str(folder)!r}, where {in_gb(free)} are free"
    if where == AUTO and size > AUTO_SHARE * free:
        most = f", of which it takes {AUTO_SHARE:.0%} at most unless it is asked for" if size <= free else ""
        report.notes.append(f"{sentence}{most}: there will be none, and every epoch decodes all tiles")
    elif size > free:
        report.problems.append(f"{sentence}; give --cache FOLDER on another disk, or --cache null for none")


def _notes(cohort: Cohort, splits: Sequence[Split], recipe: Recipe) -> Iterator[str]:
    labels, model, train = cohort.labels, recipe.model, recipe.train
    for name, patients in labels.patients.items():
        if patients < FEW_PATIENTS:
            yield f"{name!r} has {patients} patients: intervals will be wide, and folds will differ by chance"
    alone = [short(split.name) for split in splits if labels.at(split.test).strata.any().sum() < 2]
    if alone and labels.task.kind != ANY_OF:
        yield f"tested on one class alone, and so without an AUC of their own: the folds {', '.join(alone)}"
    if FEATURES in cohort.bag_spec:
        return
    size = cohort.bag_spec.get("size")
    overviews = OVERVIEWS in cohort.bag_spec
    if overviews and model.overview_px > OVERVIEW_PX:
        yield (
            f"overviews are stored with at most {OVERVIEW_PX} px and enlarged to {model.overview_px}, which shows "
            "nothing more; lower --overview-px"
        )
    if not overviews and size is not None and model.train_px > size:
        yield f"tiles of {size} px are enlarged to {model.train_px}, which shows nothing more; lower --train-px"
    if not model.pretrained and model.weights is None:
        yield f"{model.backbone or DEFAULT_BACKBONE} starts from random weights; --pretrained or --weights learn sooner"
    least = sum(sorted(cohort.sizes)[: train.batch_size])
    if not overviews and train.batch_norm == "train" and min(least, train.instance_chunk or least) < FEW_PATIENTS:
        yield "batch norms of the backbone, if it has any, would take means over few tiles; see --batch-norm frozen"
