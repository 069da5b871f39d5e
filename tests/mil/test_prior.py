"""The class shares of a training are those of its folds.csv."""

from pathlib import Path

import numpy as np
import pytest

from mil.errors import RunError
from mil.prior import training_prior
from mil.task import ANY_OF, ONE_VS_NORMAL, Task


def test_of_classes(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("slide_id,label,fold\na,0,0\nb,1,0\nc,1,1\nd,1,1\n")
    np.testing.assert_array_equal(training_prior(tmp_path, Task(("0", "1"))), [0.25, 0.75])
    task = Task(("0", "1"), ONE_VS_NORMAL, "0")
    np.testing.assert_array_equal(training_prior(tmp_path, task), [0.25, 0.75])


def test_of_several_labels_among_those_known(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("slide_id,label,fold,x,y\na,x,0,1,\nb,,0,0,0\nc,y,1,,1\nd,x;y,1,1,1\n")
    np.testing.assert_array_equal(training_prior(tmp_path, Task(("x", "y"), ANY_OF)), [2 / 3, 2 / 3])


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run of train.py: it has no folds.csv"):
        training_prior(tmp_path, Task(("0", "1")))
    (tmp_path / "folds.csv").write_text("slide_id,label,fold\na,0,0\n")
    with pytest.raises(RunError, match="has no slide of the class '1' of the run's models; train again"):
        training_prior(tmp_path, Task(("0", "1")))
    with pytest.raises(RunError, match="lacks the column 'x'"):
        training_prior(tmp_path, Task(("x", "y"), ANY_OF))
