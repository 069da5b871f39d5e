"""The model of one fold on disk: weights as safetensors, everything else as JSON; nothing that runs when read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from mil.errors import ModelError, RunError, cause
from mil.metadata import MetadataCoder
from mil.model import build_model
from mil.network import Network
from mil.settings import ModelSpec
from mil.snapshot import write_tensors
from mil.task import Task
from tiling.bag import software
from tiling.documents import read_json, regular
from tiling.features import FEATURES
from tiling.output import replacing
from tiling.overview import OVERVIEWS
from tiling.settings import restored

FORMAT = "gigabag-model"
FORMAT_VERSION = 2
_MOST = 2**31
_NAMES = {  # of the types that networks have, in the format
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64",
}  # fmt: skip


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
        content = read_json(path, finite=True)
        found = content["format"], content["format_version"]
        if found != (FORMAT, FORMAT_VERSION):
            raise RunError(
                f"{str(path)!r} is {found[0]} version {found[1]}, "
                f"this program reads {FORMAT} version {FORMAT_VERSION}; train again or use the version that wrote it"
            )
        # Weights come from the file beside it, never again from a hub or another file.
        model = restored(ModelSpec, {**content["model"], "pretrained": False, "weights": None})
        fold, epoch = content["fold"], content["epoch"]
        if not all(type(each) is int and 0 <= each < _MOST for each in (fold, epoch)):
            raise ValueError("its fold and its epoch are no counts")
        metadata = MetadataCoder.from_json(content["metadata"])
        return ModelCard(
            model, Task.from_json(content["task"]), _bag_spec(content["bag_spec"], model), metadata, fold, epoch
        )
    except FileNotFoundError as error:
        raise RunError(f"no such file: {str(path)!r}; is the training finished?") from error
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{str(path)!r} is no model card ({cause(error)}); train again") from error


def _bag_spec(spec: Any, model: ModelSpec) -> dict[str, Any]:
    """What the bags were made with; raises KeyError, TypeError or ValueError for what is of no use to the model."""
    count = spec[FEATURES if FEATURES in spec else "instances"]
    if type(count) is not int or not 0 < count < _MOST:
        raise ValueError(f"{count!r} is no number of features or tiles")
    if not all(value is None or isinstance(value, bool | int | float | str) for value in spec.values()):
        raise ValueError("its bags were made with something that is no plain value")
    if (OVERVIEWS in spec) != model.takes_overviews or (FEATURES in spec and OVERVIEWS in spec):
        raise ValueError(f"its bags are not those of --arch {model.arch}")
    return dict(spec)


def load_model(folder: Path) -> tuple[Network, ModelCard]:
    """The model of a fold, in evaluation mode; raises RunError where a file is missing, damaged or does not fit.

    No memory is taken for a network before it is known that the file holds as many weights as it has.
    """
    card = read_card(folder)
    path = folder / "model.safetensors"
    try:
        _refuse_misfit(_outline(card), regular(path))
        model = build_model(card.model, card.task, card.bag_spec, card.metadata)
        weights = load_file(path)
        if wild := [name for name, value in weights.items() if value.is_floating_point() and value.isnan().any()]:
            raise ValueError(f"{wild[0]} is not a number")
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ModelError):
            raise
        raise RunError(
            f"{str(path)!r} does not hold the weights of this model ({cause(error)}); train again"
        ) from error
    return model.eval(), card


def _outline(card: ModelCard) -> Network:
    """The network of a card without the memory of its weights and maps."""
    with torch.device("meta"):
        return build_model(card.model, card.task, card.bag_spec, card.metadata)


def _refuse_misfit(outline: Network, path: Path) -> None:
    """Raise ValueError where a file has not just the tensors of a network, by name, shape and type."""
    wanted = {name: (list(value.shape), value.dtype) for name, value in outline.state_dict().items()}
    names = set(wanted)
    with safe_open(path, "pt") as file:
        there = set(file.keys())
        if differing := sorted(names ^ there):
            raise ValueError(f"{'not in it: ' if differing[0] in names else 'not of the model: '}{differing[0]}")
        for name, (shape, kind) in wanted.items():
            part = file.get_slice(name)
            if part.get_shape() != shape:
                raise ValueError(f"size mismatch for {name}: {part.get_shape()} in place of {shape}")
            if part.get_dtype() != _NAMES.get(kind):
                raise ValueError(f"{name} is {part.get_dtype()} in place of {kind}")
