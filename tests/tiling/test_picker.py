"""The ChipNet run that looks: opened once, asked for each slide."""

from pathlib import Path

import numpy as np
import pytest

from tests.chipnet import make_chipnet
from tiling.errors import InputError, SlideError
from tiling.picker import Chipnet, look_at, open_chipnet, strangers
from tiling.sources import SlideRef

OVERVIEW = np.full((10, 20, 3), 200, np.uint8)


@pytest.mark.usefixtures("chipnets")
class TestPicker:
    def test_asks_for_the_slide_and_its_patient(self, tmp_path: Path) -> None:
        run = open_chipnet(make_chipnet(tmp_path / "run", np.eye(3), a="2", p1="0"))
        found = [
            look_at(run, slide, patient, OVERVIEW).folds for slide, patient in (("a", None), ("b", "p1"), ("c", "p"))
        ]
        assert found == ["2", "0", "all"]
        attention = look_at(run, "a", None, OVERVIEW)
        np.testing.assert_allclose(attention.map_GG, np.eye(3) / 3)
        assert attention.run == run.digest

    def test_strangers_are_new_and_of_nobody(self, tmp_path: Path) -> None:
        run = open_chipnet(make_chipnet(tmp_path / "run", np.eye(3), a="2", p1="0"))
        owners = {"a": None, "b": "p1", "c": "p2", "d": None, "e": None}
        slides = [SlideRef(name, Path(name), patient_id=owner) for name, owner in owners.items()]
        assert [slide.slide_id for slide in strangers(run, slides)] == ["d", "e"]

    def test_path_holds_in_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_chipnet(tmp_path / "run")
        monkeypatch.chdir(tmp_path)
        assert open_chipnet(Path("run")).run == tmp_path / "run"

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"--chipnet: no such run: '.*/run'; give the folder that train.py wrote"):
            open_chipnet(tmp_path / "run")

    def test_another_run_in_its_place(self, tmp_path: Path) -> None:
        run = open_chipnet(make_chipnet(tmp_path / "run"))
        with pytest.raises(InputError, match="is another one here or has changed"):
            look_at(Chipnet(run.run, "0123"), "a", None, OVERVIEW)

    def test_map_of_a_network_that_has_diverged(self, tmp_path: Path) -> None:
        run = open_chipnet(make_chipnet(tmp_path / "run", np.full((2, 2), np.nan)))
        with pytest.raises(
            SlideError, match="finds no attention on 'a': its map has values that are no finite numbers"
        ):
            look_at(run, "a", None, OVERVIEW)
