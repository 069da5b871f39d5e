"""Large slides are drawn in pieces that fit together."""

from pathlib import Path

import numpy as np
import pytest

from tiling.errors import InputError
from tiling.slide import open_slide
from tiling.synthetic.large import write_large
from tiling.tissue import tissue_mask


def test_levels_show_the_same_slide(tmp_path: Path) -> None:
    write_large(tmp_path / "a.tiff", 5000, 3100, seed=2)
    slide = open_slide(tmp_path / "a.tiff")
    assert [(level.width_px, level.height_px) for level in slide.levels] == [
        (5000, 3100), (2500, 1550), (1250, 775), (625, 388),
    ]  # fmt: skip
    assert slide.vendor == "generic-tiff"
    assert slide.mpp is None
    pictures = [
        slide._replace(levels=(slide.levels[0], level)).read_region(0, 0, 4992, 3072, (312, 192)).astype(int)
        for level in slide.levels
    ]
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).mean() < 5
    assert 0.15 < tissue_mask(pictures[0].astype(np.uint8)).mean() < 0.5


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_large(tmp_path / name, 1500, 1100, seed, pyramid=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert len(open_slide(tmp_path / "a").levels) == 1


def test_too_small(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a slide of 1024 × 1000 px is not large; give at least 1024 px each"):
        write_large(tmp_path / "a.tiff", 1024, 1000)
    assert list(tmp_path.iterdir()) == []
