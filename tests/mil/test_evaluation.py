"""What metrics.json says, with figures by hand."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from mil.evaluation import INFINITE, Cases, baseline, by_patient, evaluate, priors
from mil.labels import Labels, target_column
from mil.metrics import METRICS, auc, average_precision, f1, log_loss, one_against_rest, problems
from mil.patients import PatientRule
from mil.task import ANY_OF, ONE_VS_NORMAL, Task

FIGURES = ["auc", "auc_within_folds", *list(METRICS)[1:]]


def make_labels(targets: np.ndarray, patients: list[str], task: Task) -> Labels:
    table = pd.DataFrame({"slide_id": [f"s{i}" for i in range(len(patients))], "patient_id": patients})
    if targets.ndim == 1:
        return Labels(table.assign(target=targets), task)
    return Labels(table.assign(**{target_column(name): targets[:, k] for k, name in enumerate(task.classes)}), task)


def binary(*chances: float) -> np.ndarray:
    return np.array([[1 - chance, chance] for chance in chances])


TARGETS = np.array([0, 0, 0, 1, 1, 1, 0, 1])
PATIENTS = ["a", "a", "b", "c", "c", "d", "e", "e"]  # e has slides of both classes
FOLD_OF = np.array([0, 0, 1, 0, 0, 1, 1, 1])
CHANCES = binary(0.1, 0.3, 0.6, 0.7, 0.5, 0.8, 0.2, 0.9)
LABELS = make_labels(TARGETS, PATIENTS, Task(("normal", "tumour")))


class TestByPatient:
    def test_mean_probabilities_and_no_patient_of_two_classes(self) -> None:
        cases = by_patient(Cases(CHANCES, TARGETS, np.array(PATIENTS), FOLD_OF), LABELS.task)
        assert cases.patients.tolist() == ["a", "b", "c", "d"]
        assert cases.probabilities == pytest.approx(binary(0.2, 0.6, 0.6, 0.8))
        assert cases.targets.tolist() == [0, 0, 1, 1]
        assert cases.fold_of.tolist() == [0, 1, 0, 1]

    def test_other_rules(self) -> None:
        cases = Cases(CHANCES, TARGETS, np.array(PATIENTS), FOLD_OF)
        assert by_patient(cases, LABELS.task, PatientRule("max")).probabilities == pytest.approx(
            binary(0.3, 0.6, 0.7, 0.8)
        )
        tiles = np.array([3, 1, 1, 1, 1, 1, 1, 1])
        weighted = by_patient(cases, LABELS.task, PatientRule("mean", tile_weights=True), tiles)
        assert weighted.probabilities == pytest.approx(binary(0.15, 0.6, 0.6, 0.8))

    def test_a_label_of_any_slide_is_the_patients(self) -> None:
        targets = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [np.nan, 0, 1]])
        cases = by_patient(
            Cases(np.full((3, 3), 0.5), targets, np.array(["p", "p", "q"]), np.zeros(3, int)),
            Task(("x", "y", "z"), ANY_OF),
        )
        np.testing.assert_array_equal(cases.targets, [[1, 0, np.nan], [np.nan, 0, 1]])


class TestPriors:
    def test_are_those_of_the_other_folds(self) -> None:
        shares = priors(np.array([0, 1, 1, 0, 2]), np.array([0, 0, 1, 1, 2]), 3)
        thirds = [1 / 3, 1 / 3, 1 / 3]
        assert shares == pytest.approx(np.array([thirds, thirds, thirds, thirds, [0.5, 0.5, 0]]))

    def test_of_a_label_where_it_is_known(self) -> None:
        targets = np.array([[1, 0], [0, np.nan], [np.nan, 1], [1, 1]])
        shares = priors(targets, np.array([0, 0, 1, 1]), 2)
        assert shares == pytest.approx(np.array([[1, 1], [1, 1], [0.5, 0], [0.5, 0]]))

    def test_nothing_to_take_them_from(self) -> None:
        assert np.isnan(priors(np.array([0, 1]), np.array([0, 0]), 2)).all()


class TestBaseline:
    def test_of_two_classes(self) -> None:
        targets, fold_of = np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1])
        shares = priors(targets, fold_of, 2)  # 1/2 1/2 in fold 0; in fold 1 all are 0
        found = baseline(problems(shares, targets), 4)
        assert list(found) == FIGURES
        assert found == pytest.approx({
            "auc": 0.5, "auc_within_folds": 0.5, "average_precision": 0.25, "accuracy": 0.75,
            "balanced_accuracy": 0.5, "f1": 0.4, "kappa": 0,
            "log_loss": math.inf, "class_weighted_log_loss": math.log(2), "ece": (1 + 1) / 4,
        })  # fmt: skip

    def test_log_loss_is_that_of_the_shares(self) -> None:
        shares = priors(TARGETS, FOLD_OF, 2)
        assert baseline(problems(shares, TARGETS), 8)["log_loss"] == pytest.approx(math.log(2))

    def test_of_three_classes(self) -> None:
        targets, fold_of = np.array([0, 0, 1, 2] * 2), np.repeat([0, 1], 4)
        found = baseline(problems(priors(targets, fold_of, 3), targets), 8)
        assert found == pytest.approx({
            "auc": 0.5, "auc_within_folds": 0.5, "average_precision": 1 / 3, "accuracy": 0.5,
            "balanced_accuracy": 1 / 3, "f1": 2 / 3 / 3, "kappa": 0,
            "log_loss": 1.5 * math.log(2), "class_weighted_log_loss": math.log(3), "ece": 0,
        })  # fmt: skip

    def test_no_constant_is_better_than_the_known_ones(self) -> None:
        random = np.random.default_rng(0)
        for classes in (2, 4):
            targets = np.append(random.integers(0, classes, 50), np.arange(classes))
            best = baseline(problems(priors(targets, np.arange(len(targets)) % 5, classes), targets), len(targets))
            for constant in [*np.eye(classes) * 0.9 + 0.1 / classes, np.full(classes, 1 / classes)]:
                chances = np.tile(constant, (len(targets), 1))
                for name in set(METRICS) - {"log_loss", "class_weighted_log_loss", "ece"}:
                    assert METRICS[name](chances, targets) <= best[name] + 1e-12
                worse = METRICS["class_weighted_log_loss"](chances, targets)
                assert worse >= best["class_weighted_log_loss"] - 1e-12

    def test_of_labels_the_mean(self) -> None:
        targets = np.array([[1, 0], [0, 1], [1, 0], [0, np.nan]])
        found = baseline(problems(priors(targets, np.array([0, 0, 1, 1]), 2), targets), 4)
        assert found["average_precision"] == pytest.approx((1 / 2 + 1 / 3) / 2)
        assert found["accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert found["class_weighted_log_loss"] == pytest.approx(math.log(2))


class TestEvaluate:
    def test_figures_by_slide_and_by_patient(self) -> None:
        found = evaluate(LABELS, CHANCES, FOLD_OF, ["0", "1"])
        assert (found.slides.count, found.patients.count, found.left_out) == (8, 4, 1)
        # .6 beats no negative but .5, one of four positives: 15 of 16 pairs
        assert found.slides.figures["auc"].value == 15 / 16
        assert found.patients.figures["auc"].value == pytest.approx(3.5 / 4)  # .6 and .6 are a tie
        assert found.slides.figures["accuracy"].value == 6 / 8
        assert found.slides.baseline["log_loss"] == pytest.approx(math.log(2))
        assert list(found.slides.figures) == list(found.patients.figures) == FIGURES
        figures = dict(found.slides.figures)
        assert str(figures.pop("auc_within_folds")) == "1.000 (? to ?)"
        for estimate in figures.values():
            assert estimate.low <= estimate.value <= estimate.high

    def test_of_each_class(self) -> None:
        found = evaluate(LABELS, CHANCES, FOLD_OF, ["0", "1"]).slides.classes
        assert list(found) == ["normal", "tumour"]
        assert (found["normal"].count, found["normal"].known) == (4, 8)
        assert list(found["normal"].figures) == [*FIGURES, "sensitivity", "specificity", "precision"]
        # decided to be a tumour: .6 .7 .8 .9 but not the .5
        assert found["tumour"].figures["sensitivity"].value == 3 / 4
        assert found["tumour"].figures["specificity"].value == 3 / 4
        assert found["normal"].figures["sensitivity"].value == 3 / 4
        assert found["normal"].figures["auc"].value == 15 / 16

    def test_of_each_fold(self) -> None:
        folds = evaluate(LABELS, CHANCES, FOLD_OF, ["Basel", "Oslo"]).folds
        assert [(fold.fold, fold.name, fold.slides, fold.patients) for fold in folds] == [
            (0, "Basel", 4, 2), (1, "Oslo", 4, 3),
        ]  # fmt: skip
        assert folds[1].figures["auc"] == 1
        assert folds[1].figures["log_loss"] == pytest.approx(-np.log([0.4, 0.8, 0.8, 0.9]).mean())

    @pytest.mark.parametrize(("normal", "positive"), [("benign", "cancer"), ("cancer", "benign")])
    def test_the_positive_class_is_not_the_normal_one(self, normal: str, positive: str) -> None:
        labels = make_labels(TARGETS, PATIENTS, Task(("benign", "cancer"), ONE_VS_NORMAL, normal))
        found = evaluate(labels, CHANCES, FOLD_OF, ["0", "1"])
        assert found.positive == positive
        flipped = positive == "benign"
        chances, targets = (CHANCES[:, ::-1], 1 - TARGETS) if flipped else (CHANCES, TARGETS)
        assert found.slides.figures["average_precision"].value == pytest.approx(average_precision(chances, targets))
        # the slide of .5 is decided to be benign, as `Task.predicted` does
        assert found.slides.figures["f1"].value == pytest.approx(f1(CHANCES, TARGETS))
        assert found.slides.figures["auc"].value == auc(CHANCES, TARGETS)

    def test_of_each_fold_the_positive_class_is_the_same(self) -> None:
        labels = make_labels(TARGETS, PATIENTS, Task(("cancer", "normal"), ONE_VS_NORMAL, "normal"))
        chances = binary(0.1, 0.3, 0.6, 0.7, 0.45, 0.8, 0.2, 0.15)
        folds = evaluate(labels, chances, FOLD_OF, ["0", "1"]).folds
        # cancer is .1 and .3 in fold 0, where .45 is decided to be; .2 and .6 in fold 1, where .15 and .2 are
        assert [fold.figures["f1"] for fold in folds] == [pytest.approx(4 / 5), 1 / 2]
        assert [fold.figures["average_precision"] for fold in folds] == [1, pytest.approx((1 / 2 + 2 / 3) / 2)]

    def test_more_classes_and_labels_have_no_positive_one(self) -> None:
        labels = make_labels(np.array([[1.0, 0], [0, 1], [1, np.nan], [0, 0]]), list("abcd"), Task(("x", "y"), ANY_OF))
        chances = np.array([[0.9, 0.2], [0.3, 0.7], [0.2, 0.99], [0.1, 0.8]])
        found = evaluate(labels, chances, np.array([0, 1, 0, 1]), ["0", "1"])
        assert found.positive is None
        assert found.slides.figures["auc"].value == auc(chances, labels.targets)
        assert (found.slides.classes["y"].count, found.slides.classes["y"].known) == (1, 3)
        classes = Labels(LABELS.table, Task(("normal", "tumour", "other")))
        assert evaluate(classes, np.full((8, 3), 1 / 3), FOLD_OF, ["0", "1"]).positive is None

    def test_nobody_is_of_one_class(self) -> None:
        labels = make_labels(np.array([0, 1, 1, 0]), ["a", "a", "b", "b"], LABELS.task)
        found = evaluate(labels, binary(0.1, 0.2, 0.3, 0.4), np.array([0, 0, 1, 1]), ["0", "1"])
        assert (found.patients.count, found.left_out) == (0, 2)
        assert all(math.isnan(estimate.value) for estimate in found.patients.figures.values())
        json.dumps(found.as_json(), allow_nan=False)
        assert found.lines()[-1] == "2 patients have slides of different classes and are left out of what is by patient"

    def test_refuses_a_slide_without_a_prediction(self) -> None:
        with pytest.raises(AssertionError, match="without a prediction"):
            evaluate(LABELS, np.where(np.arange(8)[:, None] == 3, np.nan, CHANCES), FOLD_OF, ["0", "1"])


class TestJson:
    def test_layout(self) -> None:
        content = json.loads(json.dumps(evaluate(LABELS, CHANCES, FOLD_OF, ["0", "1"]).as_json(), allow_nan=False))
        assert list(content) == ["slides", "patients", "positive", "interval", "folds"]
        assert list(content["slides"]) == ["count", *FIGURES, "classes"]
        assert list(content["patients"]) == ["count", *FIGURES, "classes", "left_out"]
        assert content["slides"]["auc"]["value"] == 15 / 16
        assert content["slides"]["auc"]["baseline"] == 0.5
        assert list(content["slides"]["auc"]) == ["value", "low", "high", "baseline"]
        assert list(content["slides"]["classes"]["tumour"]) == [
            "count", "known", *FIGURES, "sensitivity", "specificity", "precision",
        ]  # fmt: skip
        assert list(content["slides"]["classes"]["tumour"]["sensitivity"]) == ["value", "low", "high"]
        assert content["positive"] == "tumour"
        assert list(content["folds"][1]) == ["fold", "name", "slides", "patients", *METRICS]

    def test_what_is_not_finite_is_null(self) -> None:
        chances = binary(1.0, 0.3, 0.6, 0.7, 0.5, 0.8, 0.2, 0.9)
        content = evaluate(LABELS, chances, np.where(np.arange(8) < 3, 0, 1), ["0", "1"]).as_json()
        infinite = content["slides"]["log_loss"]
        assert infinite == {
            "value": None, "low": infinite["low"], "high": None, "baseline": infinite["baseline"], "note": INFINITE,
        }  # fmt: skip
        assert infinite["low"] < log_loss(chances[1:], TARGETS[1:])
        assert content["folds"][0]["auc"] is None  # it has one class only
        assert content["folds"][0]["note"] == INFINITE
        assert "note" not in content["folds"][1]
        json.dumps(content, allow_nan=False)


class TestLines:
    def test_two_classes(self) -> None:
        lines = evaluate(LABELS, CHANCES, FOLD_OF, ["0", "1"]).lines()
        assert lines[0] == "out of fold, 8 slides of 5 patients, with 95 % intervals over patients:"
        assert re.split(" {2,}", lines[1].strip()) == ["by slide", "by patient", "constant answer"]
        assert lines[2].startswith("  AUC                      0.938 (")
        assert lines[2].endswith("  0.500")
        assert len(lines) == 2 + len(FIGURES) + 1

    def test_folds_of_different_class_shares(self) -> None:
        targets, fold_of = np.array([0, 0, 0, 1, 0, 1, 1, 1]), np.repeat([0, 1], 4)
        labels = make_labels(targets, list("abcdefgh"), Task(("no", "yes")))
        found = evaluate(labels, priors(targets, fold_of, 2), fold_of, ["0", "1"])
        # 1 of 4 in fold 0 is told 3/4: of the 16 pairs it wins 1 and loses 9, 6 are ties of the same fold
        assert found.slides.figures["auc"].value == 4 / 16
        assert found.slides.figures["auc_within_folds"].value == 0.5
        lines = found.lines()
        assert re.split(" {2,}", lines[3].strip()) == ["AUC within folds", "0.500 (? to ?)", "0.500"]
        assert lines[-1] == (
            "folds differ in their class shares, so that answering those trained on gets an AUC of 0.250: "
            "judge by the AUC within folds"
        )

    def test_a_patient_a_fold(self) -> None:
        targets, fold_of = np.arange(8) % 2, np.arange(8)
        labels = make_labels(targets, list("abcdefgh"), Task(("no", "yes")))
        found = evaluate(labels, priors(targets, fold_of, 2), fold_of, [str(fold) for fold in fold_of])
        assert found.slides.figures["auc"].value == 0
        assert found.as_json()["slides"]["auc_within_folds"] == {
            "value": None,
            "low": None,
            "high": None,
            "baseline": 0.5,
        }
        lines = found.lines()
        assert not any(line.startswith("  AUC within folds") for line in lines)
        assert lines[-1].endswith("gets an AUC of 0.000: and no fold has both sides for one within folds")

    def test_one_fold_alone(self) -> None:
        lines = evaluate(LABELS, CHANCES, np.zeros(8, int), ["0"]).lines()
        assert not any("class shares" in line for line in lines)

    def test_names_of_any_length_are_a_line(self) -> None:
        names = ("a" * 60 + "b" * 45, "\x1b[31mred\n and\tblue", "x" * 40)
        labels = make_labels(np.arange(6) % 3, list("abcdef"), Task(names))
        lines = evaluate(labels, np.full((6, 3), 1 / 3), np.repeat([0, 1], 3), ["0", "1"]).lines()
        shown = ["a" * 20 + "…" + "b" * 19, r"\x1b[31mred\n and\tblue", "x" * 40]
        for line, name in zip(lines[-3:], shown, strict=True):
            assert line.startswith(f"  AUC of {name} (2 of 6)")
        assert max(map(len, lines)) < 110

    def test_labels(self) -> None:
        labels = make_labels(
            np.array([[1.0, 0], [0, 1], [1, np.nan], [0, 0]]), list("abcd"), Task(("x", "y\ny"), ANY_OF)
        )
        chances = np.array([[0.9, 0.2], [0.3, 0.7], [0.2, 0.99], [0.1, 0.8]])
        lines = evaluate(labels, chances, np.array([0, 1, 0, 1]), ["0", "1"]).lines()
        assert "by patient" not in lines[1]  # each has one slide
        assert lines[-2].startswith(r"  AUC of y\ny (1 of 3)")
        assert "0.500 (" in lines[-2]


def test_a_class_against_the_rest_has_the_baseline_of_its_share() -> None:
    targets = np.array([0, 0, 1, 2] * 2)
    shares = priors(targets, np.repeat([0, 1], 4), 3)
    found = [baseline([part], 8) for part in one_against_rest(shares, targets)]
    assert [of_class["average_precision"] for of_class in found] == [0.5, 0.25, 0.25]
    assert [of_class["accuracy"] for of_class in found] == [0.5, 0.75, 0.75]
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert [of_class["log_loss"] for of_class in found] == pytest.approx([math.log(2), quarter, quarter])
