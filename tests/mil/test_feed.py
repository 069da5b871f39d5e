"""Batches come in their order and hold what the bags hold, by whatever way they came."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mil import feed as feed_module
from mil.cache import TileCache, open_cache
from mil.data import BagDataset, Batch, JpegReader, Kept, PixelReader, Reader, Stored, read_feature_tensor
from mil.errors import CacheError
from mil.feed import _Buffers, feed, read_ahead
from mil.order import Batches
from tests.tiling.test_bag import make_bag
from tiling.bag import BagRef, bag_path, write_bag
from tiling.errors import BagError
from tiling.features import write_features

CPU = torch.device("cpu")
SIZES = (1, 3, 2, 5, 3, 4, 1, 2, 2)
PLAN = [np.array([4, 0, 7]), np.array([3, 3, 1, 8]), np.array([6]), np.array([2, 5])]


@pytest.fixture
def refs(tmp_path: Path) -> list[BagRef]:
    """Bags of several sizes, each of a file of its own."""
    for place, size in enumerate(SIZES):
        write_bag(bag_path(tmp_path, f"b{place}"), make_bag(size, "jpeg"))
    return [BagRef(bag_path(tmp_path, f"b{place}")) for place in range(len(SIZES))]


def dataset(refs: list[BagRef], read: Reader) -> BagDataset:
    metadata = np.arange(2 * len(refs), dtype=np.float32).reshape(-1, 2)
    return BagDataset(refs, np.arange(len(refs)) % 2, read, metadata)


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(batches, others, strict=True):
        for part, its in zip(one, other, strict=True):
            assert part.dtype == its.dtype
            assert torch.equal(part, its)


def readers(refs: list[BagRef], px: int) -> dict[str, Reader]:
    found = open_cache(refs, SIZES, {}, px, "auto", show=False)
    assert found is not None
    return {"cache": found, "pixels": PixelReader(px), "kept": Kept(PixelReader(px)), "jpeg": JpegReader(px)}


@pytest.mark.parametrize("threads", [0, 1, 3, None])
def test_a_batch_is_that_of_its_bags(refs: list[BagRef], threads: int | None) -> None:
    """Tiles at their own size, which all decoders give alike."""
    for name, read in readers(refs, 16).items():
        batches = list(feed(dataset(refs, read), PLAN, CPU, threads))
        assert len(batches) == len(PLAN)
        for batch, places in zip(batches, PLAN, strict=True):
            expected = torch.cat([PixelReader(16)(refs[place]) for place in places])
            assert torch.equal(batch.instances_M, expected), name
            assert batch.mask_BN.sum(1).tolist() == [SIZES[place] for place in places]
            assert batch.target_B.tolist() == [place % 2 for place in places]
            assert batch.metadata_BF.tolist() == [[2 * place, 2 * place + 1] for place in places]
            assert batch.index_B.tolist() == places.tolist()
            assert (batch.mask_BN.dtype, batch.index_B.dtype) == (torch.bool, torch.int64)
    first = next(feed(dataset(refs, PixelReader(8)), PLAN, CPU, threads))
    assert first.mask_BN.tolist() == [[True] * 3, [True, False, False], [True, True, False]]


def test_one_epoch_is_the_same_by_all_ways(refs: list[BagRef]) -> None:
    plan = Batches(len(refs), 4, 3, True).plan(2)
    runs = [
        list(feed(dataset(refs, read), plan, CPU, threads))
        for name, read in readers(refs, 8).items()
        for threads in (0, 2)
        if name != "jpeg"
    ]
    for run in runs[1:]:
        assert_same(run, runs[0])
    for begin in range(len(plan) + 1):
        assert_same(list(feed(dataset(refs, PixelReader(8)), plan[begin:], CPU, 2)), runs[0][begin:])


def test_features(tmp_path: Path) -> None:
    features = [np.random.default_rng(size).normal(size=(size, 5)).astype(np.float32) for size in (3, 1, 4)]
    for place, values in enumerate(features):
        write_features(tmp_path / f"{place}.h5", values)
    refs = [BagRef(tmp_path / f"{place}.h5") for place in range(3)]
    for read in (read_feature_tensor, Kept(read_feature_tensor)):
        for threads in (0, 2):
            (batch,) = feed(
                BagDataset(refs, np.array([[0.0], [np.nan], [1.0]]), read), [np.array([2, 0, 1])], CPU, threads
            )
            assert batch.instances_M.dtype == torch.float32
            assert batch.instances_M.tolist() == np.concatenate([features[2], features[0], features[1]]).tolist()
            assert batch.target_B[:, 0].nan_to_num(7).tolist() == [1, 0, 7]
            assert batch.metadata_BF.shape == (3, 0)


def test_memory_is_used_again_but_never_that_of_a_batch_that_is_held(refs: list[BagRef]) -> None:
    data = dataset(refs, open_cache(refs, SIZES, {}, 16, "auto", show=False) or PixelReader(16))
    places = [np.array([place]) for place in [3, 1] * 10]
    addresses = [batch.instances_M.data_ptr() for batch in feed(data, places, CPU, 0)]
    assert len(set(addresses)) <= 5  # four that an earlier epoch may have left, and one
    held = list(feed(data, places, CPU, 0))
    assert len({batch.instances_M.data_ptr() for batch in held}) == len(places)
    parts = [batch.instances_M[:1, :, :2].view(torch.uint8) for batch in feed(data, places, CPU, 0)]
    for part, (place,) in zip(parts, places, strict=True):
        assert torch.equal(part, PixelReader(16)(refs[place])[:1, :, :2])


def test_buffers() -> None:
    buffers = _Buffers(2)
    first = buffers.take(10)
    address = first.ctypes.data
    second = buffers.take(10)
    assert second.ctypes.data != address
    kept = torch.from_numpy(first)[3:].view(torch.int8)
    del first
    assert not buffers.free
    del kept
    smaller = buffers.take(4)
    assert (smaller.ctypes.data, smaller.shape) == (address, (4,))
    del smaller
    assert buffers.take(11).shape == (11,)
    held = [buffers.take(5) for _ in range(6)]
    del held
    assert len(buffers.free) == 2


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_of_a_bag_comes_out_when_its_batch_is_due(refs: list[BagRef], threads: int) -> None:
    refs[8].path.unlink()
    batches = feed(dataset(refs, PixelReader(8)), PLAN, CPU, threads)
    assert next(batches).index_B.tolist() == [4, 0, 7]
    with pytest.raises(BagError, match="no such bag: .*b8.h5"):
        next(batches)
    assert not ours()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_cache_that_is_taken_away(refs: list[BagRef], threads: int) -> None:
    found = open_cache(refs, SIZES, {}, 8, "auto", show=False)
    assert found is not None
    path = found(refs[3]).path
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CacheError, match=r"of the cache is 7 bytes short; delete it"):
        list(feed(dataset(refs, found), PLAN, CPU, threads))
    path.unlink()
    with pytest.raises(CacheError, match=r"cannot be read \(No such file or directory\); start again"):
        list(feed(dataset(refs, found), PLAN, CPU, threads))


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("bag_", "batch_"))]


def test_who_leaves_early_leaves_no_threads_and_no_work(refs: list[BagRef]) -> None:
    read: list[Any] = []

    def slow(ref: BagRef | Path) -> torch.Tensor:
        read.append(ref)
        time.sleep(0.02)
        return torch.zeros(1, 2)

    places = [np.array([0, 1])] * 200
    for leave in (lambda batches: batches.close(), lambda batches: None):
        batches = feed(dataset(refs, slow), places, CPU, 2)
        next(batches)
        next(batches)
        leave(batches)
        del batches
        assert not ours()
        assert len(read) < 30
        read.clear()


def test_it_reads_ahead(refs: list[BagRef]) -> None:
    """While the first batch is held the following are read, but not all."""
    read, enough = [], threading.Event()

    def note(ref: BagRef | Path) -> torch.Tensor:
        read.append(ref)
        if len(read) == 4:
            enough.set()
        return torch.zeros(1, 2)

    batches = feed(dataset(refs, note), [np.array([0, 1])] * 50, CPU, 1)
    next(batches)
    assert enough.wait(60)
    batches.close()  # type: ignore[attr-defined]
    assert len(read) <= 8


def test_as_many_as_it_says_are_held(refs: list[BagRef]) -> None:
    """Beside the batch in use, however long that is."""
    assert [read_ahead(*asked) for asked in ((4, 0), (4, 1), (4, 8), (3, 8), (1, 8))] == [0, 2, 3, 4, 9]
    assert read_ahead(1) == 1 + min(8, len(os.sched_getaffinity(0)))
    made, all_made = [], threading.Event()

    def note(ref: BagRef | Path) -> torch.Tensor:
        made.append(ref)
        if len(made) == 1 + read_ahead(1, 2):
            all_made.set()
        return torch.zeros(1, 2)

    batches = feed(dataset(refs, note), [np.array([0])] * 50, CPU, 2)
    next(batches)
    assert all_made.wait(60)
    time.sleep(0.05)
    assert len(made) == 4
    batches.close()


def test_nothing_to_feed(refs: list[BagRef]) -> None:
    assert list(feed(dataset(refs, PixelReader(8)), [], CPU, 2)) == []
    assert list(feed(dataset(refs, PixelReader(8)), [], CPU, 0)) == []


def test_stored_tiles_are_read_into_the_batch_once(refs: list[BagRef], monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_cache(refs, SIZES, {}, 8, "auto", show=False)
    assert isinstance(found, TileCache)
    assert isinstance(found(refs[0]), Stored)
    monkeypatch.delattr(np, "copyto")
    assert len(list(feed(dataset(refs, found), PLAN, CPU, 2))) == len(PLAN)


class FakeGpu:
    """Stands in for a GPU and its streams, which are used and not there: notes what is asked of them, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        empty, to = torch.empty, torch.Tensor.to
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=0, **more: empty(*shape, **more))  # noqa: PLW0108
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **more: self.moved(to(tensor, "cpu"), more))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.log.append(f"kept for {stream}"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(self, "side"))
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream(self, "main"))
        monkeypatch.setattr("torchvision.io.decode_jpeg", self.decode)
        feed_module.stream_to.cache_clear()

    def moved(self, tensor: torch.Tensor, more: dict[str, bool]) -> torch.Tensor:
        assert more == {"non_blocking": True}
        self.log.append("copy")
        return tensor.clone()

    def decode(self, pictures: list[torch.Tensor], mode: Any, device: torch.device) -> list[torch.Tensor]:
        self.log.append(f"decode {len(pictures)} on {device}")
        return [torch.ops.image.decode_jpeg(picture, mode.value, False) for picture in pictures]

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        self.log.append(f"on {stream}")
        yield
        self.log.append(f"off {stream}")


class FakeStream(NamedTuple):
    gpu: FakeGpu
    name: str

    def record_event(self) -> str:
        self.gpu.log.append(f"event on {self.name}")
        return f"that of {self.name}"

    def wait_event(self, event: str) -> None:
        self.gpu.log.append(f"{self.name} waits for {event}")

    def synchronize(self) -> None:
        self.gpu.log.append("wait here")

    def __str__(self) -> str:
        return self.name


def test_what_a_gpu_is_asked_for(refs: list[BagRef], monkeypatch: pytest.MonkeyPatch) -> None:
    ways = readers(refs, 16)
    expected = list(feed(dataset(refs, PixelReader(16)), PLAN, CPU, 0))
    gpu = FakeGpu(monkeypatch)
    arrives = ["main waits for that of side", *["kept for main"] * 3]
    for name in ("cache", "pixels"):
        gpu.log.clear()
        batches = feed(dataset(refs, ways[name]), PLAN, torch.device("cuda"), 0)
        first = next(batches)
        assert gpu.log == ["on side", "copy", "copy", "copy", "event on side", "off side", *arrives]
        assert_same([first, *batches], expected)
    gpu.log.clear()
    batches = feed(dataset(refs, ways["jpeg"]), PLAN, torch.device("cuda"), 0)
    first = next(batches)
    decoded = [f"decode {SIZES[place]} on cuda" for place in PLAN[0]]
    assert gpu.log == [
        "on side", "wait here", *decoded, "wait here", "copy", "copy", "event on side", "off side", *arrives
    ]  # fmt: skip
    assert_same([first, *batches], expected)
    assert_same(list(feed(dataset(refs, ways["cache"]), PLAN, torch.device("cuda"), 3)), expected)


def test_all_threads_share_one_stream(refs: list[BagRef], monkeypatch: pytest.MonkeyPatch) -> None:
    read = PixelReader(16)
    gpu, made = FakeGpu(monkeypatch), []

    def slow(device: torch.device) -> FakeStream:
        made.append(device)
        time.sleep(0.02)
        return FakeStream(gpu, "side")

    monkeypatch.setattr(torch.cuda, "Stream", slow)
    assert len(list(feed(dataset(refs, read), PLAN, torch.device("cuda"), 3))) == len(PLAN)
    assert len(made) == 1
