"""Scores of slides from one run, several, or an ensemble: all their folds, on one view of a slide or on several."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mil.blend import Average
from mil.calibration import shares
from mil.checkpoint import ModelCard
from mil.ensemble_folder import digests_of, is_ensemble, read_ensemble, run_folder
from mil.errors import RunError, SettingsError, cause
from mil.labels import of_run
from mil.losses import probabilities
from mil.metadata import MetadataCoder
from mil.mixture import Mixture, mean_of
from mil.predict import Prediction, Run, instances_of, load_run, mean_of_first, outputs_of
from mil.run_folder import FOLDS, read_text
from mil.task import Task
from mil.views import Rounds, Views, views_of
from tiling.bag import Bag, differing
from tiling.features import FeatureBag

_DIGITS = 16


@dataclass(frozen=True, eq=False)
class Scorer:
    """Runs on one device, with the views that each takes of a slide, and what makes one score of their scores.

    `digest` names all of it: weights, mixture, views. `prior_K` float64 (K,) is the best answer for a slide of which
    nothing is known: the class shares of the training slides (the mean over runs), or those that an ensemble was
    corrected for.
    """

    runs: tuple[Run, ...]
    views: tuple[Views, ...]
    mixture: Mixture
    card: ModelCard
    digest: str
    prior_K: np.ndarray

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.card.task

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.runs[0].device

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides at which its runs are given tiles or overviews, in pixels, each once."""
        return tuple(sorted({run.px for run in self.runs}))

    @property
    def takes_features(self) -> bool:
        """Whether the runs were trained on bags of features and not of tiles."""
        return self.runs[0].takes_features

    @property
    def takes_overviews(self) -> bool:
        """Whether they look at the overviews of slides and not at tiles."""
        return self.runs[0].takes_overviews

    @torch.inference_mode()
    def predict(
        self, bag: Bag | FeatureBag, metadata: pd.DataFrame | None = None,
        instances: Mapping[int, Tensor] | None = None,
    ) -> Prediction:  # fmt: skip
        """The score of a bag; `metadata` is a table of one row of text with the columns of the card, None: unknown.

        `instances` are the bag's by each of the `sides`, where they have been made already (see `tiling.ready`); the
        bag is not asked for any then.

        The members are the models of all runs, a run's one behind the other, on its first view, its second, and so on.
        Each run says their mean, of probabilities or of logits, and the mixture makes one of the runs. Attention and
        map are means over all models on the slide as it is.
        """
        task, slide_id = self.task, bag.header.slide_id
        members, of_runs, as_it_is = [], [], []
        if instances is None:
            instances = {run.px: instances_of(run, bag) for run in self.runs}
        for run, views in zip(self.runs, self.views, strict=True):
            logits = []
            for place, view in enumerate(views(instances[run.px].to(run.device), slide_id)):
                outputs = outputs_of(run, view, metadata)
                logits += [output.logits_BK[0] for output in outputs]
                as_it_is += outputs if place == 0 else []
            logits_EL = torch.stack(logits)
            members_EK = probabilities(task, logits_EL)
            if self.mixture.average == "probabilities":
                of_run_K = members_EK.mean(0)
            else:
                of_run_K = probabilities(task, logits_EL.double().mean(0, keepdim=True))[0]
            members.append(members_EK.cpu().numpy())
            of_runs.append(of_run_K.cpu().numpy())
        return Prediction(
            self.mixture(task, np.stack(of_runs)[:, None])[0],
            mean_of_first(output.attention_BN for output in as_it_is),
            mean_of_first(output.map_BGG for output in as_it_is),
            np.concatenate(members),
        )


def load_scorer(
    paths: Sequence[Path], device: torch.device, instance_chunk: int | None = None, rounds: Rounds = 1,
    average: Average | None = None,
) -> Scorer:  # fmt: skip
    """The scorer of one run, of the mean of several, or of an ensemble that `python -m mil.ensemble` saved.

    `rounds` are the views of a slide: a number of augmented ones, the first being the slide as it is, or the eight
    symmetries. `average` says whether means are of probabilities (if not told) or of logits; an ensemble knows. Raises
    RunError where a folder is none, is damaged, or runs do not go together, and SettingsError for views that say
    nothing.
    """
    ensembles = [path for path in paths if is_ensemble(path)]
    if ensembles and len(paths) > 1:
        raise RunError(
            f"{str(ensembles[0])!r} is an ensemble, which is scored alone; give its runs, or make an ensemble of all"
        )
    ensemble = read_ensemble(ensembles[0]) if ensembles else None
    if ensemble is not None:
        if average is not None:
            raise SettingsError("--average is for several runs; an ensemble was saved with its own, leave it out")
        if None in ensemble.digests:
            raise RunError(
                f"the ensemble {str(ensembles[0])!r} was made of tables of predictions and has no models to score "
                "with; make one of runs"
            )
        folders = [run_folder(ensembles[0], place) for place in range(len(ensemble.names))]
        mixture = ensemble.mixture
    else:
        folders, mixture = list(paths), mean_of(len(paths), average or "probabilities")
    runs = tuple(load_run(folder, device, instance_chunk) for folder in folders)
    card = _card(folders, runs)
    views = tuple(views_of(folder, run, rounds) for folder, run in zip(folders, runs, strict=True))
    if ensemble is None:
        prior_K = np.mean([_prior(folder, card.task) for folder in folders], axis=0)
        models = [digests_of(folder) for folder in folders]
    elif ensemble.task == card.task:
        prior_K, models = np.array(ensemble.prior), [each or {} for each in ensemble.digests]
    else:
        raise RunError(f"the ensemble {str(ensembles[0])!r} is of another task than its runs; make it again")
    return Scorer(runs, views, mixture, card, _digest(models, mixture, views), prior_K)


def _card(folders: Sequence[Path], runs: Sequence[Run]) -> ModelCard:
    """The card of the first model, with the columns of metadata of all runs; raises RunError where they do not fit."""
    first = runs[0].card
    for folder, run in zip(folders, runs, strict=True):
        card = run.card
        if card.task != first.task:
            what = f"classes ({', '.join(first.task.classes)}; {', '.join(card.task.classes)}) or kind of task"
        elif names := differing(first.bag_spec, card.bag_spec):
            what = f"{', '.join(names)} of their bags"
        else:
            continue
        raise RunError(
            f"the runs {str(folders[0])!r} and {str(folder)!r} differ in {what}, so that they cannot score the same "
            "slides; give runs that were trained on bags made alike"
        )
    coders = [run.card.metadata for run in runs]
    return replace(first, metadata=reduce(_both, coders))


def _both(one: MetadataCoder, other: MetadataCoder) -> MetadataCoder:
    """A coder that needs the columns of two; what it makes of them is not used."""
    return MetadataCoder({**other.categories, **one.categories}, {**other.scales, **one.scales})


def _prior(folder: Path, task: Task) -> np.ndarray:
    """The share (K,) of each class among the slides of a run."""
    try:
        return shares(task, of_run(read_text(folder / FOLDS, "slide_id", "label"), task).targets)
    except (KeyError, ValueError) as error:
        raise RunError(f"{FOLDS} of the run {str(folder)!r} does not fit its models ({cause(error)})") from error


def _digest(models: Sequence[Mapping[str, str]], mixture: Mixture, views: Sequence[Views]) -> str:
    """Names models, by the digests of their files, mixture and views."""
    parts = [[sorted(files.items()) for files in models], mixture.as_json(), [each.as_json() for each in views]]
    content = json.dumps(parts)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]
