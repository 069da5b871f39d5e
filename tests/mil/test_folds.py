"""No patient on two sides, ever; every class where it is needed."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mil.errors import LabelsError
from mil.folds import Folds, deal, inner_validation, make_folds, make_split, make_splits
from mil.labels import Labels, target_column
from mil.task import Task


def make_labels(patients: int, slides_each: int = 2, classes: int = 2, **columns: list[str]) -> Labels:
    """Patients p0 … with the same number of slides; patient i has class i modulo classes."""
    names = [f"p{i}" for i in range(patients) for _ in range(slides_each)]
    targets = [i % classes for i in range(patients) for _ in range(slides_each)]
    table = pd.DataFrame({"slide_id": [f"s{i}" for i in range(len(names))], "patient_id": names, "target": targets})
    table["label"] = table["target"].map(lambda target: f"class {target}")
    return Labels(table.assign(**columns), Task(tuple(f"class {k}" for k in range(classes))))


def strata(targets: Iterable[int]) -> pd.DataFrame:
    """Bool, a column a class."""
    return pd.DataFrame({k: np.array(list(targets)) == k for k in sorted(set(targets))})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3])
def test_disjoint_by_patient_and_stratified(seed: int, classes: int) -> None:
    labels = make_labels(30, 3, classes)
    fold_of, names = make_folds(labels, 5, seed)
    assert names == ("0", "1", "2", "3", "4")
    folds_of_patient = pd.Series(fold_of).groupby(labels.table["patient_id"]).nunique()
    assert (folds_of_patient == 1).all()
    counts = pd.crosstab(fold_of, labels.table["target"])
    assert counts.to_numpy().tolist() == [[18 // classes] * classes] * 5


@pytest.mark.parametrize("seed", range(5))
def test_patients_of_any_size_are_shared_out(seed: int) -> None:
    """A hundred patients with 1 to 6 slides, a fifth of them of class 1: each fold gets its share of both."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 7, 100)
    patients = np.repeat(np.arange(100), sizes)
    targets = (patients % 5 == 0).astype(int)
    part = deal(pd.Series(patients.astype(str)), strata(targets), 5, seed)
    assert (pd.Series(part).groupby(patients).nunique() == 1).all()
    counts = pd.crosstab(part, targets)
    assert (counts.max() - counts.min() <= 6).all()  # at most one patient's slides apart
    sizes_of_folds = np.bincount(part)
    assert sizes_of_folds.max() / sizes_of_folds.min() < 1.1


def test_patient_with_two_classes_stays_whole() -> None:
    part = deal(pd.Series(list("aabbccdd")), strata([0, 1] * 4), 2, 0)
    assert (part[::2] == part[1::2]).all()
    assert np.bincount(part).tolist() == [4, 4]


def test_same_seed_same_folds() -> None:
    labels = make_labels(20)
    np.testing.assert_array_equal(make_folds(labels, 4, 7).of, make_folds(labels, 4, 7).of)
    assert (make_folds(labels, 4, 7).of != make_folds(labels, 4, 8).of).any()


def test_fewer_patients_than_folds() -> None:
    with pytest.raises(LabelsError, match="label 'class 1' has 3 patients, fewer than the 5 folds; lower --folds to 3"):
        make_folds(make_labels(7), 5, 0)
    with pytest.raises(LabelsError, match="has 1 patients, fewer than the 2 folds; add patients"):
        make_folds(make_labels(2), 2, 0)


class TestGiven:
    def test_used_as_given(self) -> None:
        labels = make_labels(4, 1, fold=["b", "a", "b", "c"])
        folds = make_folds(labels, 5, 0)
        assert (folds.of.tolist(), folds.names, folds.name_of()) == ([1, 0, 1, 2], ("a", "b", "c"), [*"babc"])

    def test_numbers_are_sorted_as_numbers(self) -> None:
        folds = make_folds(make_labels(4, 1, fold=["10", "2", "1", "2"]), 5, 0)
        assert (folds.of.tolist(), folds.names) == ([2, 1, 0, 1], ("1", "2", "10"))

    def test_fold_that_leaves_no_class_to_train_on(self) -> None:
        labels = make_labels(4, 1, fold=["0", "1", "0", "1"])  # fold and class are the same
        with pytest.raises(LabelsError, match="without fold 0 no slide of the label 'class 0' is left to train on"):
            make_splits(labels, make_folds(labels, 2, 0), 0.2, 0)

    def test_patient_in_two(self) -> None:
        sentence = "the patient 'p0' is in fold 0 and in fold 1: it is in more than one fold of the labels table; put"
        with pytest.raises(LabelsError, match=sentence):
            make_folds(make_labels(2, 2, fold=["0", "1", "1", "1"]), 5, 0)

    @pytest.mark.parametrize("fold", [["0", "0"], ["0", ""]])
    def test_too_few(self, fold: list[str]) -> None:
        with pytest.raises(LabelsError, match="must name, in every row, one of two folds or more"):
            make_folds(make_labels(2, 1, fold=fold), 5, 0)


class TestSites:
    def make(self, sites: list[str]) -> Labels:
        """A slide each of as many patients, of two classes in turn."""
        return replace(make_labels(len(sites), 1, fold=sites), fold_from="hospital")

    def test_each_is_left_out_once(self) -> None:
        labels = self.make(["Ulm", "Ulm", "Bern", "Bern", "Graz", "Graz"])
        folds = make_folds(labels, 5, 0)
        assert folds.names == ("Bern", "Graz", "Ulm")
        for split in make_splits(labels, folds, 0.5, 0):
            sites = labels.table["fold"]
            assert set(sites.iloc[split.test]) == {split.name}
            assert split.name not in set(sites.iloc[[*split.train, *split.valid]])
            assert labels.at(split.train).absent == labels.at(split.valid).absent == ""

    def test_site_may_lack_a_class_but_not_what_is_left(self) -> None:
        labels = self.make(["A", "A", "B", "A", "B", "A"])  # B has class 0 only
        folds = make_folds(labels, 5, 0)
        assert make_split(labels, folds, 1, 0, 0).test.tolist() == [2, 4]
        with pytest.raises(LabelsError, match="without the hospital 'A' no slide of the label 'class 1' is left"):
            make_split(labels, folds, 0, 0.2, 0)

    def test_patient_in_two(self) -> None:
        labels = replace(make_labels(3, 2, fold=["A", "B", "B", "C", "C", "C"]), fold_from="hospital")
        sentence = "'p0' is in the hospital 'A' and in the hospital 'B': .*, like 1 more; put all"
        with pytest.raises(LabelsError, match=sentence):
            make_folds(labels, 5, 0)

    def test_one_only(self) -> None:
        with pytest.raises(
            LabelsError, match="the column hospital of the labels table must name, .* two sites or more"
        ):
            make_folds(self.make(["A", "A"]), 5, 0)


class TestInnerValidation:
    @pytest.mark.parametrize("seed", range(5))
    def test_disjoint_by_patient_with_all_classes(self, seed: int) -> None:
        labels = make_labels(12, 2, 3)
        valid, table = inner_validation(labels, 0.25, seed), labels.table
        assert valid.sum() == 6
        assert not set(table["patient_id"][valid]) & set(table["patient_id"][~valid])
        assert set(table["target"][valid]) == set(table["target"][~valid]) == {0, 1, 2}

    def test_few_patients_still_leave_every_class_on_both_sides(self) -> None:
        labels = make_labels(4, 3)  # two patients a class
        valid, table = inner_validation(labels, 0.2, 0), labels.table
        assert set(table["target"][valid]) == set(table["target"][~valid]) == {0, 1}

    def test_impossible(self) -> None:
        with pytest.raises(LabelsError, match="some class has too few patients; .*--valid-share 0"):
            inner_validation(make_labels(3, 2), 0.2, 0)

    def test_none_wanted(self) -> None:
        labels = make_labels(3, 2)
        assert not inner_validation(labels, 0, 0).any()
        labels = make_labels(4, 1)
        for split in make_splits(labels, Folds(np.array([0, 0, 1, 1]), ("0", "1")), 0, 0):
            assert len(split.valid) == 0
            assert sorted([*split.train, *split.test]) == [0, 1, 2, 3]


class TestSeveralLabels:
    def make(self) -> Labels:
        """Twenty patients: the label a on every fourth, b on every other, unknown for the last four."""
        table = pd.DataFrame({"slide_id": [f"s{i}" for i in range(20)], "patient_id": [f"p{i}" for i in range(20)]})
        table[target_column("a")] = [float(i % 4 == 0) for i in range(20)]
        table[target_column("b")] = [float(i % 2) if i < 16 else np.nan for i in range(20)]
        return Labels(table, Task(("a", "b"), "any of"))

    @pytest.mark.parametrize("seed", range(5))
    def test_every_fold_has_its_share_of_each(self, seed: int) -> None:
        labels = self.make()
        folds = make_folds(labels, 4, seed)
        counts = labels.strata.groupby(folds.of).sum()
        assert counts["a 1"].between(1, 2).all()
        assert counts["b 1"].tolist() == [2] * 4
        assert counts["b 0"].between(1, 3).all()
        for split in make_splits(labels, folds, 0.25, seed):
            for rows in (split.train, split.valid):
                assert labels.strata.iloc[rows].any().all()

    def test_label_that_is_too_rare(self) -> None:
        with pytest.raises(LabelsError, match="label 'a 1' has 5 patients, fewer than the 6 folds"):
            make_folds(self.make(), 6, 0)
