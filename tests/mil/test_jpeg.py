"""Tiles that are decoded on the device; on the CPU, where torchvision decodes as the bags do."""

import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from mil import jpeg
from mil.data import JpegReader, Jpegs, PixelReader
from mil.errors import SettingsError
from mil.jpeg import check_decoder, decode, decodes_alike, torchvision_decodes
from tests.tiling.test_bag import make_bag
from tiling.bag import write_bag
from tiling.codec import CODECS
from tiling.errors import BagError

CPU = torch.device("cpu")


def test_tiles_of_their_own_size(tmp_path: Path) -> None:
    parts = []
    for name, size in (("a", 3), ("b", 1)):
        write_bag(tmp_path / f"{name}.h5", make_bag(size, "jpeg"))
        parts.append(JpegReader(16)(tmp_path / f"{name}.h5"))
    assert [len(part) for part in parts] == [3, 1]
    expected = torch.cat([PixelReader(16)(tmp_path / f"{name}.h5") for name in "ab"])
    assert torch.equal(decode(parts, CPU), expected)


def test_small_copies_serve(tmp_path: Path) -> None:
    bag = make_bag(2, "jpeg", train_px=8)
    assert bag.tiles is not None
    spoilt = bag.tiles[0].replace(b"\xff\xdb", b"\xff\xfe")  # without its tables
    write_bag(tmp_path / "a.h5", replace(bag, tiles=(spoilt,) * 2))
    assert torch.equal(decode([JpegReader(8)(tmp_path / "a.h5")], CPU), PixelReader(8)(tmp_path / "a.h5"))
    with pytest.raises(BagError, match="a tile of bag 'slide é' cannot be decoded .*; tile the slide again"):
        decode([JpegReader(16)(tmp_path / "a.h5")], CPU)


def test_a_tile_of_another_size_than_the_bag_says_is_not_decoded(tmp_path: Path) -> None:
    large = CODECS["jpeg"].encode(np.zeros((24, 16, 3), np.uint8), 90, 420)
    write_bag(tmp_path / "a.h5", replace(make_bag(2, "jpeg"), tiles=(large,) * 2))
    with pytest.raises(
        BagError, match=r"tile 0 of bag 'slide é' cannot be decoded \(it has 16 × 24 px, expected a side"
    ):
        JpegReader(16)(tmp_path / "a.h5")


def test_tiles_are_reduced_as_the_cpu_does_but_for_its_weights(tmp_path: Path) -> None:
    """A ramp, of which all sensible weights make the same ramp inside."""
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (64, 64, 3))
    encoded = CODECS["jpeg"].encode(np.ascontiguousarray(ramp), 100, 444)
    reduced = decode([Jpegs("a", (encoded, encoded), 16)], CPU)
    assert (reduced.shape, reduced.dtype) == ((2, 3, 16, 16), torch.uint8)
    expected = torch.arange(0, 256, 16).add(6).view(1, 1, 16, 1).expand(2, 3, 16, 16)
    assert (reduced.int() - expected)[:, :, 1:-1].abs().max() <= 1


def test_other_codecs_are_decoded_at_once(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", make_bag(2, "png"))
    write_bag(tmp_path / "b.h5", make_bag(1, "jpeg"))
    tiles = JpegReader(16)(tmp_path / "a.h5")
    assert torch.equal(decode([JpegReader(16)(tmp_path / "b.h5"), tiles], CPU)[1:], PixelReader(16)(tmp_path / "a.h5"))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: an illegal memory access")],
    ids=["memory", "device"],
)
def test_a_bag_is_not_blamed_for_the_device(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.io import decode_jpeg

    write_bag(tmp_path / "a.h5", make_bag(2, "jpeg"))

    def fails_there(pictures: list[torch.Tensor], mode: Any, *device: torch.device) -> Any:
        if device:
            raise error
        return decode_jpeg(pictures, mode)

    monkeypatch.setattr("torchvision.io.decode_jpeg", fails_there)
    with pytest.raises(type(error)) as caught:
        decode([JpegReader(16)(tmp_path / "a.h5")], CPU)
    assert caught.value is error


def test_threads_decode_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what waits for the device before to what waits for it behind."""
    from torchvision.io import decode_jpeg

    write_bag(tmp_path / "a.h5", make_bag(1, "jpeg"))
    part, log = JpegReader(16)(tmp_path / "a.h5"), []

    def slow(*args: Any) -> Any:
        log.append("decode")
        time.sleep(0.02)
        return decode_jpeg(*args)

    monkeypatch.setattr("torchvision.io.decode_jpeg", slow)
    monkeypatch.setattr(jpeg, "_finish", lambda device: log.append("finish"))
    threads = [Thread(target=decode, args=([part], CPU)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["finish", "decode", "finish"] * 3


def test_where_a_gpu_decodes_alike() -> None:
    spec = {"codec": "jpeg", "chroma": 444, "size": 1024}
    assert decodes_alike(spec, 1024)
    for change in ({"codec": "png"}, {"chroma": 420}, {"size": 512}, {"features": 7, "codec": None}):
        assert not decodes_alike({**spec, **change}, 1024)


def test_what_cannot_be_decoded_on_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchvision_decodes()
    check_decoder({"codec": "jpeg"}, torch.device("cuda"))
    with pytest.raises(SettingsError, match="--decode gpu needs a GPU to train on"):
        check_decoder({"codec": "jpeg"}, CPU)
    with pytest.raises(SettingsError, match="takes tiles in JPEG, and these bags have 'webp'"):
        check_decoder({"codec": "webp"}, torch.device("cuda"))
    monkeypatch.setattr(jpeg, "torchvision_decodes", lambda: False)
    with pytest.raises(SettingsError, match="this torchvision decodes no JPEG"):
        check_decoder({"codec": "jpeg"}, torch.device("cuda"))
    monkeypatch.undo()
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert not torchvision_decodes()
