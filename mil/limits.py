"""What a model is not for, and what is not known of it, as far as that follows from its run."""

from collections.abc import Mapping
from typing import Any

from mil.card import About
from mil.evaluation import NAMES
from mil.task import ANY_OF

_FEW, _FEW_OF_CLASS = 200, 30  # patients


def limits_of(made: About, config: Mapping[str, Any]) -> list[str]:
    """What the model is not for, and what is not known of it."""
    names = ", ".join(made.task.classes)
    answer = "any of these labels, or none" if made.task.kind == ANY_OF else "one of these answers"
    found = [
        "It is not a medical device. Nothing here is approved for diagnosis, and no decision about a patient may rest "
        "on it.",
        f"It knows {names}, and nothing else. Every slide gets {answer}: those of another organ, stain, species or "
        "disease too, and nothing warns of them.",
        _of_scanners(made),
    ]
    if made.slides and made.patients < _FEW:
        found.append(
            f"It learned from {made.slides} slides of {made.patients} patients, which are few: read the intervals, not "
            "the figures alone."
        )
    few = [f"{each.name} ({each.patients})" for each in made.classes if 0 < each.patients < _FEW_OF_CLASS]
    if few:
        found.append(f"Patients of these classes are too few to know how it does on them: {', '.join(few)}.")
    auc = next((each for each in made.figures if each.name == NAMES["auc"]), None)
    if auc is not None and auc.verdict != "better":
        found.insert(
            1, "Its AUC cannot be told from that of a constant answer: it is not known to have learned anything."
        )
    site = config.get("site")
    found.append(
        f"Its folds are the values of {site!r}: the figures are for sites it had not seen, of the kind that is here."
        if site
        else "Its folds were not split by site: the figures are for patients of the same laboratories, not of others."
    )
    found.append(_of_probabilities(made))
    found.append(
        "Attention says which tiles were weighed, not that there is disease in them, nor that there is none elsewhere."
    )
    if made.skipped:
        found.append(f"{made.skipped} labelled slides could not be used; the figures say nothing of slides like them.")
    return found


def _of_scanners(made: About) -> str:
    seen = dict(made.sources)
    if "Formats" not in seen:
        return (
            "From which scanners its slides came the run does not say; on others, and on other stains, it is untested."
        )
    scale = f", at {seen['Scales']}" if "Scales" in seen else ""
    return (
        f"Its slides were of these formats: {seen['Formats']}{scale}. On other scanners, stains and laboratories it is "
        "untested; expect worse."
    )


def _of_probabilities(made: About) -> str:
    prior = [each.slides / made.slides for each in made.classes] if made.slides else ()
    shares = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(made.task.classes, made.prior or prior, strict=False)
    )
    where = "they were corrected for" if made.prior else "in its training"
    error = next((each.slides.get("value") for each in made.figures if each.name == NAMES["ece"]), None)
    said = f" Out of fold they were off by {error:.3f} on average (calibration error)." if error is not None else ""
    if made.prior:
        said = " The figures here are of the labelled slides, which have other shares."
    return (
        f"Its probabilities hold where classes are as frequent as {where}" + (f" ({shares})" if shares else "")
        + f"; elsewhere they have to be corrected.{said}"
    )  # fmt: skip
