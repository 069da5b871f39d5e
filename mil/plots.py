"""Plots of a run."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from mil.log import EpochLog, kept
from tiling.output import replacing

matplotlib.use("Agg")  # no display is needed, none is opened

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TRAIN, VALID = "#0072b2", "#d55e00"  # of the palette of Okabe and Ito, told apart by every kind of colour vision


def draw_learning_curves(path: Path, logs: Sequence[Sequence[EpochLog]]) -> None:
    """Training and validation loss over epochs, a panel a fold, with the epoch that was kept."""
    figure, axes = plt.subplots(1, len(logs), figsize=(2.6 * len(logs) + 0.8, 2.8), sharey=True, squeeze=False)
    for axis, log in zip(axes[0], logs, strict=True):
        epochs = [row.epoch for row in log]
        best = kept(log)
        axis.plot(epochs, [row.train_loss for row in log], color=TRAIN, marker=".", label="training")
        if not math.isnan(best.valid_loss):
            axis.plot(epochs, [row.valid_loss for row in log], color=VALID, marker=".", label="validation (inner)")
            axis.plot(best.epoch, best.valid_loss, "o", color=VALID, markersize=9, fillstyle="none", label="kept")
        axis.set(title=f"fold {best.fold}", xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("log loss")
    axes[0][-1].legend(frameon=False, fontsize="small")
    figure.tight_layout()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and let go of it."""
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in another script: boxes stand for it
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
