"""Ways beside each other."""

from mil.comparison import compare
from mil.matching import OutOfFold
from mil.mixture import MixtureSpec
from mil.patients import PatientRule
from mil.ways import ways_of
from tests.mil.test_ways import found

__all__ = ["found"]  # the fixture


def test_comparison(found: OutOfFold) -> None:
    ways = ways_of(found, MixtureSpec())
    figures = compare(found.labels, ways.by_name, "kappa", PatientRule(), found.tiles)
    assert list(figures.slides["stack"]) == ["auc", "log_loss", "class_weighted_log_loss", "ece", "kappa"]
    assert figures.slides["stack"]["log_loss"].value < figures.slides["sure"]["log_loss"].value
    assert figures.slides["stack"]["auc"].low > 0.5
    assert figures.patient_count == found.labels.table["patient_id"].nunique()
    lines = figures.lines()
    assert lines[0] == "out of fold, 120 slides, with 95 % intervals over patients:"
    assert lines[1].split()[-1] == "kappa"
    assert [line.split()[0] for line in lines[2:8]] == ["good", "fair", "sure", "mean", "blend", "stack"]
    assert lines[8] == f"the same by patient, {figures.patient_count} of them:"
