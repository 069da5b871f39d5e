"""The ways in which models are made one, each cross-fitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mil.errors import SettingsError
from mil.matching import OutOfFold, gather_sources
from mil.mixture import MixtureSpec, fit_mixture
from mil.oof import read_oof_table
from mil.ways import prior_of, ways_of


@pytest.fixture
def found(tmp_path: Path) -> OutOfFold:
    random = np.random.default_rng(0)
    targets = np.arange(120) % 3 // 2
    table = pd.DataFrame({"id": [f"s{i}" for i in range(120)], "label": targets, "fold": np.arange(120) // 3 % 4})
    table["patient"] = [f"p{i // 2}" if i // 2 % 3 else f"s{i}" for i in range(120)]
    table["patient"] = [f"p{i // 12}-{targets[i]}-{i // 3 % 4}" for i in range(120)]
    for name, noise in (("good", 1.0), ("fair", 2.0), ("sure", 2.0)):
        table[name] = 1 / (1 + np.exp(-(1 + (name == "sure") * 4) * (2 * targets - 1 + random.normal(0, noise, 120))))
    table.to_csv(tmp_path / "oof.csv", index=False)
    return gather_sources(read_oof_table(tmp_path / "oof.csv"))


def test_each_fold_comes_from_the_others(found: OutOfFold) -> None:
    spec = MixtureSpec(calibrate="platt", prior=("balanced",))
    ways = ways_of(found, spec)
    assert list(ways.by_name) == [
        "good", "fair", "sure", "mean", "blend", "stack", "blend, platt", "blend, platt, other prior"
    ]  # fmt: skip
    members, fold_of = found.members_RNK, found.folds.of
    rest, own = np.flatnonzero(fold_of != 2), fold_of == 2
    for name, part in (
        ("mean", MixtureSpec(method="mean")), ("blend", MixtureSpec()), ("stack", MixtureSpec(method="stack")),
        ("blend, platt", replace(spec, prior=())), ("blend, platt, other prior", spec),
    ):  # fmt: skip
        fitted = fit_mixture(found.labels.at(rest), members[:, rest], fold_of[rest], part)
        np.testing.assert_array_equal(ways.by_name[name][own], fitted(found.labels.task, members[:, own]), name)
    assert ways.final is ways.by_name["blend, platt, other prior"]
    assert ways.calibrated is ways.by_name["blend, platt"]
    assert ways.combined is ways.by_name["blend"]


def test_one_model_is_what_it_is(found: OutOfFold) -> None:
    alone = replace(found, sources=found.sources[:1])
    ways = ways_of(alone, MixtureSpec(calibrate="temperature"))
    assert list(ways.by_name) == ["good", "good, temperature"]
    np.testing.assert_array_equal(ways.combined, found.sources[0].probabilities)


def test_prior_that_is_not_known(found: OutOfFold) -> None:
    balanced = replace(found.sources[0], balance="balanced")
    mixed = replace(found, sources=(balanced, found.sources[1]))
    with pytest.raises(SettingsError, match="weighed the classes differently .* give --calibrate platt"):
        ways_of(mixed, MixtureSpec(prior=("balanced",)))
    assert prior_of(mixed, MixtureSpec(prior=("balanced",), calibrate="platt")) is None
    same = prior_of(replace(found, sources=(balanced,)), MixtureSpec(prior=("balanced",)))
    assert same is not None
    assert same.tolist() == [0.5, 0.5]
