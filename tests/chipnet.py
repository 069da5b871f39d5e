"""A stand-in for a ChipNet run, whose map and votes are known; it takes the place of `mil.picking`."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from mil.errors import RunError
from tiling import picker
from tiling.overview import squared
from tiling.pick import AttentionMap
from tiling.sources import SlideRef

Result = TypeVar("Result")


def make_chipnet(folder: Path, map_GG: np.ndarray | None = None, **votes: str) -> Path:
    """A run that looks everywhere as the map says, or else where a slide is dark.

    `votes` says which fold voted for a slide, or a patient; for all others all did.
    """
    folder.mkdir(parents=True)
    content = {"map": None if map_GG is None else map_GG.tolist(), "votes": votes}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


class Picker:
    """What `mil.picking.Picker` promises."""

    def __init__(self, content: str) -> None:
        self.run_id = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.map_GG, self.votes = json.loads(content).values()

    def fold_of(self, slide_id: str, patient_id: str | None = None) -> str | None:
        vote: str | None = self.votes.get(slide_id) or self.votes.get(patient_id or "")
        return vote

    def __call__(self, overview_rgb: np.ndarray, slide_id: str, patient_id: str | None = None) -> AttentionMap:
        map_GG = np.array(self.map_GG) if self.map_GG is not None else where_dark(overview_rgb)
        return AttentionMap(map_GG / map_GG.sum(), self.fold_of(slide_id, patient_id) or "all", self.run_id)


def where_dark(overview_rgb: np.ndarray) -> np.ndarray:
    """A map (7, 7) of what is darker than the background."""
    light = squared(overview_rgb, 224).mean(axis=2).reshape(7, 32, 7, 32).mean(axis=(1, 3))
    return np.exp((light.max() - light) / 10)


def load_picker(run: Path, device: str = "cpu") -> Picker:
    """What `mil.picking.load_picker` promises."""
    if not (run / "run.json").exists():
        raise RunError(f"no such run: {str(run)!r}; give the folder that train.py wrote")
    return Picker((run / "run.json").read_text())


@contextmanager
def in_place() -> Iterator[None]:
    """A block in which the stand-in is what the tiler finds."""
    before = sys.modules.get("mil.picking")
    sys.modules["mil.picking"] = sys.modules[__name__]
    picker._load.cache_clear()
    try:
        yield
    finally:
        picker._load.cache_clear()
        del sys.modules["mil.picking"]
        if before is not None:
            sys.modules["mil.picking"] = before


def with_it(task: Callable[[SlideRef], Result], slide: SlideRef) -> Result:
    """What a task gives, in a worker process too, where the stand-in has to take its place again."""
    with in_place():
        return task(slide)
