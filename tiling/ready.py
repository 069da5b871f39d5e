"""Slides and bags made ready for a network while it computes: tiled in processes, or read by threads, a few ahead."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tiling.bag import CHIPNET, NO_TILES, Bag, differing, read_bag
from tiling.bags import Bags
from tiling.batch import bag_of, glance_of
from tiling.errors import BagError, InputError, SlideError
from tiling.features import FEATURES, FeatureBag, read_features
from tiling.overview import OVERVIEWS
from tiling.picker import Chipnet
from tiling.pixels import square_1CHW, tiles_NCHW
from tiling.sources import SlideRef
from tiling.spec import TileSpec
from tiling.todo import Todo
from tiling.workers import attempt, run_slides

MOST_THREADS = 8  # that read bags: each holds one


class Wanted(NamedTuple):
    """What a network takes of each slide, and what else is done with it.

    `spec` is what the bags it was trained on were made with, `sides` are those of its pictures in pixels; of several
    networks there may be several. Where slides are `drawn` their bags keep the encoded tiles.
    """

    spec: dict[str, Any]
    sides: tuple[int, ...]
    drawn: bool = False


class Ready(NamedTuple):
    """A bag, and by their side its instances as a network takes them: uint8 (N, 3, px, px), or float32 (N, C) features.

    The bag is without its tiles where nobody will look at them. One without tissue has no instances.
    """

    bag: Bag | FeatureBag
    instances: dict[int, np.ndarray]


Stream = Generator[tuple[SlideRef, Ready | Exception], None, None]


def tiler(wanted: Wanted, chipnet: Chipnet | None, workers: int, time_limit_s: float) -> Callable[[Todo], Stream]:
    """What gives each slide, tiled in a worker process as the bags of the training were, or what went wrong.

    They come as they finish. A worker begins its next slide when it hands one over, and holds what it has made until it
    is asked for, so that there are never more bags in memory than workers. Raises InputError where this version cannot
    tile so.
    """
    try:
        spec = TileSpec(**{name: value for name, value in wanted.spec.items() if name not in (CHIPNET, OVERVIEWS)})
    except TypeError as error:
        raise InputError(f"the run was trained on tiles that this version cannot cut ({error}); give --bags") from error
    make: Callable[[SlideRef], Bag] = partial(bag_of, spec, chipnet=chipnet)
    if OVERVIEWS in wanted.spec and not wanted.drawn:
        make = partial(glance_of, spec)
    task = partial(_tiled, make, wanted)
    return partial(run_slides, task, workers=workers, time_limit_s=time_limit_s)


def _tiled(make: Callable[[SlideRef], Bag], wanted: Wanted, slide: SlideRef) -> Ready:
    return made_ready(make(slide), wanted)


def reader(bags: Bags, wanted: Wanted, threads: int) -> Callable[[Todo], Stream]:
    """What gives the bag of each slide, in their order, or what is wrong with it, read ahead by threads, eight at most.

    There are no more bags in memory than threads, and one. A bag that was made otherwise than those of the training is
    wrong.
    """
    return partial(_read_all, bags, wanted, min(threads, MOST_THREADS))


def _read_all(bags: Bags, wanted: Wanted, threads: int, todo: Todo) -> Stream:
    pool = ThreadPoolExecutor(threads, "bag")
    waiting: deque[tuple[SlideRef, Future[Ready | Exception]]] = deque()
    try:
        for slide in todo.waiting:
            waiting.append((slide, pool.submit(attempt, partial(_read, bags, wanted), slide)))
            if len(waiting) > threads:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[SlideRef, Future[Ready | Exception]]]) -> tuple[SlideRef, Ready | Exception]:
    slide, future = waiting.popleft()
    return slide, future.result()


def _read(bags: Bags, wanted: Wanted, slide: SlideRef) -> Ready:
    name = slide.slide_id
    if name not in bags.refs:
        raise SlideError(
            bags.manifest[name].error or f"the bag {name!r} of {str(bags.path)!r} is gone; tile its slide again"
        )
    ref, of_overviews = bags.refs[name], OVERVIEWS in wanted.spec
    # A picture shows tiles, and larger than the network sees them.
    px = None if wanted.drawn else NO_TILES if of_overviews else max(wanted.sides)
    bag = read_features(ref) if FEATURES in wanted.spec else read_bag(ref, px)
    if not of_overviews and (names := differing(wanted.spec, bag.header.made)):
        raise BagError(
            f"{ref} was made with another {', '.join(names)} than the run was trained on; "
            "make it again with the settings of the run"
        )
    return made_ready(bag, wanted)


def made_ready(bag: Bag | FeatureBag, wanted: Wanted) -> Ready:
    """A bag with its instances; raises BagError where a picture cannot be decoded."""
    if isinstance(bag, FeatureBag):
        return Ready(replace(bag, features_NC=bag.features_NC[:0]), dict.fromkeys(wanted.sides, bag.features_NC))
    if not len(bag):
        return Ready(bag, {px: np.zeros((0, 3, px, px), np.uint8) for px in wanted.sides})
    if OVERVIEWS in wanted.spec:
        instances = {px: square_1CHW(bag.overview_rgb(), px) for px in wanted.sides}
    else:
        instances = {px: tiles_NCHW(bag, px) for px in wanted.sides}
    return Ready(bag if wanted.drawn else replace(bag, tiles=None, small=None), instances)
