"""The three commands on real slides, as a user would give them."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import infer
import train
from tests.conftest import TRAIN_FLAGS
from tiling import __main__ as tile
from tiling.bag import read_bag
from tiling.tissue import tissue_mask

FLAGS = ["--size", "256", "--downsample", "1", "--workers", "2"]


@pytest.mark.slow
def test_whole_road_on_real_slides(real_data: Path, tmp_path: Path) -> None:
    slides = real_data / "slides"
    with (slides / "labels.csv").open(newline="") as file:
        given = list(csv.DictReader(file))
    labels = tmp_path / "labels.csv"
    rows = [f"{Path(row['file']).stem},{row['label']},{row['case']}" for row in given]
    labels.write_text("\n".join(["slide_id,label,patient_id", *rows]) + "\n")

    bags, run = tmp_path / "bags", tmp_path / "run"
    assert tile.main([str(slides), "--out", str(bags), *FLAGS]) == 0
    assert train.main(["--bags", str(bags), "--labels", str(labels), "--out", str(run), *TRAIN_FLAGS]) == 0
    out = tmp_path / "scores.csv"
    sources = [str(slides), str(real_data / "slides_odd" / "erosion_HE_5x_trunc60.tiff")]
    flags = ["--run", str(run), "--out", str(out), "--heatmaps", str(tmp_path / "heatmaps")]
    assert infer.main([*flags, "--slides", *sources]) == 1

    manifest, scores = pd.read_csv(bags / "manifest.csv"), pd.read_csv(out).set_index("slide_id")
    assert manifest["status"].tolist() == ["done"] * len(given)
    assert scores["status"].value_counts().to_dict() == {"ok": len(given), "failed": 1}
    assert "is damaged" in scores.loc["erosion_HE_5x_trunc60", "error"]
    folds = pd.read_csv(run / "folds.csv")
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    assert len(list((tmp_path / "heatmaps").glob("*.png"))) == len(given)

    for path in sorted(bags.glob("*.h5")):
        bag = read_bag(path)
        assert len(bag) == 16
        assert (np.diff(bag.score) <= 0).all()
        # The tiles are tissue themselves, and they hold more of it than the slide does.
        shares = [tissue_mask(bag.tile(index, 64)).mean() for index in range(16)]
        assert np.mean(shares) > max(0.2, tissue_mask(bag.overview_rgb()).mean())


def test_settings_left_alone_give_the_published_recipe(real_data: Path, tmp_path: Path) -> None:
    """A slide whose long side is under 20000 px is enlarged to it."""
    slide = real_data / "slides" / "ICE1-WDNET-duodenum_HE.svs"
    assert tile.main([str(slide), "--out", str(tmp_path), "--workers", "1"]) == 0
    bag = read_bag(tmp_path / "ICE1-WDNET-duodenum_HE.h5")
    assert len(bag) == 16
    assert bag.header.side0_px == round(1024 * max(bag.header.width_px, bag.header.height_px) / 20000)
    assert bag.tile(15).shape == (1024, 1024, 3)


@pytest.mark.slow
def test_odd_slides_give_a_bag_or_a_reason(real_data: Path, tmp_path: Path) -> None:
    """What a batch meets in real life; names are made unique by a table."""
    files = [
        path
        for folder in ("slides_odd", "slides_vendor")
        for path in sorted((real_data / folder).iterdir())
        if path.is_file()
    ]
    files.append(real_data / "slides_vendor" / "dicom_cmu1" / "level-3-frames-0-1.dcm")
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,path\n" + "".join(f"{path.name},{path}\n" for path in files))
    assert tile.main([str(table), "--out", str(tmp_path / "bags"), *FLAGS]) == 1
    rows = pd.read_csv(tmp_path / "bags" / "manifest.csv").set_index("slide_id")
    assert len(rows) == len(files)
    for status, names in {
        "done": ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "CMU-1-Small-Region.webp.tiff"],
        "empty": ["giardia_glass-only_4096.svs", "test3-DAPI-2-387.ndpi", "small.svs", "XYC.png"],
        "failed": ["unopenable.tiff", "unreadable.svs", "erosion_HE_5x_trunc60.tiff", "molluscum_5x_zeroed-tiles.tiff"],
    }.items():
        assert rows.loc[names, "status"].tolist() == [status] * len(names)
    assert (rows["error"].isna() == (rows["status"] == "done")).all()
    assert not rows["error"].str.contains("unexpected", na=False).any()


@pytest.mark.parametrize("name", ["ICE1-WDNET-duodenum_HE.svs", "gallbladder-adenomyoma_HE.tiff"])
def test_tissue_is_a_few_pieces_not_noise(real_data: Path, tmp_path: Path, name: str) -> None:
    assert tile.main([str(real_data / "slides" / name), "--out", str(tmp_path), *FLAGS]) == 0
    mask = tissue_mask(read_bag(next(tmp_path.glob("*.h5"))).overview_rgb())
    sizes = np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:])[::-1]
    assert sizes[:4].sum() / sizes.sum() > 0.8
