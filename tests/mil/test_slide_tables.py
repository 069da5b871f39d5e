"""Tables that go with slides to be scored are read, or refused with a sentence."""

from pathlib import Path

import pandas as pd
import pytest

from mil.errors import LabelsError
from mil.slide_tables import read_patients, without_a_row


def test_patients(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("slide_id,patient_id,age\na,p,1\n'=b, '=q,2\nc,,3\n")
    assert read_patients(str(path)) == {"a": "p", "=b": "=q"}
    assert read_patients(None) == {}
    path.write_text("slide_id,patient\na,p\n")
    with pytest.raises(LabelsError, match="the table of patients .* lacks the column patient_id"):
        read_patients(str(path))


def test_slides_without_metadata() -> None:
    table = pd.DataFrame({"age": ["1"]}, index=["a"])
    assert without_a_row(["a", "b"], table, "m.csv") == ["b"]
    assert without_a_row([], table, "m.csv") == []
    with pytest.raises(LabelsError, match="no slide has a row in the metadata table 'm.csv'; .* such as 'b'"):
        without_a_row(["b"], table, "m.csv")
