"""Several ways to score the same slides beside each other: out of fold, with intervals."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mil.evaluation import NAMES, Cases, by_patient
from mil.intervals import Estimate, estimates
from mil.labels import Labels
from mil.metrics import METRICS, problems
from mil.patients import PatientRule
from tiling.progress import aligned, short

SHOWN = ("auc", "log_loss", "class_weighted_log_loss", "ece")


class Comparison(NamedTuple):
    """The figures of each way, by slide and by patient: `slides["blend"]["auc"]`."""

    slides: Mapping[str, Mapping[str, Estimate]]
    patients: Mapping[str, Mapping[str, Estimate]]
    slide_count: int
    patient_count: int

    def lines(self) -> list[str]:
        """A table for people, and one by patient where that is another."""
        header = f"out of fold, {self.slide_count} slides, with 95 % intervals over patients:"
        lines = [header, *_table(self.slides)]
        if self.patient_count != self.slide_count:
            lines += [f"the same by patient, {self.patient_count} of them:", *_table(self.patients)]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Strict JSON: what has no value, or an infinite one, is null."""
        levels = {"slides": self.slides, "patients": self.patients}
        return {
            level: {
                way: {name: _finite(estimate) for name, estimate in figures.items()} for way, figures in ways.items()
            }
            for level, ways in levels.items()
        }


def compare(
    labels: Labels, ways: Mapping[str, np.ndarray], metric: str, rule: PatientRule, tiles_N: np.ndarray
) -> Comparison:
    """How good each of the ways is: probabilities (N, K) that no slide's own label took part in.

    Beside the figures in SHOWN there is the one that was asked for.
    """
    chosen = {name: METRICS[name] for name in dict.fromkeys((*SHOWN, metric))}
    nobody = np.zeros(len(labels), int)
    patients_N = labels.table["patient_id"].to_numpy()
    slides = [Cases(found, labels.targets, patients_N, nobody) for found in ways.values()]
    patients = [by_patient(cases, labels.task, rule, tiles_N) for cases in slides]
    of_level = [
        dict(zip(ways, estimates(chosen, [problems(*each[:2]) for each in level], level[0].patients), strict=True))
        for level in (slides, patients)
    ]
    return Comparison(of_level[0], of_level[1], len(labels), len(patients[0].patients))


def _table(ways: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    names = list(next(iter(ways.values())))
    rows = [["", *(NAMES[name] for name in names)]]
    rows += [[short(way, 40), *map(str, figures.values())] for way, figures in ways.items()]
    return aligned(rows)


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in estimate._asdict().items()}
