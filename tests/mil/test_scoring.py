"""Bags are scored in order by one thread, few wait, and what goes wrong is a row or is raised where bags are put."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mil.predict import Prediction
from mil.scoring import Scored, Scoring
from mil.task import Task
from tiling.errors import SlideError
from tiling.ready import Ready
from tiling.sources import SlideRef
from tiling.tile import NO_TISSUE


class Scorer(SimpleNamespace):
    """What a scorer promises, with the mean of the first instance as the probability."""

    task, digest, device = Task(("0", "1")), "abc", torch.device("cpu")
    prior_K = np.array([0.25, 0.75])

    def predict(self, bag: object, metadata: pd.DataFrame | None, instances: dict[int, Tensor]) -> Prediction:
        chance = float(instances[2][0].float().mean()) / 100
        members = np.array([[chance, 1 - chance], [chance + 0.1, 0.9 - chance]])
        return Prediction(members.mean(0), None, members_EK=members)


def slide(name: str) -> SlideRef:
    return SlideRef(name, Path(name), patient_id=f"p{name}")


def ready(value: int, count: int = 3) -> Ready:
    return Ready(SimpleNamespace(), {2: np.full((count, 3, 2, 2), value, np.uint8)})  # type: ignore[arg-type]


def score(scorer: Any, *given: tuple[str, Ready | Exception], metadata: pd.DataFrame | None = None) -> list[Scored]:
    found: list[Scored] = []
    with Scoring(scorer, metadata, found.append) as scoring:
        for name, each in given:
            scoring.put(slide(name), each)
    assert not [thread for thread in threading.enumerate() if thread.name == "scoring"]
    return found


def test_rows() -> None:
    first, second, third = score(
        Scorer(), ("b", ready(20)), ("a", ready(1, 0)), ("c", SlideError("'c' is cut short; copy it again"))
    )
    assert first.row == {
        "slide_id": "b", "patient_id": "pb", "status": "ok", "tiles": 3, "prob_0": 0.25, "prob_1": 0.75,
        "predicted": "1", "uncertainty": pytest.approx(0.05), "model": "abc", "error": "",
    }  # fmt: skip
    assert first.prediction is not None
    failed = {"status": "failed", "tiles": 0, "prob_0": 0.25, "prob_1": 0.75, "predicted": "", "uncertainty": None}
    assert second.row == {"slide_id": "a", "patient_id": "pa", **failed, "model": "abc", "error": NO_TISSUE}
    assert third.row["error"] == "'c' is cut short; copy it again"
    assert (second.prediction, third.bag) == (None, None)


def test_metadata_are_those_of_the_slide() -> None:
    table = pd.DataFrame({"slide_id": ["a", "b"], "age": ["40", "50"]}).set_index("slide_id")
    found = score(Scorer(), ("b", ready(1)), ("c", ready(1)), metadata=table)
    assert found[0].metadata is not None
    assert found[0].metadata["age"].tolist() == ["50"]
    assert found[1].metadata is None


def test_one_that_cannot_be_scored_costs_no_other() -> None:
    class Sometimes(Scorer):
        def predict(self, bag: object, metadata: pd.DataFrame | None, instances: dict[int, Tensor]) -> Prediction:
            if instances[2][0, 0, 0, 0] == 2:
                raise RuntimeError("out of memory")
            return super().predict(bag, metadata, instances)

    found = score(Sometimes(), ("a", ready(1)), ("b", ready(2)), ("c", ready(3)))
    assert [each.row["status"] for each in found] == ["ok", "failed", "ok"]
    assert found[1].row["error"] == "'b' met an unexpected RuntimeError (out of memory); please report it"


class Held(Scorer):
    """A scorer that waits for leave."""

    def __init__(self) -> None:
        super().__init__()
        self.leave = threading.Event()
        self.begun = threading.Event()

    def predict(self, *given: Any) -> Prediction:
        self.begun.set()
        self.leave.wait()
        return super().predict(*given)


def test_who_puts_too_many_waits() -> None:
    scorer, put, found = Held(), [], []

    def fill() -> None:
        with Scoring(scorer, None, found.append, ahead=2) as scoring:  # type: ignore[arg-type]
            for number in range(6):
                scoring.put(slide(str(number)), ready(number))
                put.append(number)

    thread = threading.Thread(target=fill)
    thread.start()
    scorer.begun.wait()
    time.sleep(0.3)
    assert len(put) <= 3  # one in use, two wait
    scorer.leave.set()
    thread.join()
    assert [each.slide.slide_id for each in found] == list("012345")


def raising(error: BaseException) -> Callable[[Scored], None]:
    def done(_: Scored) -> None:
        raise error

    return done


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_the_thread_meets_is_raised_where_bags_are_put(error: BaseException) -> None:
    with (
        pytest.raises(type(error)),
        Scoring(Scorer(), None, raising(error)) as scoring,  # type: ignore[arg-type]
    ):
        while True:
            scoring.put(slide("a"), ready(1))


def test_or_at_the_end() -> None:
    with (
        pytest.raises(OSError, match="No space"),
        Scoring(Scorer(), None, raising(OSError("No space"))) as scoring,  # type: ignore[arg-type]
    ):
        scoring.put(slide("a"), ready(1))


def test_interrupted_it_finishes_what_it_has_in_hand() -> None:
    scorer, found = Held(), []
    with (
        pytest.raises(KeyboardInterrupt),
        Scoring(scorer, None, found.append) as scoring,  # type: ignore[arg-type]
    ):
        for number in range(3):
            scoring.put(slide(str(number)), ready(number))
        scorer.begun.wait()
        threading.Timer(0.2, scorer.leave.set).start()
        raise KeyboardInterrupt
    assert [each.slide.slide_id for each in found] == ["0"]
