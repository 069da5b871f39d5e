"""Batches on their way from files to the device, read ahead of the training that waits for them.

Bags are read by threads: what takes time there (reading a file, decoding JPEG, reducing a picture, copying) leaves
Python's lock to others, so that threads are as fast as processes, and no bag is sent from one to another.
"""

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil.cache import TileCache
from mil.data import BagDataset, Batch, Instances, Jpegs, Stored
from mil.errors import CacheError
from mil.jpeg import decode

MOST_THREADS = 8  # that read bags, unless told otherwise


def feed(
    dataset: BagDataset, plan: Sequence[np.ndarray], device: torch.device, threads: int | None = None
) -> Generator[Batch, None, None]:
    """The batches of a plan (places of bags in the dataset) in its order, each on the device when it is asked for.

    Instances, targets and metadata are on `device`, the mask and the places on the CPU. As many `threads` read bags as
    there are cores for this process, but eight at most, if not told; 0: none, and each batch is read when it is asked
    for. Nothing of what comes out depends on their number. Raises what the dataset's reader raises, and CacheError
    where a file of the cache is gone.
    """
    threads = _threads(threads)
    make = partial(_load, dataset, device, stream_to(device))
    if not threads:
        for places in plan:
            yield _arrived(make(places, map), device)
        return
    ahead = read_ahead(max(map(len, plan[:1]), default=1), threads)
    readers, makers = ThreadPoolExecutor(threads, "bag"), ThreadPoolExecutor(ahead, "batch")
    # Files of a cache are read into the batch itself, by the thread that makes it.
    each = map if isinstance(dataset.read, TileCache) else readers.map
    waiting: deque[Future[_Loaded]] = deque()
    try:
        for places in plan:
            waiting.append(makers.submit(make, places, each))
            if len(waiting) > ahead:
                yield _arrived(waiting.popleft().result(), device)
        while waiting:
            yield _arrived(waiting.popleft().result(), device)
    finally:
        readers.shutdown(wait=False, cancel_futures=True)
        makers.shutdown(cancel_futures=True)
        readers.shutdown()


def read_ahead(bags: int, threads: int | None = None) -> int:
    """How many batches of so many bags wait on the device beside that in use: enough for all threads, and one more."""
    threads = _threads(threads)
    return 1 + math.ceil(threads / bags) if threads else 0


def _threads(asked: int | None) -> int:
    return min(MOST_THREADS, len(os.sched_getaffinity(0))) if asked is None else asked


class _Loaded(NamedTuple):
    """A batch, and on a GPU the event after which it is there."""

    batch: Batch
    ready: Any = None


def _load(
    dataset: BagDataset, device: torch.device, stream: torch.cuda.Stream | None, places: np.ndarray,
    each: Callable[..., Any],
) -> _Loaded:  # fmt: skip
    """A batch, on its way to the device on a stream; there is none on the CPU."""
    parts = list(each(dataset.read, [dataset.bags[place] for place in places]))
    lengths = [len(part) for part in parts]
    encoded = any(isinstance(part, Jpegs) for part in parts)
    if stream is None:
        instances = decode(parts, device) if encoded else stack(parts, _buffers)
        return _Loaded(dataset.batch(places, lengths, instances))
    with torch.cuda.stream(stream):
        instances = decode(parts, device) if encoded else stack(parts, None).to(device, non_blocking=True)
        batch = dataset.batch(places, lengths, instances)
        batch = batch._replace(
            target_B=batch.target_B.pin_memory().to(device, non_blocking=True),
            metadata_BF=batch.metadata_BF.pin_memory().to(device, non_blocking=True),
        )
        return _Loaded(batch, stream.record_event())


@cache
def stream_to(device: torch.device) -> torch.cuda.Stream | None:
    """The stream on which batches go to a GPU: one for good, for PyTorch keeps memory for each that ever was.

    None for a CPU. Not to be asked for first by several threads at once, each of which would get one.
    """
    return None if device.type == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _arrived(loaded: _Loaded, device: torch.device) -> Batch:
    """The batch, which what is computed from now on waits for, and whose memory is kept until that is done."""
    if loaded.ready is not None:
        current = torch.cuda.current_stream(device)
        current.wait_event(loaded.ready)
        for part in (loaded.batch.instances_M, loaded.batch.target_B, loaded.batch.metadata_BF):
            part.record_stream(current)
    return loaded.batch


class _Buffers:
    """Memory for batches on the CPU, used again when nothing holds the batch any more.

    Memory that is new to a process is given page by page and zeroed first, which takes as long as reading into it.
    At most `most` are kept for later.
    """

    def __init__(self, most: int) -> None:
        self.free: deque[np.ndarray] = deque(maxlen=most)

    def take(self, count: int) -> np.ndarray:
        """Uint8 (count,), of any values."""
        try:
            buffer = self.free.pop()  # the last, of which most is in the processor
        except IndexError:
            buffer = np.empty(count, np.uint8)
        if len(buffer) < count:
            buffer = np.empty(count, np.uint8)
        # A tensor made of this view holds it; when the last one is gone, the view dies and the buffer is free.
        view = buffer[:count]
        weakref.finalize(view, self.free.append, buffer).atexit = False
        return view


_buffers = _Buffers(4)  # those of one epoch serve the next


def stack(parts: Sequence[Instances], buffers: _Buffers | None) -> Tensor:
    """The instances of bags, one copy away from where they are: in memory of `buffers`, or pinned where that is None.

    Raises CacheError where a file is gone or short.
    """
    first = parts[0]
    assert not isinstance(first, Jpegs), "encoded tiles are decoded and not stacked"
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    dtype = first.dtype if isinstance(first, Tensor) else torch.uint8
    if buffers is None:
        out = torch.empty(shape, dtype=dtype, pin_memory=True)
    else:
        out = torch.from_numpy(buffers.take(math.prod(shape) * dtype.itemsize)).view(dtype).view(shape)
    rows, start = out.numpy(), 0
    for part in parts:
        into = rows[start : start + len(part)]
        if isinstance(part, Stored):
            read_stored(part, into)
        else:
            assert isinstance(part, Tensor), "encoded tiles are decoded and not stacked"
            np.copyto(into, part.numpy())  # torch would start threads of its own for it in each of ours
        start += len(part)
    return out


def read_stored(stored: Stored, into: np.ndarray) -> None:
    """Read the tiles of a file into an array of their shape; raises CacheError where the file is gone or short."""
    left = into.reshape(-1).data
    try:
        file = os.open(stored.path, os.O_RDONLY)
        try:
            while left and (count := os.readv(file, [left])):
                left = left[count:]
        finally:
            os.close(file)
    except OSError as error:
        raise CacheError(
            f"the file {str(stored.path)!r} of the cache cannot be read ({error.strerror}); start again, "
            "and leave the folder alone while a training runs"
        ) from error
    if left:
        raise CacheError(f"the file {str(stored.path)!r} of the cache is {len(left)} bytes short; delete it")
