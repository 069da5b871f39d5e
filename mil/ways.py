"""The ways in which several models can be made one, each judged on slides to which nothing of it was fitted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mil.calibration import balanced, prior_from
from mil.crossfit import cross_fitted
from mil.errors import SettingsError
from mil.matching import OutOfFold
from mil.mixture import MixtureSpec, fit_mixture


class Ways(NamedTuple):
    """Cross-fitted probabilities (N, K) of each way by its name: the models, mean, blend and stack, and what is saved.

    What is saved is one of these, `combined`, then `calibrated`, then `final`, for another prior.
    """

    by_name: Mapping[str, np.ndarray]
    combined: np.ndarray
    calibrated: np.ndarray
    final: np.ndarray


def ways_of(found: OutOfFold, spec: MixtureSpec) -> Ways:
    """All ways to score the slides; raises SettingsError for settings that do not fit the models."""
    members_RNK, fold_of = found.members_RNK, found.folds.of
    if spec.weights and len(spec.weights) != len(members_RNK):
        raise SettingsError(f"--weights has {len(spec.weights)} numbers for {len(members_RNK)} runs; give one for each")
    if spec.prior:
        prior_from(found.labels.task, spec.prior)
    before = prior_of(found, spec)

    def judged(spec: MixtureSpec) -> np.ndarray:
        return cross_fitted(
            found.labels, members_RNK, fold_of, lambda *part: fit_mixture(part[0], part[1], part[2], spec, before)
        )

    by_name = dict(zip((source.name for source in found.sources), members_RNK, strict=True))
    plain = replace(spec, calibrate=None, prior=())
    name = found.sources[0].name
    if len(members_RNK) > 1:
        name = spec.method
        by_name["mean"] = judged(replace(plain, method="mean", weights=()))
        by_name["blend"] = judged(replace(plain, method="blend"))
        by_name["stack"] = judged(replace(plain, method="stack", weights=()))
    elif spec.method == "stack":
        name = "stack"
        by_name[name] = judged(plain)
    combined = calibrated = final = by_name[name]
    if spec.calibrate is not None:
        name = f"{name}, {spec.calibrate}"
        by_name[name] = calibrated = final = judged(replace(spec, prior=()))
    if spec.prior:
        by_name[f"{name}, other prior"] = final = judged(spec)
    return Ways(by_name, combined, calibrated, final)


def prior_of(found: OutOfFold, spec: MixtureSpec) -> np.ndarray | None:
    """The prior (K,) that the models have in mind, None: the shares of the slides they were trained on.

    Raises SettingsError where it is needed and not known: where their trainings weighed the classes differently.
    """
    kinds = {source.balance for source in found.sources}
    if kinds == {"balanced"}:
        return balanced(found.labels.task)
    if spec.prior and kinds != {"none"} and spec.method != "stack" and spec.calibrate != "platt":
        raise SettingsError(
            "the runs weighed the classes differently in training (--balance or --focal-alpha), so that what --prior "
            "corrects is not known; give --calibrate platt beside it, which brings them to the shares of the labels"
        )
    return None
