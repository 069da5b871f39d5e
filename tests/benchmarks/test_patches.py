"""Slides of patches: a patch here is of one colour, which says its number."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import patches
from benchmarks.catch import read_truth
from benchmarks.patches import Patches, are_twins, compose_large, nest, read_patches, sheet


def plain(number: int) -> np.ndarray:
    return np.full((96, 96, 3), number, np.uint8)


def test_read_without_twins(tmp_path: Path) -> None:
    greys = {"x/normal/a": 10, "x/normal/b": 12, "x/normal/c": 50, "x/tumor/d": 90, "x/tumor/e": 53}
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name, grey in greys.items():
            png = io.BytesIO()
            Image.fromarray(plain(grey)).save(png, "PNG")
            archive.writestr(f"{name}.png", png.getvalue())
    found = read_patches(tmp_path / "p.zip", seed=0)
    assert sorted(found.normal[:, 0, 0, 0].tolist()) == [10, 50]
    assert found.tumour[:, 0, 0, 0].tolist() == [90]
    assert found.dropped == 2


def test_twins_differ_by_less_than_six() -> None:
    assert are_twins(np.stack([plain(10), plain(15), plain(16), plain(21)])).tolist() == [False, True, False, True]


def test_sheet_lays_patches_along_the_rows() -> None:
    whole = sheet(np.stack([plain(number) for number in range(6)]), columns=3)
    assert whole.shape == (192, 288, 3)
    assert whole[::96, ::96, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nest_is_one_patch_of_cells() -> None:
    for seed in range(20):
        row, column = np.divmod(nest(12, 4, np.random.default_rng(seed)), 12)
        assert len({*zip(row.tolist(), column.tolist(), strict=True)}) == 4
        assert np.ptp(row) <= 3
        assert np.ptp(column) <= 3
    assert len(nest(12, 0, np.random.default_rng(0))) == 0


def test_no_patch_is_of_two_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "SIDE", 3)
    monkeypatch.setattr(patches, "TUMOUR", (2,))
    pool = Patches(np.stack([plain(n) for n in range(50)]), np.stack([plain(200 + n) for n in range(50)]), 0)
    monkeypatch.setattr(patches, "read_patches", lambda source, seed: pool)
    compose_large(Path("unread"), tmp_path, slides=20)
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["normal", "tumour"] * 10
    assert [row["patient_id"] for row in rows] == [f"patient{n // 4:02d}" for n in range(20)]
    assert [row["fold"] for row in rows] == [str(n // 4) for n in range(20)]
    truth = read_truth(tmp_path / "tiles.csv")
    assert [len(corners) for corners in truth.values()] == [2] * 10
    owners: dict[int, set[str]] = {}
    for row in rows:
        with Image.open(tmp_path / "slides" / f"{row['slide_id']}.png") as slide:
            cells = np.asarray(slide)[::96, ::96, 0]
        assert len(np.unique(cells)) == 9  # no patch twice in a slide
        for number in cells.flat:
            owners.setdefault(int(number), set()).add(row["patient_id"])
        lesions = {(96 * int(x), 96 * int(y)) for y, x in np.argwhere(cells >= 200)}
        assert lesions == truth.get(row["slide_id"], frozenset())
    assert {len(patients) for patients in owners.values()} == {1}
    with pytest.raises(AssertionError, match="patches for 20 slides, not for 21"):
        compose_large(Path("unread"), tmp_path, slides=21)
