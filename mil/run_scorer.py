"""What scores slides: a run with all its folds, its name, and what is known of a slide that cannot be scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mil.checkpoint import ModelCard
from mil.errors import RunError
from mil.picking import digest_of
from mil.predict import Prediction, Run, load_run, predict_bag
from mil.prior import training_prior
from mil.task import Task
from tiling.bag import Bag
from tiling.features import FeatureBag


@dataclass(frozen=True, eq=False)
class RunScorer:
    """A run as what scores: its `digest` names its weights, `prior_K` (K,) are the class shares of its training."""

    run: Run
    digest: str
    prior_K: np.ndarray

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that take part."""
        return (self.run,)

    @property
    def card(self) -> ModelCard:
        """What the models have in common."""
        return self.run.card

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.run.card.task

    @property
    def px(self) -> int:
        """Side at which tiles or overviews are given to the models, in pixels."""
        return self.run.px

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.run.device

    @property
    def takes_features(self) -> bool:
        """Whether it takes bags of features."""
        return self.run.takes_features

    @property
    def takes_overviews(self) -> bool:
        """Whether it takes the overviews of slides."""
        return self.run.takes_overviews

    def predict(
        self, bag: Bag | FeatureBag, metadata: pd.DataFrame | None = None, instances_M: Tensor | None = None
    ) -> Prediction:
        """What the run says of a bag, as `mil.predict.predict_bag`."""
        return predict_bag(self.run, bag, metadata, instances_M)


def load_scorer(paths: Sequence[Path], device: torch.device, instance_chunk: int | None = None) -> RunScorer:
    """The run in a folder as what scores; raises RunError where it cannot be used."""
    if len(paths) != 1:
        raise RunError(f"one run scores, and {len(paths)} are given; give one")
    run = load_run(paths[0], device, instance_chunk)
    return RunScorer(run, digest_of(paths[0]), training_prior(paths[0], run.card.task))
