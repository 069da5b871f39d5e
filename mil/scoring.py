"""Bags scored one after another by a thread of its own, while the next are read and on their way to the device."""

import threading
from collections.abc import Callable, Mapping
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mil.feed import stream_to
from mil.predict import Prediction
from mil.predictions import Row, failed_row, score_row, uncertainty_of
from mil.scorer import Scorer
from tiling.bag import Bag
from tiling.batch import describe
from tiling.errors import SlideError
from tiling.features import FeatureBag
from tiling.ready import Ready
from tiling.sources import SlideRef
from tiling.tile import NO_TISSUE

AHEAD = 2  # bags that wait on the device beside the one in use
_LOOK_EVERY_S = 0.5


class Scored(NamedTuple):
    """A slide with its row, and what led to it: bag and prediction, None where there is none, and its metadata."""

    slide: SlideRef
    row: Row
    bag: Bag | FeatureBag | None
    prediction: Prediction | None
    metadata: pd.DataFrame | None


class _Sent(NamedTuple):
    """Instances on their way to the device, by their side; on a GPU `ready` is the event after which they are there."""

    bag: Bag | FeatureBag
    instances: dict[int, Tensor]
    ready: Any = None

    @property
    def tiles(self) -> int:
        """How many there are; at every side the same."""
        return len(next(iter(self.instances.values())))


class Scoring:
    """Scores what it is given, in order, and hands each on; to be used in a `with` block, whose end waits for the rest.

    `AHEAD` bags wait at most; who gives one more waits too, so that memory does not grow.
    """

    def __init__(
        self, scorer: Scorer, metadata: pd.DataFrame | None, done: Callable[[Scored], None], ahead: int = AHEAD
    ) -> None:
        """`metadata` is by slide_id; `done` is called, by the thread that scores, with each slide that has its row."""
        self._scorer, self._metadata, self._done = scorer, metadata, done
        self._queue: Queue[tuple[SlideRef, _Sent | Exception] | None] = Queue(ahead)
        self._failure: BaseException | None = None
        self._abandoned = False
        self._stream = stream_to(scorer.device)
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)

    def put(self, slide: SlideRef, ready: Ready | Exception) -> None:
        """Give a slide to be scored, or why it cannot be; raises what the thread that scores has met."""
        self._give((slide, ready if isinstance(ready, Exception) else self._send(ready)))

    def __enter__(self) -> "Scoring":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Wait until all is scored, or where something went wrong until that in hand is."""
        if kind is not None:
            self._abandon()
        self._give(None)
        self._thread.join()
        if kind is None:
            self._refuse_broken()

    def _send(self, ready: Ready) -> _Sent | Exception:
        try:
            return _Sent(ready.bag, *_sent(ready.instances, self._scorer.device, self._stream))
        except Exception as error:  # noqa: BLE001  # too little memory for this bag; the others go on
            return error

    def _give(self, item: "tuple[SlideRef, _Sent | Exception] | None") -> None:
        while self._thread.is_alive():
            try:
                return self._queue.put(item, timeout=_LOOK_EVERY_S)
            except Full:
                continue
        return self._refuse_broken()

    def _abandon(self) -> None:
        self._abandoned = True
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                return

    def _refuse_broken(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not None and not self._abandoned:
                self._done(self._score(*item))
                del item  # or it would be in memory until the next one comes
        except BaseException as error:  # noqa: BLE001  # raised again where bags are put
            self._failure = error

    def _score(self, slide: SlideRef, sent: _Sent | Exception) -> Scored:
        scorer, known = self._scorer, known_of(slide, self._metadata)
        if isinstance(sent, Exception):
            return Scored(slide, row_of_failure(scorer, slide, describe(slide, sent)), None, None, known)
        if not sent.tiles:
            return Scored(slide, row_of_failure(scorer, slide, NO_TISSUE), sent.bag, None, known)
        try:
            prediction = scorer.predict(sent.bag, known, _arrived(sent, scorer.device))
            row = _row(scorer, slide, sent.tiles, prediction)
        except Exception as error:  # noqa: BLE001  # a row says what it was, and the other slides go on
            return Scored(slide, row_of_failure(scorer, slide, describe(slide, error)), sent.bag, None, known)
        return Scored(slide, row, sent.bag, prediction, known)


def row_of_failure(scorer: Scorer, slide: SlideRef, error: str) -> Row:
    """The row of a slide that could not be scored."""
    return failed_row(slide.slide_id, patient_of(slide), scorer.task, scorer.digest, scorer.prior_K, error)


def patient_of(slide: SlideRef) -> str:
    """Whose slide it is: one of whom nothing is known is a patient of its own."""
    return slide.patient_id or slide.slide_id


def known_of(slide: SlideRef, metadata: pd.DataFrame | None) -> pd.DataFrame | None:
    """The metadata of a slide; one without a row has all of it unknown."""
    return None if metadata is None or slide.slide_id not in metadata.index else metadata.loc[[slide.slide_id]]


def _row(scorer: Scorer, slide: SlideRef, tiles: int, prediction: Prediction) -> Row:
    members_EK, chances, task = prediction.members_EK, prediction.probabilities, scorer.task
    if not np.isfinite(chances).all():
        raise SlideError(f"of {slide.slide_id!r} the model says what is no number; train it again")
    uncertainty = None if members_EK is None else uncertainty_of(members_EK, chances, task)
    return score_row(slide.slide_id, patient_of(slide), task, scorer.digest, tiles, chances, uncertainty)


def _sent(
    instances: Mapping[int, np.ndarray], device: torch.device, stream: Any
) -> tuple[dict[int, Tensor], Any]:  # fmt: skip
    """Instances on their way to the device on a stream, and the event that ends it; on a CPU they are there."""
    tensors = {px: torch.from_numpy(array) for px, array in instances.items()}
    if stream is None:
        return tensors, None
    with torch.cuda.stream(stream):
        there = {px: tensor.pin_memory().to(device, non_blocking=True) for px, tensor in tensors.items()}
        return there, stream.record_event()


def _arrived(sent: _Sent, device: torch.device) -> dict[int, Tensor]:
    """The instances, which what is computed from now on waits for, and whose memory is kept until that is done."""
    if sent.ready is not None:
        current = torch.cuda.current_stream(device)
        current.wait_event(sent.ready)
        for instances_M in sent.instances.values():
            instances_M.record_stream(current)
    return sent.instances
