"""Several looks at one slide, to be averaged: as it is, and in all symmetries of the square or augmented as trained."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mil.augment import Augment
from mil.chance import seed_of
from mil.errors import RunError, SettingsError, cause
from mil.predict import Run
from mil.recipe import AugmentSpec
from mil.run_folder import read_config
from mil.warp import symmetry
from tiling.settings import with_tuples

SYMMETRIES: Final = "symmetries"
Rounds = int | Literal["symmetries"]


class Views:
    """Makes the views of slides for one run; the first is always the slide as it is."""

    def __init__(self, rounds: Rounds = 1, augment: Augment | None = None, seed: int = 0) -> None:
        """So many rounds, of which all but the first are augmented; or the eight symmetries, which need no Augment."""
        self.rounds, self.augment, self.seed = rounds, augment, seed

    def as_json(self) -> list[Any]:
        """All that they depend on, in plain values."""
        return [self.rounds, None if self.augment is None else asdict(self.augment.spec), self.seed]

    def __call__(self, instances_N: Tensor, slide_id: str) -> Iterator[Tensor]:
        """The views of a bag's instances (N, …), one after the other, each of as many instances or, augmented, fewer.

        What is drawn depends on the run's seed, the slide's name and the round alone. The state of torch's generator
        of the CPU is left as it was.
        """
        yield instances_N
        if self.rounds == SYMMETRIES:
            for kind in range(1, 8):
                yield symmetry(instances_N, *(torch.full((len(instances_N),), bool(kind & bit)) for bit in (4, 2, 1)))
            return
        for place in range(1, self.rounds):
            assert self.augment is not None, "rounds are augmented"
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, _number(slide_id), place))
                yield self.augment(instances_N, torch.ones(1, len(instances_N), dtype=torch.bool))[0]


def views_of(folder: Path, run: Run, rounds: Rounds) -> Views:
    """The views for the run in a folder, with the augmentations it was trained with.

    Raises SettingsError where all views would be alike: bags of features have no symmetries.
    """
    if rounds == SYMMETRIES:
        if run.takes_features:
            raise SettingsError(
                f"the run {str(folder)!r} was trained on features, which have no symmetries; leave out --tta"
            )
        return Views(rounds)
    if rounds < 1:
        raise SettingsError(f"--tta is the number of looks at each slide, at least 1, or {SYMMETRIES}, not {rounds}")
    if rounds == 1:
        return Views()
    spec, seed = _augmentation(folder)
    augment = Augment(spec)
    if not (augment.drop and not run.takes_overviews) and (run.takes_features or not augment.steps):
        raise SettingsError(
            f"the run {str(folder)!r} was trained without an augmentation that changes what it is given, so that all "
            f"rounds of --tta would be alike; leave it out"
            + ("" if run.takes_features else f", or give --tta {SYMMETRIES}")
        )
    return Views(rounds, augment, seed)


def _augmentation(folder: Path) -> tuple[AugmentSpec, int]:
    """What a run was augmented with, and its seed."""
    config = read_config(folder)
    try:
        given = {each.name: config[each.name] for each in fields(AugmentSpec)}
        return AugmentSpec(**with_tuples(given)), int(config["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the settings of the run {str(folder)!r} do not say how it was augmented ({cause(error)}); train again"
        ) from error


def _number(name: str) -> int:
    """A number for a name; others have other ones."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
