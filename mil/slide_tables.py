"""Tables that say something of the slides to be scored: their metadata, and whose they are."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mil.errors import LabelsError
from mil.labels import numeric, read_table
from mil.metadata import MetadataCoder


def read_metadata(path: str | None, coder: MetadataCoder) -> pd.DataFrame | None:
    """The metadata of slides, text, by slide_id; None for a run that was trained without any.

    Raises LabelsError where the run has some and none is given, or the reverse, and for a table of no use.
    """
    columns = coder.columns
    if bool(columns) != bool(path):
        raise LabelsError(
            f"the run was trained with the metadata {', '.join(columns)}: give --metadata TABLE with slide_id and these"
            if columns
            else "the run was trained without metadata; leave --metadata out"
        )
    if path is None:
        return None
    table = read_table(Path(path), "metadata table", ("slide_id", *columns))
    for column in coder.scales:
        numeric(table[column], f"the metadata table {path!r}")
    return table.set_index("slide_id")


def read_patients(path: str | None) -> dict[str, str]:
    """The patient_id of each slide of a table, none without a table; raises LabelsError for one of no use."""
    if path is None:
        return {}
    table = read_table(Path(path), "table of patients", ("slide_id", "patient_id"))
    return {slide: patient for slide, patient in zip(table["slide_id"], table["patient_id"], strict=True) if patient}


def without_a_row(names: Sequence[str], table: pd.DataFrame, path: str) -> list[str]:
    """The slides that have no row in the metadata table; raises LabelsError where none has one."""
    without = [name for name in names if name not in table.index]
    if names and len(without) == len(names):
        raise LabelsError(
            f"no slide has a row in the metadata table {path!r}; its slide_ids must be the names of the slides, such "
            f"as {without[0]!r}"
        )
    return without
