"""Where a trained ChipNet looks on a slide, asked for by the tiler to pick tiles there."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil.data import square_tensor
from mil.encoded import fingerprint
from mil.errors import RunError
from mil.labels import natural
from mil.predict import Run, fold_folders, load_run, map_of, pick_device
from mil.run_folder import FOLDS, read_text
from tiling.pick import AttentionMap

ALL = "all"
_DIGITS = 16  # of the digest: enough that no two runs share it


class Picker:
    """Says where on a slide a trained ChipNet looks, without having been trained on that slide."""

    def __init__(self, run: Run, folds: pd.DataFrame, run_id: str) -> None:
        """A run, its folds.csv (`slide_id`, `patient_id`, and the `fold` that held the slide out), and its digest."""
        self.run, self.run_id = run, run_id
        self._names = sorted(folds["fold"].unique(), key=natural)  # in the order of the run's models
        self._slides = dict(zip(folds["slide_id"], folds["fold"], strict=True))
        self._patients = dict(zip(folds["patient_id"], folds["fold"], strict=True))
        # Where it was frozen all folds have the same backbone, and one of them asks it for all.
        self._one_backbone = len({fingerprint(model.encoder.backbone) for model in run.models}) == 1
        for model in run.models if self._one_backbone else ():
            model.encoder.backbone.requires_grad_(False)

    def fold_of(self, slide_id: str, patient_id: str | None = None) -> str | None:
        """The fold that held out a slide, or its patient; None where the training had neither."""
        return self._slides.get(slide_id) or self._patients.get(patient_id or "")

    def __call__(self, overview_rgb: np.ndarray, slide_id: str, patient_id: str | None = None) -> AttentionMap:
        """The map for an overview, RGB uint8 (H, W, 3).

        Of a slide that was in the training of the run, or whose patient was, only the fold that held it out is asked;
        of a new one all are, and the map is their mean. Computed by one thread, it has the same bytes whoever asks.
        """
        fold = self.fold_of(slide_id, patient_id)
        asked = range(len(self._names)) if fold is None else [self._names.index(fold)]
        square_M = square_tensor(overview_rgb, self.run.px).to(self.run.device)
        with _one_thread(), torch.inference_mode():
            if self._one_backbone:
                square_M = self.run.models[0].through_frozen(square_M)
            map_GG = np.mean([map_of(self.run.models[place], square_M) for place in asked], axis=0)
        return AttentionMap(map_GG / map_GG.sum(), ALL if fold is None else fold, self.run_id)


@lru_cache(maxsize=1)
def load_picker(run: Path, device: str = "cpu") -> Picker:
    """The picker of the ChipNet run in a folder; a process loads it once.

    Raises RunError where there is no such run, it is unfinished or damaged, or it is none of ChipNet.
    """
    loaded = load_run(run, pick_device(device))
    if not loaded.takes_overviews:
        raise RunError(
            f"the run {str(run)!r} is none of ChipNet but of {loaded.card.model.arch}; "
            "give one that `train.py --arch chipnet` made"
        )
    table = read_text(run / FOLDS, "slide_id", "patient_id", "fold")
    if (folds := table["fold"].nunique()) != len(loaded.models):
        raise RunError(
            f"the run {str(run)!r} has {len(loaded.models)} models and its {FOLDS} {folds} folds; train again"
        )
    return Picker(loaded, table, _digest(run))


def _digest(run: Path) -> str:
    """Names a run by the weights of all its folds."""
    digest = hashlib.sha256()
    for folder in fold_folders(run):
        digest.update(hashlib.sha256((folder / "model.safetensors").read_bytes()).digest())
    return digest.hexdigest()[:_DIGITS]


@contextmanager
def _one_thread() -> Iterator[None]:
    """A block in which torch computes with one thread: with several, sums differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
