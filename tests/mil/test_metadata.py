"""Metadata by hand: known, unknown, missing; fitted on what it is given alone."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from mil.errors import LabelsError
from mil.metadata import MetadataCoder, fit_metadata

TABLE = pd.DataFrame(
    {"site": ["skin", "colon", "", "colon"], "grade": ["10", "2", "2", ""], "age": ["40", "60", "", "80"]}
)


@pytest.fixture
def coder() -> MetadataCoder:
    return fit_metadata(TABLE, ["site", "grade"], ["age"])


def test_fit(coder: MetadataCoder) -> None:
    assert coder.categories == {"site": ("colon", "skin"), "grade": ("2", "10")}
    assert coder.scales == {"age": (60.0, pytest.approx(np.sqrt(800 / 3)))}
    assert (coder.columns, coder.width) == (("site", "grade", "age"), 8)
    assert coder.unknown == [2, 5, 7]


def test_encode(coder: MetadataCoder) -> None:
    new = pd.DataFrame({"age": ["60", "", "100"], "grade": ["2", "3", ""], "site": ["skin", "brain", ""]})
    encoded = coder.encode(new)
    assert encoded.dtype == np.float32
    expected = [
        # colon, skin, unknown; 2, 10, unknown; age, unknown
        [0, 1, 0, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 1, 0, 1],
        [0, 0, 1, 0, 0, 1, 40 / np.sqrt(800 / 3), 0],
    ]
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


def test_none() -> None:
    coder = fit_metadata(TABLE, [], [])
    assert (coder.columns, coder.width) == ((), 0)
    assert coder.encode(TABLE).shape == (4, 0)


def test_columns_that_say_nothing() -> None:
    table = pd.DataFrame({"same": ["0.1"] * 7, "empty": [""] * 7})  # whose mean and deviation are not quite .1 and 0
    coder = fit_metadata(table, [], ["same", "empty"])
    assert coder.scales == {"same": (pytest.approx(0.1), 1.0), "empty": (0.0, 1.0)}
    np.testing.assert_allclose(coder.encode(table), [[0, 0, 0, 1]] * 7, atol=1e-12)
    np.testing.assert_allclose(coder.encode(table.assign(same="0.2"))[0], [0.1, 0, 0, 1], rtol=1e-6)


def test_order_of_categories_is_one() -> None:
    table = pd.DataFrame({"site": ["B", "nan", "7", "A", "inf", "10"]})
    assert fit_metadata(table, ["site"], []).categories["site"] == ("7", "10", "A", "B", "inf", "nan")


def test_through_json(coder: MetadataCoder) -> None:
    assert MetadataCoder.from_json(json.loads(json.dumps(asdict(coder)))) == coder


@pytest.mark.parametrize(
    "content", [{}, {"categories": {}, "scales": {"age": [1, 0]}}, {"categories": {}, "scales": {"age": [1, "nan"]}}]
)
def test_json_that_is_none(content: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        MetadataCoder.from_json(content)


def test_what_is_no_number(coder: MetadataCoder) -> None:
    with pytest.raises(LabelsError, match="row 2 of the metadata has 'old' in the numeric column age"):
        coder.encode(pd.DataFrame({"age": ["old"], "grade": [""], "site": [""]}))
