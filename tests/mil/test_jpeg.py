"""Tiles that are decoded on the device; on the CPU, where torchvision decodes as the bags do."""

from dataclasses import replace
from pathlib import Path

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
    write_bag(tmp_path / "a.h5", replace(make_bag(2, "jpeg", train_px=8), tiles=(b"spoilt",) * 2))
    assert torch.equal(decode([JpegReader(8)(tmp_path / "a.h5")], CPU), PixelReader(8)(tmp_path / "a.h5"))
    with pytest.raises(BagError, match="a tile of bag 'slide é' cannot be decoded .*; tile the slide again"):
        decode([JpegReader(16)(tmp_path / "a.h5")], CPU)


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
