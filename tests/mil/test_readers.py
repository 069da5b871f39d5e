"""Who reads the bags of a cohort."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mil import readers
from mil.cache import TileCache
from mil.cohort import Cohort
from mil.data import JpegReader, Kept, PixelReader, read_feature_tensor
from mil.errors import CacheError, SettingsError
from mil.readers import make_reader
from mil.recipe import TrainSpec
from tests.tiling.test_bag import make_bag
from tiling.bag import BagRef, write_bag
from tiling.features import write_features

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def cohort(path: Path, spec: dict[str, Any]) -> Cohort:
    """A cohort of one bag of three instances; of its labels nothing is asked."""
    labels: Any = None
    return Cohort(labels, [BagRef(path)], [3], spec, pd.DataFrame(), [])


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    write_bag(tmp_path / "a.h5", make_bag(3, "jpeg"))
    return tmp_path / "a.h5"


def test_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(tmp_path / "a.h5", np.zeros((3, 2), np.float32))
    bags = cohort(tmp_path / "a.h5", {"features": 2})
    assert isinstance(make_reader(bags, 16, CPU, "auto"), Kept)
    monkeypatch.setattr(readers, "KEPT_BYTES", 23)
    assert make_reader(bags, 16, CPU, "auto") is read_feature_tensor
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_tiles(tiles: Path, tmp_path: Path) -> None:
    spec = {"codec": "jpeg", "chroma": 420, "size": 16}
    bags = cohort(tiles, spec)
    made = make_reader(bags, 16, CPU, "auto", show=False)
    assert isinstance(made, TileCache)
    assert made(bags.bags[0]).path.parent == tmp_path / "cache"
    own = make_reader(bags, 16, CPU, str(tmp_path / "own"), show=False)
    assert isinstance(own, TileCache)
    assert own(bags.bags[0]).path.parent == tmp_path / "own" / "gigabag-tiles"
    assert isinstance(make_reader(bags, 16, CPU, None), PixelReader)
    with pytest.raises(CacheError):
        make_reader(bags, 16, CPU, str(tiles))


def test_a_cache_in_no_folder() -> None:
    with pytest.raises(SettingsError, match="--cache '' names no folder; give one, or auto, or null for no cache"):
        TrainSpec(cache="")


def test_who_decodes(tiles: Path) -> None:
    spec = {"codec": "jpeg", "chroma": 420, "size": 600}
    full = {**spec, "chroma": 444}
    for its, px, device, decode, kind in (
        (full, 600, GPU, "auto", JpegReader), (full, 600, CPU, "auto", PixelReader),
        (full, 599, GPU, "auto", PixelReader), (spec, 600, GPU, "auto", PixelReader),
        (full, 600, GPU, "cpu", PixelReader), (spec, 16, GPU, "gpu", JpegReader),
    ):  # fmt: skip
        assert type(make_reader(cohort(tiles, its), px, device, "auto", decode, show=False)) is kind
    assert isinstance(make_reader(cohort(tiles, {**full, "size": 16}), 16, GPU, "auto", show=False), TileCache)
    with pytest.raises(SettingsError, match="needs a GPU"):
        make_reader(cohort(tiles, spec), 600, CPU, "auto", "gpu")
