"""What a slide gets beside its score costs it nothing when it fails."""

from pathlib import Path

import numpy as np
import pytest

from mil import pages as module
from mil.drawing import Paging
from mil.pages import Pages
from mil.predict import Prediction
from mil.predictions import failed_row, score_row
from mil.scoring import Scored
from mil.task import Task
from tests.mil.drawn import a_bag
from tiling.sources import SlideRef

TASK = Task(("0", "1"))


def test_pages_have_all_slides_and_what_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    pages = Pages(tmp_path, TASK, [])
    paging, chances = Paging(pages, said.append), np.array([0.25, 0.75])
    good = score_row("=a", "p", TASK, "abc", 1, chances)
    paging(Scored(SlideRef("=a", Path("a")), good, a_bag([(0, 0)]), Prediction(chances, None), None))
    lost = failed_row("b", "b", TASK, "abc", chances, "it is cut short")
    paging(Scored(SlideRef("b", Path("b")), lost, None, None, None))
    assert said == []
    monkeypatch.setattr(module, "portray", lambda *given: 1 / 0)
    undrawn = score_row("c", "p", TASK, "abc", 1, chances)
    paging(Scored(SlideRef("c", Path("c")), undrawn, a_bag([(0, 0)]), Prediction(chances, None), None))
    assert said == ["no pictures in the report: c: division by zero"]
    assert list(pages.rows) == ["=a", "b", "c"]
