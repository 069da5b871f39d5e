"""What is said on a model card of what scores: a run, or an ensemble and then each of its runs."""

from dataclasses import replace
from pathlib import Path

from mil.about import about as about_run
from mil.about import complete, settings_of, table_of
from mil.card import About
from mil.ensemble_folder import Ensemble, is_ensemble, read_ensemble, run_folder
from mil.run_folder import OOF


def about_all(path: Path) -> list[About]:
    """What there is to say of the run or ensemble in a folder, and of an ensemble's runs under the names they had.

    Raises RunError where there is no model, or not the one that an ensemble was made of.
    """
    if not is_ensemble(path):
        return [about_run(path)]
    ensemble = read_ensemble(path)
    runs = [
        replace(about_run(run_folder(path, place)), name=name)
        for place, (name, models) in enumerate(zip(ensemble.names, ensemble.digests, strict=True))
        if models is not None
    ]
    return [_about(path, ensemble, runs), *runs]


def _about(folder: Path, ensemble: Ensemble, runs: list[About]) -> About:
    """Of the ensemble itself: how it is put together, and its figures, which are cross-fitted."""
    steps = ensemble.mixture.in_words(ensemble.task, ensemble.names)
    model = [("Made of", ", ".join(ensemble.names)), *((what.capitalize(), words) for what, words in steps)]
    made = About(folder, "Ensemble", folder.resolve().name, ensemble.task, model)
    if ensemble.mixture.prior is not None:
        made.prior = ensemble.prior
    made.sources = runs[0].sources if runs else []
    complete(made, table_of(folder / OOF), settings_of(run_folder(folder, 0)))
    return made
