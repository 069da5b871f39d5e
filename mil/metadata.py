"""Clinical columns as numbers: one-hot with an "unknown", and scaled; fitted on the training slides of a fold alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mil.labels import natural, numeric


@dataclass(frozen=True)
class MetadataCoder:
    """How the metadata of a slide becomes a vector; saved with the model.

    `categories` has the names known of each categorical column, `scales` mean and deviation of each numeric one.
    Each categorical column gives a 1 among its categories and a last place for unknown. Each numeric one gives its
    value with mean 0 and deviation 1, and a place that is 1 where it is unknown, when the value is 0.
    """

    categories: dict[str, tuple[str, ...]]
    scales: dict[str, tuple[float, float]]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it needs."""
        return (*self.categories, *self.scales)

    @property
    def width(self) -> int:
        """Length of the vector of a slide."""
        return sum(len(names) + 1 for names in self.categories.values()) + 2 * len(self.scales)

    @property
    def unknown(self) -> list[int]:
        """The places in the vector that say unknown."""
        places, end = [], 0
        for size in [len(names) + 1 for names in self.categories.values()] + [2] * len(self.scales):
            end += size
            places.append(end - 1)
        return places

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Float32 (slides, width) of columns of text; what is empty or was never seen is unknown.

        Raises LabelsError for what is no number in a numeric column.
        """
        parts = [_one_hot(table[column], names) for column, names in self.categories.items()]
        for column, (mean, deviation) in self.scales.items():
            values = numeric(table[column], "the metadata").to_numpy()
            known = ~np.isnan(values)
            parts.append(np.stack([np.where(known, (values - mean) / deviation, 0), ~known], axis=1))
        return np.concatenate([np.zeros((len(table), 0)), *parts], axis=1).astype(np.float32)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "MetadataCoder":
        """The coder that `dataclasses.asdict` made JSON of; raises KeyError, TypeError or ValueError if it is none."""
        categories = {str(name): tuple(map(str, names)) for name, names in content["categories"].items()}
        scales = {str(name): (float(mean), float(deviation)) for name, (mean, deviation) in content["scales"].items()}
        if not all(isinstance(names, list) for names in content["categories"].values()):
            raise ValueError("its metadata have a column whose categories are no list")
        "".join([*categories, *scales, *chain.from_iterable(categories.values())]).encode()  # what no file can hold
        if not all(np.isfinite(scale).all() and scale[1] > 0 for scale in scales.values()):
            raise ValueError("its metadata have a scale that is none")
        return cls(categories, scales)


def fit_metadata(table: pd.DataFrame, categorical: Sequence[str], numerical: Sequence[str]) -> MetadataCoder:
    """The coder fitted on a table of the training slides, whose cells are text, empty where unknown.

    A numeric column that is the same everywhere is only moved, one that is empty everywhere is always unknown.
    """
    categories = {column: tuple(sorted(set(table[column]) - {""}, key=natural)) for column in categorical}
    return MetadataCoder(
        categories, {column: _scale(numeric(table[column], "the labels table")) for column in numerical}
    )


def _scale(values: pd.Series) -> tuple[float, float]:
    known = values.dropna()
    if known.empty:
        return 0.0, 1.0
    mean, deviation = float(known.mean()), float(known.std(ddof=0))
    return mean, deviation if deviation > 1e-6 * abs(mean) else 1.0  # all the same, but for rounding


def _one_hot(column: pd.Series, names: Sequence[str]) -> np.ndarray:
    places = column.map({name: place for place, name in enumerate(names)}).fillna(len(names)).to_numpy(int)
    return np.eye(len(names) + 1)[places]
