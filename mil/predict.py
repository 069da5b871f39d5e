"""Scores: a trained run on bags, its folds averaged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mil.checkpoint import ModelCard, load_model
from mil.data import Batch, bag_tensor, square_tensor
from mil.errors import RunError, SettingsError
from mil.losses import probabilities
from mil.network import MILOutput, Network
from tiling.bag import Bag
from tiling.documents import read_json
from tiling.features import FEATURES, FeatureBag
from tiling.overview import OVERVIEWS

_MOST_FOLDS = 100_000
METRICS_FILE = "metrics.json"  # written last: a run that has it is finished


class Run(NamedTuple):
    """A finished training: the models of its folds on one device, each with its card."""

    models: tuple[Network, ...]
    cards: tuple[ModelCard, ...]
    device: torch.device

    @property
    def card(self) -> ModelCard:
        """What the folds have in common: all but fold, epoch, and what metadata were fitted to."""
        return self.cards[0]

    @property
    def px(self) -> int:
        """Side at which tiles or overviews are given to the models, in pixels."""
        return self.card.model.input_px

    @property
    def takes_features(self) -> bool:
        """Whether it was trained on bags of features and not of tiles."""
        return FEATURES in self.card.bag_spec

    @property
    def takes_overviews(self) -> bool:
        """Whether it looks at the overviews of slides and not at tiles."""
        return OVERVIEWS in self.card.bag_spec


class Prediction(NamedTuple):
    """Probabilities (K,) of a slide, and the attention of models that have one: (N,) on tiles, or (G, G) on its square.

    `map_GG` float64 sums to 1 over the slide's `tiling.overview.square_of`. `members_EK` are the probabilities of each
    model, on each view of the slide, of which the first are a mean, or what an ensemble makes of them.
    """

    probabilities: np.ndarray
    attention: np.ndarray | None
    map_GG: np.ndarray | None = None
    members_EK: np.ndarray | None = None


def pick_device(name: str) -> torch.device:
    """The device of that name, `auto` being a GPU where there is one; raises SettingsError where it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda was asked for, but PyTorch finds no GPU; leave it at auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_run(folder: Path, device: torch.device, instance_chunk: int | None = None) -> Run:
    """The run in a folder; raises RunError where it is unfinished, damaged or of another version.

    Its models take `instance_chunk` instances at a time, or all at once.
    """
    if not folder.is_dir():
        raise RunError(f"no such run: {str(folder)!r}; give the folder that train.py wrote")
    models, cards = zip(*(load_model(fold) for fold in fold_folders(folder)), strict=True)
    for card in cards[1:]:
        if _shared(card) != _shared(cards[0]):
            raise RunError(
                f"the folds {cards[0].fold} and {card.fold} of the run {str(folder)!r} differ in model, classes, "
                "bags or metadata and cannot be averaged; train again"
            )
    for model in models:
        model.to(device).instance_chunk = instance_chunk
    return Run(models, cards, device)


def _shared(card: ModelCard) -> tuple[Any, ...]:
    return card.model, card.task, card.bag_spec, card.metadata.columns


def fold_folders(folder: Path) -> list[Path]:
    """The folders of all folds of a finished run; raises RunError where it is not finished."""
    try:
        numbers = [fold["fold"] for fold in read_json(folder / METRICS_FILE)["folds"]]
        if not all(type(number) is int and 0 <= number < _MOST_FOLDS for number in numbers):
            raise ValueError("its folds have no numbers")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"the run {str(folder)!r} is not finished (it has no {METRICS_FILE}); "
            "let train.py end, or train again into another folder"
        ) from error
    if not numbers or len({*numbers}) < len(numbers):
        what = "has one fold twice" if numbers else "has no folds"
        raise RunError(f"the run {str(folder)!r} {what} in its {METRICS_FILE}; train again")
    return [folder / f"fold_{number}" for number in numbers]


@torch.inference_mode()
def predict_bag(
    run: Run, bag: Bag | FeatureBag, metadata: pd.DataFrame | None = None, instances_M: Tensor | None = None
) -> Prediction:
    """The mean over the folds of a run of the probabilities and the attention for one bag.

    Of a run that looks at overviews, no tile of the bag is asked for. `instances_M` are the bag's instances where they
    are on the run's device already, as `mil.data` reads them; the bag is not asked for any then.
    `metadata` is a table of one row of text with the columns the run was trained with; None: all of it is unknown.
    """
    outputs = outputs_of(run, instances_of(run, bag), metadata)
    members_EK = torch.stack([probabilities(run.card.task, output.logits_BK)[0] for output in outputs])
    return Prediction(
        members_EK.mean(0).cpu().numpy(),
        mean_of_first(output.attention_BN for output in outputs),
        mean_of_first(output.map_BGG for output in outputs),
        members_EK.cpu().numpy(),
    )


def outputs_of(run: Run, instances_N: Tensor, metadata: pd.DataFrame | None) -> list[MILOutput]:
    """What each model of a run says of one bag, given its instances (N, …); `metadata` as of `predict_bag`."""
    instances_N, mask_BN = instances_N.to(run.device), torch.ones(1, len(instances_N), dtype=torch.bool)
    return [
        model(instances_N, mask_BN, metadata_tensor(run, card, metadata))
        for model, card in zip(run.models, run.cards, strict=True)
    ]


def metadata_tensor(run: Run, card: ModelCard, metadata: pd.DataFrame | None) -> Tensor:
    """Metadata float32 (1, F) of a slide as the fold of a card codes them, on the run's device; see `predict_bag`."""
    if metadata is None:
        metadata = pd.DataFrame([dict.fromkeys(run.card.metadata.columns, "")])
    return torch.from_numpy(card.metadata.encode(metadata)).to(run.device)


@torch.inference_mode()
def map_of(model: Network, square_M: Tensor) -> np.ndarray:
    """Where a ChipNet looks, float64 (G, G), on one square uint8 (1, 3, 32 G, 32 G) on its device."""
    metadata_BF = torch.zeros(1, model.head.metadata_width, device=square_M.device)  # the map does not depend on it
    map_BGG = model(square_M, torch.ones(1, 1, dtype=torch.bool), metadata_BF).map_BGG
    assert map_BGG is not None, "only ChipNet has a map"
    return map_BGG[0].double().cpu().numpy()


def instances_of(run: Run, bag: Bag | FeatureBag) -> Tensor:
    """The instances (N, …) of a bag as the models of a run take them: tiles, features, or its overview."""
    if isinstance(bag, FeatureBag):
        return torch.from_numpy(bag.features_NC)
    return square_tensor(bag.overview_rgb(), run.px) if run.takes_overviews else bag_tensor(bag, run.px)


def mean_of_first(of_models: Iterable[Tensor | None]) -> np.ndarray | None:
    """The mean, float64, of what models say of the only bag of a batch, where they say it.

    Those that say it of other places, ChipNets with another side of their map, are left out: the first model's count.
    """
    found = [each[0].double() for each in of_models if each is not None]
    found = [each for each in found if each.shape == found[0].shape]
    return torch.stack(found).mean(0).cpu().numpy() if found else None


@torch.inference_mode()
def predict_batches(model: Network, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Logits float64 (slides, K) of batches on the model's device, and the slides' places int64 (slides,) in their set.

    The model is left as it was, training or not; there may be no batch at all.
    """
    was_training = model.training
    model.eval()
    rows = [torch.zeros(0, model.head.logits, dtype=torch.float64)]
    places = [torch.zeros(0, dtype=torch.int64)]
    for batch in batches:
        output = model(batch.instances_M, batch.mask_BN, batch.metadata_BF)
        rows.append(output.logits_BK.double().cpu())
        places.append(batch.index_B)
    model.train(was_training)
    return torch.cat(rows), torch.cat(places)
