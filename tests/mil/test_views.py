"""Views of slides: the eight symmetries, and augmented ones that depend on run, slide and round alone."""

import shutil
from pathlib import Path

import pytest
import torch

from mil.augment import Augment
from mil.errors import RunError, SettingsError
from mil.predict import load_run
from mil.recipe import AugmentSpec
from mil.views import Views, views_of
from tests.conftest import Trained

CPU = torch.device("cpu")
TILES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
JITTER = Augment(AugmentSpec(color_jitter=0.3, per="bag"))


def test_one_is_the_slide_as_it_is() -> None:
    (only,) = Views()(TILES, "s")
    assert only is TILES


def test_the_eight_symmetries_are_a_group() -> None:
    views = list(Views("symmetries")(TILES, "s"))
    assert torch.equal(views[0], TILES)
    assert len({view.numpy().tobytes() for view in views}) == 8
    turned = {torch.rot90(TILES, quarter, (2, 3)).numpy().tobytes() for quarter in range(4)}
    mirrored = {torch.rot90(TILES.flip(3), quarter, (2, 3)).numpy().tobytes() for quarter in range(4)}
    assert {view.numpy().tobytes() for view in views} == turned | mirrored


def test_rounds_depend_on_slide_round_and_seed_alone() -> None:
    first = list(Views(4, JITTER, seed=3)(TILES, "s"))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = list(Views(4, JITTER, seed=3)(TILES, "s"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert torch.equal(first[0], TILES)
    others = [*first, *list(Views(4, JITTER, seed=4)(TILES, "s"))[1:], *list(Views(4, JITTER, seed=3)(TILES, "t"))[1:]]
    assert len({view.numpy().tobytes() for view in others}) == 10


def test_instances_may_be_left_out() -> None:
    drop = Augment(AugmentSpec(flip=False, quarter_turns=False, drop_instances=0.9))
    views = list(Views(8, drop)(TILES, "s"))
    assert len(views[0]) == 3
    assert {len(view) for view in views[1:]} <= {1, 2, 3}
    assert min(map(len, views)) < 3


class TestOfRun:
    def test_has_its_augmentation_and_seed(self, trained: Trained) -> None:
        views = views_of(trained.run, load_run(trained.run, CPU), 3)
        assert views.augment is not None
        assert (views.rounds, views.seed, len(views.augment.steps)) == (3, 0, 1)

    def test_refused(self, trained: Trained, tmp_path: Path) -> None:
        run = load_run(trained.run, CPU)
        with pytest.raises(SettingsError, match="--tta is the number of looks at each slide, at least 1, .* not 0"):
            views_of(trained.run, run, 0)
        folder = Path(shutil.copytree(trained.run, tmp_path / "run"))
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(config.replace("\naugment: true", "\naugment: false"))
        with pytest.raises(SettingsError, match="trained without an augmentation .* or give --tta symmetries"):
            views_of(folder, run, 2)
        (folder / "config.yaml").write_text(config.replace("\nflip: true", "\nflop: true"))
        with pytest.raises(RunError, match="do not say how it was augmented .'flip'.; train again"):
            views_of(folder, run, 2)
        (folder / "config.yaml").unlink()
        with pytest.raises(RunError, match=r"config.yaml of the run .* cannot be read"):
            views_of(folder, run, 2)
