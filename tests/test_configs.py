"""Every recipe of configs/ says what it is meant to, and runs: tiles, and two steps of training a fold."""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mil.recipe import Recipe
from tests.conftest import CohortFiles
from tiling import __main__ as tile
from tiling import cli
from tiling.spec import TileSpec

CONFIGS = Path(__file__).parents[1] / "configs"
# Recipes of training alone, and the tiling of another that each is tried on.
TILED_AS = {"chipnet": "slide16", "chipnet-frozen": "slide16"}
NAMES = [*sorted(path.name.removesuffix(".train.yaml") for path in CONFIGS.glob("*.train.yaml")), *TILED_AS]

TILES: dict[str, dict[str, Any]] = {
    "demo": {"size": 256, "downsample": 1, "instances": 16},
    "slide16": {"size": 1024, "longest_edge": 20000, "instances": 16, "rank": "darkness", "train_px": 256},
    "skin-metadata": {"size": 512, "whole": "black", "train_px": 256, "longest_edge": None},
    "skin-guided": {"size": 448, "whole": "black", "train_px": 224, "longest_edge": None},
    "retina-green": {"size": 448, "whole": "black", "train_px": 224, "longest_edge": None},
}
TRAINING: dict[str, dict[str, Any]] = {
    "demo": {"backbone": "test_resnet", "train_px": 64, "folds": 3, "skip_missing": True, "pretrained": False},
    "slide16": {
        "backbone": "efficientnetv2_rw_t", "pretrained": True, "pooling": "attention", "train_px": 256, "folds": 5,
        "optimizer": "adamw", "lr": 1e-5, "schedule": "cosine", "lr_end": 1e-6, "batch_size": 4, "patience": 5,
        "loss": "cross-entropy", "balance": None,
    },
    "skin-metadata": {
        "backbone": "resnet50", "pretrained": True, "metadata_hidden": 256, "dropout": 0.7, "optimizer": "adam",
        "lr": 1e-5, "lr_head": 5e-5, "schedule": "step", "decay_rate": 0.95, "decay_epochs": 1, "loss": "focal",
        "focal_gamma": 2.0, "balance": "sampling", "folds": 3, "patience": 3, "choose_by": "auc",
    },
    "skin-guided": {
        "backbone": "vgg16_bn", "pretrained": True, "guided": "sigmoid", "train_px": 224, "optimizer": "sgd",
        "momentum": 0.9, "lr": 0.01, "weight_decay": 1e-4, "schedule": "step", "decay_rate": 0.1, "decay_epochs": 10,
        "loss": "focal", "focal_gamma": 2.0, "balance": "sampling", "epochs": 50, "batch_size": 32,
        "choose_by": "auc",
    },
    "retina-green": {"backbone": "alexnet", "channels": "g", "train_px": 224, "pretrained": False},
    "chipnet": {
        "arch": "chipnet", "overview_px": 224, "lr": 5e-5, "lr_attention": 1e-4, "lr_head": 1e-4, "pretrained": False,
        "mask_background": True,
    },
    "chipnet-frozen": {
        "arch": "chipnet", "backbone": "tf_efficientnet_lite0", "reduction": 32, "freeze": "all", "map_entropy": -0.3,
        "overview_px": 512, "pretrained": False, "weights": None,
    },
}  # fmt: skip
# What makes a recipe small enough for a test; the backbone is then the smallest of its kind.
SMALL_TILES = {"slide16": ["--size", "64", "--longest-edge", "512"], "demo": ["--size", "64"]}
SMALL = {
    "chipnet": ["--batch-size", "2", "--backbone", "test_resnet"],
    "chipnet-frozen": ["--batch-size", "2", "--backbone", "test_efficientnet", "--warmup-epochs", "0"],
    "demo": ["--batch-size", "2"],
    "slide16": ["--batch-size", "2", "--backbone", "test_efficientnet"],
    "skin-metadata": [
        *("--backbone", "test_resnet", "--batch-size", "3"),
        *("--label-columns", "melanoma", "--categorical", "sex", "site", "--numeric", "age"),
    ],
    "skin-guided": ["--train-px", "64", "--batch-size", "3", "--label-columns", "melanoma"],
    "retina-green": [
        *("--train-px", "64", "--batch-size", "3", "--warmup-epochs", "0.5"),
        *("--label-columns", "melanoma", "haired"),
    ],
}


def parsed(path: Path, *parts: type) -> dict[str, Any]:
    """Every setting of the parts as a command has it that is given nothing but this file."""
    parser = cli.make_parser("test", "")
    cli.add_config(parser)
    for part in parts:
        cli.add_settings(parser, part, part.__name__)
    args = parser.parse_args(["--config", str(path)])
    return {name: value for part in parts for name, value in vars(cli.settings_from(args, part)).items()}


@cache
def recipe_parts() -> tuple[type, ...]:
    return tuple(type(getattr(Recipe(), field.name)) for field in fields(Recipe))


def tiling_of(name: str) -> str:
    return TILED_AS.get(name, name)


def training_file(name: str) -> Path:
    return CONFIGS / (f"{name}.yaml" if name in TILED_AS else f"{name}.train.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_settings(name: str) -> None:
    tiles = parsed(CONFIGS / f"{tiling_of(name)}.tiling.yaml", TileSpec)
    training = parsed(training_file(name), *recipe_parts())
    assert {key: tiles[key] for key in TILES[tiling_of(name)]} == TILES[tiling_of(name)]
    assert {key: training[key] for key in TRAINING[name]} == TRAINING[name]
    assert training["train_px"] <= (tiles["train_px"] or tiles["size"])


def test_all_recipes_are_here_and_installed() -> None:
    """Each begins with where it comes from; all but those of training alone are pairs."""
    files = sorted(path.name for path in CONFIGS.iterdir())
    pairs = [f"{name}.{command}.yaml" for name in TILES for command in ("tiling", "train")]
    assert files == sorted([*pairs, *(f"{name}.yaml" for name in TILED_AS)])
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in CONFIGS.iterdir())
    installed = (CONFIGS.parent / "setup.cfg").read_text(encoding="utf-8")
    assert [name for name in files if f"    configs/{name}\n" not in installed] == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> CohortFiles:
    """Twelve drawn photographs of twelve patients, upright and lying, some of them with a dark, reddish spot."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    rows = []
    for index in range(12):
        width, height = ((120, 90), (90, 120), (100, 100))[index % 3]
        y, x = np.mgrid[:height, :width]
        spot = ((x - width / 2) / (width / 5)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1
        colour = (130, 60, 60) if index % 2 else (190, 150, 120)
        rgb = np.where(spot[..., None], colour, (222, 170, 145)) + random.normal(0, 5, (height, width, 3))
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(folder / "photos" / f"p{index:02d}.jpg", quality=90)
        rows.append(
            {
                "slide_id": f"p{index:02d}", "patient_id": f"p{index:02d}", "melanoma": index % 2,
                "haired": index // 2 % 2, "sex": "fm"[index // 2 % 2], "site": ("arm", "back", "")[index % 3],
                "age": 30 + index if index % 5 else "",
            }
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return CohortFiles(folder / "photos", folder / "labels.csv")


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs(name: str, cohort: CohortFiles, photographs: CohortFiles, tmp_path: Path) -> None:
    """Both commands with its files: a bag for every slide, and a probability from two folds of two steps or three."""
    import train

    as_tiled = tiling_of(name)
    slides, labels = photographs if TILES[as_tiled].get("whole") else cohort
    bags, run = tmp_path / "bags", tmp_path / "run"
    tiling = [str(slides), "--out", str(bags), "--config", str(CONFIGS / f"{as_tiled}.tiling.yaml"), "--workers", "2"]
    training = ["--bags", str(bags), "--labels", str(labels), "--out", str(run), "--device", "cpu"]
    training += ["--config", str(training_file(name)), "--no-pretrained", "--folds", "2", "--epochs", "1"]
    small_px = [] if TILES[as_tiled].get("whole") else ["--train-px", "32"]
    assert tile.main([*tiling, *SMALL_TILES.get(as_tiled, []), *small_px]) == 0
    small_px = ["--overview-px", "64"] if TRAINING[name].get("arch") == "chipnet" else small_px
    assert len(list(bags.glob("*.h5"))) == 12
    assert train.main([*training, *small_px, *SMALL[name]]) == 0
    table = pd.read_csv(run / "oof.csv")
    assert (table["status"] == "ok").all()
    assert len(table) == 12
    assert table.filter(like="prob_").notna().all(axis=None)
