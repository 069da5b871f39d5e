"""What the plots of a run show."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mil.evaluation import Evaluation, evaluate
from mil.labels import Labels, target_column
from mil.log import EpochLog
from mil.plots import (
    CHANCE,
    FOLD,
    POOLED,
    VALID,
    draw_confusion,
    draw_evaluation,
    draw_learning_curves,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from mil.task import ANY_OF, Task


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that would have been written."""
    figures: list[Figure] = []
    monkeypatch.setattr("mil.plots.save", lambda figure, path: figures.append(figure))
    yield figures
    for figure in figures:
        plt.close(figure)


def judged(targets: np.ndarray, chances: np.ndarray, fold_of: list[int], names: tuple[str, ...]) -> Evaluation:
    table = pd.DataFrame({"patient_id": [f"p{i}" for i in range(len(targets))]})
    if targets.ndim == 1:
        labels = Labels(table.assign(target=targets), Task(names))
    else:
        columns = {target_column(name): targets[:, k] for k, name in enumerate(names)}
        labels = Labels(table.assign(**columns), Task(names, ANY_OF))
    return evaluate(labels, chances, np.array(fold_of), [str(fold) for fold in range(max(fold_of) + 1)])


def two_classes() -> Evaluation:
    """Fold 1 has one class only."""
    chances = np.array([0.1, 0.4, 0.35, 0.8, 0.9, 0.7])
    targets = np.array([0, 0, 1, 1, 1, 1])
    return judged(targets, np.stack([1 - chances, chances], 1), [0, 0, 0, 0, 1, 1], ("no", "yes"))


def three_labels() -> Evaluation:
    random = np.random.default_rng(0)
    targets = np.tile([[1.0, 0, 0], [0, 1, 1], [1, 1, np.nan], [0, 0, 1]], (5, 1))
    return judged(targets, random.random((20, 3)), [0, 0, 0, 0, 1] * 4, ("a", "$b", "c" * 90))


def five_classes() -> Evaluation:
    targets = np.arange(40) % 5
    return judged(targets, np.random.default_rng(0).dirichlet(np.ones(5), 40), list(np.arange(40) // 8), tuple("abcde"))


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


class TestRoc:
    def test_of_two_classes(self, drawn: list[Figure]) -> None:
        draw_roc(Path("roc.png"), two_classes())
        (axis,) = drawn[0].axes
        assert axis.get_title().splitlines()[0] == "yes"
        assert axis.get_title().splitlines()[1].startswith("AUC 0.875 (")
        # fold 0, all, chance; fold 1 has no curve
        assert [line.get_color() for line in axis.lines] == [FOLD, POOLED, CHANCE]
        assert axis.lines[0].get_xydata().tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]
        assert axis.lines[1].get_xydata().tolist() == [
            [0, 0], [0, 0.25], [0, 0.5], [0, 0.75], [0.5, 0.75], [0.5, 1], [1, 1],
        ]  # fmt: skip

    def test_a_panel_a_class(self, drawn: list[Figure]) -> None:
        draw_roc(Path("roc.png"), five_classes())
        assert [title.splitlines()[0] for title in titles(drawn[0])] == list("abcde")
        assert len(drawn[0].axes[0].lines) == 5 + 2


class TestPrecisionRecall:
    def test_of_two_classes(self, drawn: list[Figure]) -> None:
        draw_precision_recall(Path("pr.png"), two_classes())
        (axis,) = drawn[0].axes
        fold, pooled, share = axis.lines
        assert axis.get_title().startswith("yes\naverage precision 0.950 (")  # (1 + 1 + 1 + 4/5) / 4
        assert fold.get_xydata().tolist() == [[1, 0.5], [1, pytest.approx(2 / 3)], [0.5, 0.5], [0.5, 1], [0, 1]]
        assert pooled.get_xydata()[-2:].tolist() == [[0.25, 1], [0, 1]]
        assert pooled.get_drawstyle() == "steps-post"
        assert share.get_ydata() == [pytest.approx(4 / 6)] * 2

    def test_scores_that_find_nothing_are_no_line(self, drawn: list[Figure]) -> None:
        chances = np.array([0.9, 0.8, 0.7, 0.6, 0.1])  # two negatives are first
        targets = np.array([0, 0, 1, 1, 0])
        found = judged(targets, np.stack([1 - chances, chances], 1), [0] * 5, ("no", "yes"))
        draw_precision_recall(Path("pr.png"), found)
        third = pytest.approx(1 / 3)
        pooled = drawn[0].axes[0].lines[1].get_xydata().tolist()
        assert pooled == [[1, pytest.approx(2 / 5)], [1, 0.5], [0.5, third], [0, third]]


class TestConfusion:
    def test_counts_and_shares_of_rows(self, drawn: list[Figure]) -> None:
        draw_confusion(Path("confusion.png"), two_classes())
        (axis,) = drawn[0].axes
        assert [text.get_text() for text in axis.texts] == ["2\n100 %", "0", "1\n25 %", "3\n75 %"]
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("decided on", "true")
        assert [label.get_text() for label in axis.get_xticklabels()] == ["no", "yes"]

    def test_of_labels_what_is_known(self, drawn: list[Figure]) -> None:
        draw_confusion(Path("confusion.png"), three_labels())
        assert len(drawn[0].axes) == 3
        counts = [int(text.get_text().split("\n")[0]) for text in drawn[0].axes[2].texts]
        assert sum(counts) == 15


class TestReliability:
    def test_of_two_classes(self, drawn: list[Figure]) -> None:
        draw_reliability(Path("reliability.png"), two_classes())
        decided, positive, of_decided, of_positive = drawn[0].axes
        assert decided.get_title().startswith("class decided on\ncalibration error ")
        assert positive.get_title().startswith("yes\ncalibration error ")
        # confidences .9 .6 .65 .8 .9 .7, wrong for the third; .65 and .6 are in bins 9 and 8
        line = decided.lines[1].get_xydata()
        assert line == pytest.approx(np.array([[0.6, 1], [0.65, 0], [0.7, 1], [0.8, 1], [0.9, 1]]))
        heights = [bar.get_height() for bar in of_decided.patches]
        assert (sum(heights), heights[13], len(heights)) == (6, 2, 15)
        assert [bar.get_height() for bar in of_positive.patches][1] == 1

    def test_of_labels(self, drawn: list[Figure]) -> None:
        draw_reliability(Path("reliability.png"), three_labels())
        assert [title.split("\n")[0] for title in titles(drawn[0])] == ["a", "$b", "c" * 30]


def epochs(fold: int, valid: list[float], valid_auc: list[float], kept: int) -> list[EpochLog]:
    return [
        EpochLog(fold, epoch, 0.5 / (epoch + 1), loss, area, 1e-3, epoch == kept)
        for epoch, (loss, area) in enumerate(zip(valid, valid_auc, strict=True))
    ]


class TestLearningCurves:
    def test_loss_and_auc_with_the_epoch_that_was_kept(self, drawn: list[Figure]) -> None:
        draw_learning_curves(
            Path("curves.png"),
            [epochs(0, [0.7, 0.5, 0.6], [0.5, 0.8, 0.9], 1), epochs(1, [0.4], [0.5], 0)],
            ("0", "Graz $1"),
        )
        loss, other_loss, area, _ = drawn[0].axes
        assert [line.get_ydata().tolist() for line in loss.lines] == [[0.5, 0.25, 0.5 / 3], [0.7, 0.5, 0.6], [0.5]]
        assert [line.get_color() for line in area.lines] == [VALID, VALID]
        assert area.lines[1].get_xydata().tolist() == [[1, 0.8]]
        assert loss.get_ylim() == other_loss.get_ylim()
        assert titles(drawn[0]) == ["fold 0", "fold Graz $1"]

    def test_without_validation(self, drawn: list[Figure]) -> None:
        draw_learning_curves(Path("curves.png"), [epochs(0, [math.nan] * 2, [math.nan] * 2, 1)], ("0",))
        (axis,) = drawn[0].axes
        assert len(axis.lines) == 1


def test_all_are_written(tmp_path: Path) -> None:
    draw_evaluation(tmp_path, three_labels())
    assert {path.name for path in tmp_path.iterdir()} == {
        "roc.png", "precision_recall.png", "confusion.png", "reliability.png",
    }  # fmt: skip


def test_a_class_that_no_slide_has(tmp_path: Path) -> None:
    draw_evaluation(tmp_path, judged(np.zeros(3, int), np.full((3, 2), 0.5), [0, 1, 1], ("there", "not there")))
