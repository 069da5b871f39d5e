"""Bags whose tiles a ChipNet picked, and who of it looked: the folds of a training must be those of the ChipNet's run.

Where a slide lies was told by networks that learned from labels, for each slide by the fold that had not seen it. Were
slides of one such fold spread over two, or those of two in one, tiles of a test would be chosen by its own labels.
"""

from mil.cohort import Cohort
from mil.errors import LabelsError
from mil.folds import Folds

ALL = "all"  # the vote of all folds, on a slide that none has seen
_REMEDY = (
    "tiles would be chosen by networks that have seen what is tested; give the folds.csv of the ChipNet run as "
    "--labels, so that both have the same folds"
)


def refuse_known_patients(cohort: Cohort) -> None:
    """Raise LabelsError, naming two slides, where all folds voted for one and a single one for the other of a patient.

    All but that one had learned from the patient; nobody had told the tiler whose the first slide is.
    """
    table = cohort.labels.table
    slides, patients = table["slide_id"], table["patient_id"]
    of_one_fold = {patients[place]: place for place, vote in enumerate(cohort.votes) if vote not in (None, ALL)}
    for place, vote in enumerate(cohort.votes):
        known = of_one_fold.get(patients[place])
        if vote == ALL and known is not None:
            raise LabelsError(
                f"the tiles of {slides[place]!r} were picked by all folds of a ChipNet, though all but fold "
                f"{cohort.votes[known]} have seen its patient, {patients[place]!r} (by {slides[known]!r}): pick them "
                "again with a slides table that has its patient_id as the folds.csv of the ChipNet run has it"
            )


def refuse_other_folds(cohort: Cohort, folds: Folds) -> None:
    """Raise LabelsError, naming two slides, where they are not as together, or apart, as the ChipNet run had them.

    Slides for which all its folds voted may be anywhere.
    """
    slides, called = cohort.labels.table["slide_id"], folds.name_of()
    first_of_vote: dict[str, int] = {}
    first_in_fold: dict[str, int] = {}
    for place, vote in enumerate(cohort.votes):
        if vote is None or vote == ALL:
            continue
        fold = called[place]
        same_vote, same_fold = first_of_vote.setdefault(vote, place), first_in_fold.setdefault(fold, place)
        if called[same_vote] != fold:
            raise LabelsError(
                f"the tiles of {slides[same_vote]!r} and {slides[place]!r} were picked by fold {vote} of a ChipNet, "
                f"and this training has them in two folds, {called[same_vote]} and {fold}: {_REMEDY}"
            )
        if cohort.votes[same_fold] != vote:
            raise LabelsError(
                f"the tiles of {slides[same_fold]!r} and {slides[place]!r} were picked by two folds of a ChipNet, "
                f"{cohort.votes[same_fold]} and {vote}, and this training has both in fold {fold}: {_REMEDY}"
            )
