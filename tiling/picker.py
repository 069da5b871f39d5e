"""The ChipNet that looks at slides for the tiler: checked once by the command, loaded once in each process that works.

The only module of this package that imports one of the other, and only where a ChipNet was asked for.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiling.errors import InputError, SlideError
from tiling.pick import AttentionMap
from tiling.sources import SlideRef


class Chipnet(NamedTuple):
    """A ChipNet run: its folder, and the hex digest that names what is in it."""

    run: Path
    digest: str


def open_chipnet(run: Path) -> Chipnet:
    """The ChipNet run in a folder; raises InputError where it cannot be used."""
    return Chipnet(run.absolute(), _load(run.absolute()).run_id)


def look_at(chipnet: Chipnet, slide_id: str, patient_id: str | None, overview_rgb: np.ndarray) -> AttentionMap:
    """Where the run looks on a slide, given its overview, RGB uint8 (H, W, 3).

    Of a slide, or another slide of a patient, that it was trained on, only the fold that had not seen it is asked.
    Raises SlideError where it finds no map, InputError where the run is not (any more) the one that was opened.
    """
    picker = _load(chipnet.run)
    if picker.run_id != chipnet.digest:
        raise InputError(
            f"the ChipNet run {str(chipnet.run)!r} is another one here or has changed; give the same to all workers"
        )
    attention: AttentionMap = picker(overview_rgb, slide_id, patient_id)
    if not np.isfinite(attention.map_GG).all():
        raise SlideError(
            f"the ChipNet run {str(chipnet.run)!r} finds no attention on {slide_id!r}: its map has values that are no "
            "finite numbers; train it again with a lower learning rate, or leave the slide out"
        )
    return attention


def chipnet_for(path: str | None, digest: str | None, tiles: bool) -> Chipnet | None:
    """The ChipNet run that cuts `tiles` as those of a training were, whose ChipNet had this digest; None for none.

    Raises InputError where it is missing, not needed, or not the one that picked for the training.
    """
    if digest is None or not tiles:
        if path is not None:
            why = "the run's tiles were picked without one" if tiles else "bags have their tiles"
            raise InputError(f"--chipnet picks tiles of slides, and {why}; leave it out")
        return None
    if path is None:
        raise InputError(
            f"the run was trained on tiles that a ChipNet picked: give --chipnet RUN, the run with the digest {digest}"
        )
    chipnet = open_chipnet(Path(path))
    if chipnet.digest != digest:
        raise InputError(
            f"--chipnet {path!r} has the digest {chipnet.digest}, and the tiles that the run was trained on were "
            f"picked by {digest}; give that one"
        )
    return chipnet


def strangers(chipnet: Chipnet, slides: Iterable[SlideRef]) -> list[SlideRef]:
    """Those of some slides of which nobody knows whether the run has seen their patient.

    They have no patient_id, and were not in the training of the run under their name.
    """
    picker = _load(chipnet.run)
    return [slide for slide in slides if slide.patient_id is None and picker.fold_of(slide.slide_id) is None]


@lru_cache(maxsize=1)
def _load(run: Path) -> Any:
    from mil.errors import MilError
    from mil.picking import load_picker

    try:
        return load_picker(run)
    except MilError as error:
        raise InputError(f"--chipnet: {error}") from error
