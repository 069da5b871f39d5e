"""The model of one fold on disk: weights as safetensors, everything else as JSON; nothing that runs when read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mil.errors import RunError, cause
from mil.metadata import MetadataCoder
from mil.model import build_model
from mil.network import Network
from mil.settings import ModelSpec
from mil.snapshot import write_tensors
from mil.task import Task
from tiling.bag import software
from tiling.features import FEATURES
from tiling.output import replacing
from tiling.settings import with_tuples

FORMAT = "gigabag-model"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class ModelCard:
    """What has to be known to build and use a model: its spec, its task, the bags and metadata it was trained on."""

    model: ModelSpec
    task: Task
    bag_spec: dict[str, Any]
    metadata: MetadataCoder
    fold: int
    epoch: int


def save_model(folder: Path, model: Network, card: ModelCard) -> None:
    """Write `model.safetensors` and `model.json` into the folder of a fold; the JSON comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.safetensors") as temporary:
        # Copies: some networks (CoaT) have one weight under two names, which the format does not know.
        write_tensors(temporary, {name: value.contiguous().clone() for name, value in model.state_dict().items()})
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "software": software(), **asdict(card)}
    with replacing(folder / "model.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_card(folder: Path) -> ModelCard:
    """The card of a fold; raises RunError where it is missing, damaged or of another version."""
    path = folder / "model.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"], content["format_version"]
        if found != (FORMAT, FORMAT_VERSION):
            raise RunError(
                f"{str(path)!r} is {found[0]} version {found[1]}, "
                f"this program reads {FORMAT} version {FORMAT_VERSION}; train again or use the version that wrote it"
            )
        spec = content["bag_spec"]
        int(spec[FEATURES if FEATURES in spec else "instances"])
        return ModelCard(
            # Weights come from the file beside it, never again from a hub or another file.
            ModelSpec(**{**with_tuples(content["model"]), "pretrained": False, "weights": None}),
            Task(**with_tuples(content["task"])),
            spec,
            MetadataCoder.from_json(content["metadata"]),
            content["fold"],
            content["epoch"],
        )
    except FileNotFoundError as error:
        raise RunError(f"no such file: {str(path)!r}; is the training finished?") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{str(path)!r} is no model card ({error}); train again") from error


def load_model(folder: Path) -> tuple[Network, ModelCard]:
    """The model of a fold, in evaluation mode; raises RunError where a file is missing, damaged or does not fit."""
    card = read_card(folder)
    model = build_model(card.model, card.task, card.bag_spec, card.metadata)
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{str(path)!r} does not hold the weights of this model ({cause(error)}); train again"
        ) from error
    return model.eval(), card
