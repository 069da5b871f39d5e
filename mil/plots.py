"""Plots of a run: how it learned, and how good it is out of fold.

A class or label has a panel of its own: curves of eight classes in one would hide each other.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from mil.evaluation import Evaluation, Level
from mil.log import EpochLog, kept
from mil.metrics import CALIBRATION_BINS, Problem, calibration_bin, one_against_rest, problems
from mil.panels import FIFTHS, legend, name_left, one_panel, panels, same_range, save, title, unit_square, wrapped

# Of the palette of Okabe and Ito, told apart by every kind of colour vision.
TRAIN, VALID = "#0072b2", "#d55e00"
POOLED, FOLD, CHANCE = "#0072b2", "#999999", "#d55e00"
EARLIER = "#666666"


def draw_learning_curves(path: Path, logs: Sequence[Sequence[EpochLog]], names: Sequence[str]) -> None:
    """Training and validation loss over epochs, and under it the validation AUC; a panel a fold, by its name."""
    with_auc = any(not math.isnan(row.valid_auc) for log in logs for row in log)
    figure, axes = panels(len(logs), *((2.4, 1.4) if with_auc else (2.4,)))
    for place, log in enumerate(logs):
        epochs, best = [row.epoch for row in log], kept(log)
        losses = axes[0][place]
        losses.plot(epochs, [row.train_loss for row in log], color=TRAIN, marker=".", label="training")
        curves = [(losses, [row.valid_loss for row in log], best.valid_loss)]
        if with_auc:
            curves.append((axes[1][place], [row.valid_auc for row in log], best.valid_auc))
        for axis, values, value in curves:
            if not math.isnan(value):
                axis.plot(epochs, values, color=VALID, marker=".", label="validation (inner)")
                axis.plot(best.epoch, value, "o", color=VALID, markersize=9, fillstyle="none", label="kept")
        losses.set_title(wrapped(f"fold {names[place]}"), parse_math=False)
        for part in axes:
            part[place].set_xlim(-0.5, epochs[-1] + 0.5)
            part[place].xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes[-1][place].set_xlabel("epoch")
    for part, name in zip(axes, ("loss", "AUC"), strict=False):
        same_range(part)
        name_left(part, name)
    for axis in axes[1] if with_auc else ():
        axis.set_ylim(min(0.5, axis.get_ylim()[0]), 1.02)
    legend(figure, axes[0])
    save(figure, path)


def draw_evaluation(folder: Path, found: Evaluation) -> None:
    """Write roc.png, precision_recall.png, confusion.png and reliability.png of the slides of a run."""
    draw_roc(folder / "roc.png", found)
    draw_precision_recall(folder / "precision_recall.png", found)
    draw_confusion(folder / "confusion.png", found)
    draw_reliability(folder / "reliability.png", found)


def draw_roc(path: Path, found: Evaluation) -> None:
    """The ROC curve of each class against the rest, of all folds together and of each; of two classes the positive."""
    shown = _shown(found)
    figure, axes = panels(len(shown), 2.4)
    for axis, (name, part, level) in zip(axes[0], shown, strict=True):
        for scores, truth, style in _curves(found, part):
            false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
            axis.plot(false, true, **style)
        axis.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1, label="chance")
        title(axis, name, "AUC", level.figures["auc"])
        unit_square(axis)
        axis.set(xlabel="1 - specificity", aspect="equal")
    name_left(axes[0], "sensitivity")
    legend(figure, axes[0])
    save(figure, path)


def draw_precision_recall(path: Path, found: Evaluation) -> None:
    """The precision over the sensitivity of each class, as `draw_roc`, with its share, which is what chance reaches.

    The area below a line is the average precision: a line starts with the precision where the first positive is found.
    """
    shown = _shown(found)
    figure, axes = panels(len(shown), 2.4)
    for axis, (name, part, level) in zip(axes[0], shown, strict=True):
        for scores, truth, style in _curves(found, part):
            precision, recall, _ = precision_recall_curve(truth, scores)
            finds = recall > 0  # not what finds nothing, nor the point (0, 1) that scikit-learn makes up
            recall, precision = recall[finds], precision[finds]
            axis.plot(np.append(recall, 0), np.append(precision, precision[-1]), drawstyle="steps-post", **style)
        if level.known:
            axis.axhline(level.count / level.known, color=CHANCE, linestyle="--", linewidth=1, label="chance")
        title(axis, name, "average precision", level.figures["average_precision"])
        unit_square(axis)
        axis.set(xlabel="sensitivity (recall)", aspect="equal")
    name_left(axes[0], "precision")
    legend(figure, axes[0])
    save(figure, path)


def draw_confusion(path: Path, found: Evaluation) -> None:
    """How many slides of each class were decided to be each class, and their share of it; a panel a label."""
    names = list(found.slides.classes)
    parts = problems(found.cases.probabilities, found.cases.targets)
    if found.cases.targets.ndim == 2:
        figure, axes = panels(len(parts), 2.4)
        for axis, name, part in zip(axes[0], names, parts, strict=True):
            axis.set_title(wrapped(name), fontsize="medium", parse_math=False)
            _matrix(axis, part, ["no", "yes"])
        name_left(axes[0], "true")
    else:
        figure, axis = one_panel(2.2 + 0.75 * len(names))
        _matrix(axis, parts[0], [wrapped(name, 18) for name in names])
        axis.set_ylabel("true")
    save(figure, path)


def draw_reliability(path: Path, found: Evaluation, before: Evaluation | None = None) -> None:
    """What came true over the probability it was given, in 15 bins, with the number of slides in each.

    A panel a class against the rest, or a label; of classes first one for that decided on, whose calibration error is
    the run's. With what was found `before` a calibration, its line is there too, and both errors.
    """
    shown, earlier = _calibrated(found), [] if before is None else _calibrated(before)
    label = "out of fold, in 15 bins" if before is None else "after, in 15 bins"
    figure, axes = panels(len(shown), 2.4, 0.6)
    for place, (above, below, (name, part, level)) in enumerate(zip(*axes, shown, strict=True)):
        above.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1, label="calibrated")
        for _, was, of_was in earlier[place : place + 1]:
            error = of_was.figures["ece"].value
            above.text(1, 0.02, f"before: {error:.3f}", ha="right", fontsize="small", color=EARLIER)
            above.plot(
                *_comes_true(was), color=EARLIER, marker="o", markersize=3, linewidth=1, label="before, out of fold"
            )
        above.plot(*_comes_true(part), color=POOLED, marker="o", markersize=4, label=label)
        title(above, name, "calibration error", level.figures["ece"])
        unit_square(above)
        counts = np.bincount(calibration_bin(part.confidence), minlength=CALIBRATION_BINS)
        below.bar((np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS, counts, 0.9 / CALIBRATION_BINS, color=FOLD)
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True, min_n_ticks=1))
        below.set(xlabel="probability", xlim=(-0.02, 1.02), xticks=FIFTHS)
    name_left(axes[0], "share that came true")
    name_left(axes[1], "slides")
    legend(figure, axes[0])
    save(figure, path)


def _calibrated(found: Evaluation) -> list[tuple[str, Problem, Level]]:
    """The panels of reliability: of classes first one for that decided on."""
    if found.cases.targets.ndim == 2:
        return _shown(found)
    (decision,) = problems(found.cases.probabilities, found.cases.targets)
    return [("class decided on", decision, found.slides), *_shown(found)]


def _comes_true(part: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The mean confidence of each bin that is not empty, and the share that came true."""
    bins = calibration_bin(part.confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    full = counts > 0
    confidence, share = (
        np.bincount(bins, values, CALIBRATION_BINS)[full] / counts[full] for values in (part.confidence, part.came_true)
    )
    return confidence, share


def _shown(found: Evaluation) -> list[tuple[str, Problem, Level]]:
    """The classes that have a panel: of two the positive one alone, as the other is its mirror image."""
    parts = one_against_rest(found.cases.probabilities, found.cases.targets)
    levels = found.slides.classes
    return [
        (name, part, levels[name]) for name, part in zip(levels, parts, strict=True) if found.positive in (None, name)
    ]


def _curves(found: Evaluation, part: Problem) -> list[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Scores, truth and style of each line, those of folds first; what lacks positives or negatives has none."""
    thin = {"color": FOLD, "linewidth": 0.7, "alpha": 0.7, "label": "one fold"}
    thick = {"color": POOLED, "linewidth": 1.8, "label": "all folds together"}
    fold_of = found.cases.fold_of[part.rows]
    chosen = [(fold_of == fold, thin) for fold in np.unique(fold_of)] + [(np.ones(len(fold_of), bool), thick)]
    return [
        (part.confidence[rows], part.came_true[rows], style)
        for rows, style in chosen
        if 0 < part.came_true[rows].sum() < rows.sum()
    ]


def _matrix(axis: Axes, part: Problem, names: Sequence[str]) -> None:
    classes = len(names)
    counts = np.bincount(part.targets * classes + part.decided, minlength=classes**2).reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, decided), count in np.ndenumerate(counts):
        share = shares[true, decided]
        text = f"{count}\n{100 * share:.0f} %" if count else "0"
        axis.text(decided, true, text, ha="center", va="center", color="white" if share > 0.65 else "black")
    slanted = max(map(len, names)) > 8
    axis.set_xticks(
        range(classes), names, parse_math=False, rotation=45 if slanted else 0, ha="right" if slanted else "center"
    )
    axis.set_yticks(range(classes), names, parse_math=False)
    axis.set_xlabel("decided on")
