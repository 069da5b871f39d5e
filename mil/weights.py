"""Weights of a file for a backbone, whoever saved them: safetensors, or a state dict that runs no code."""

import argparse
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from mil.backbone import Backbone
from mil.errors import ModelError, cause

AVERAGED = ("model_ema", "state_dict_ema", "ema", "teacher")  # to be preferred where a file holds two of a kind
SHOWN = 5


class WeightsReport(NamedTuple):
    """How many tensors of a backbone were loaded, and the names that did not match, on either side.

    Counters of batches (num_batches_tracked), which nothing uses, are loaded but not counted. `mismatched` says both
    shapes.
    """

    loaded: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    path: Path

    def __str__(self) -> str:
        """A sentence."""
        total = self.loaded + len(self.missing) + len(self.mismatched)
        lists = {"missing": self.missing, "not used": self.unexpected, "of another shape": self.mismatched}
        notes = [f"; {what}: {_some(names)}" for what, names in lists.items() if names]
        return f"loaded {self.loaded} of {total} tensors from {str(self.path)!r}{''.join(notes)}"


def load_weights(backbone: Backbone, path: Path) -> WeightsReport:
    """Load a file into a backbone and say what did not match; tensors without a match stay as they were.

    Takes .safetensors, and whatever torch.load reads with weights_only. State dicts are found inside checkpoints, an
    averaged one (EMA, teacher) before others; what all names begin with (`module.`, `encoder.`) is stripped. Where
    names or shapes still differ, timm's own conversion for the model is tried (other spellings, position embeddings
    for another picture size). The first convolution is adapted to pictures of one colour. Raises ModelError for a file
    that can't be read safely, and for one of which less than half of the backbone can be loaded.
    """
    wanted = backbone.net.state_dict()
    counted = {name for name in wanted if not name.endswith("num_batches_tracked")}
    best: dict[str, Tensor] = {}
    fitting: set[str] = set()
    for tensors in _candidates(_read(path), backbone.net, wanted):
        fits = {name for name in counted if name in tensors and tensors[name].shape == wanted[name].shape}
        if len(fits) > len(fitting) or not best:
            best, fitting = tensors, fits
        if fitting == counted:
            break
    if 2 * len(fitting) < len(counted):
        raise ModelError(
            f"{str(path)!r} holds {len(fitting)} of the {len(counted)} tensors of the backbone "
            f"{backbone.name!r}: it names {_some([*best]) or 'nothing'}, the backbone {_some([*wanted])}; "
            "choose the --backbone these weights are of"
        )
    loadable = {name: value for name, value in best.items() if name in wanted and value.shape == wanted[name].shape}
    backbone.net.load_state_dict(loadable, strict=False)
    return WeightsReport(
        loaded=len(fitting),
        missing=[name for name in wanted if name in counted and name not in best],
        unexpected=[name for name in best if name not in wanted],
        mismatched=[
            f"{name} {tuple(best[name].shape)} in place of {tuple(wanted[name].shape)}"
            for name in wanted
            if name in best and name not in loadable
        ],
        path=path,
    )


def _read(path: Path) -> Any:
    """What a file holds, read without running any of it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Training programs put their arguments beside the weights; a Namespace does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of programs other than torch, which are read or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"no such file of weights: {str(path)!r}") from error
    except pickle.UnpicklingError as error:
        if names := re.findall(r"GLOBAL (\S+)", str(error)):
            raise ModelError(
                f"{str(path)!r} can only be read by running code of it ({names[0]}), which is refused; "
                "save its state dict as safetensors where you trust it"
            ) from error
        raise ModelError(f"{str(path)!r} is no file of weights that can be read safely") from error
    except Exception as error:  # a file may hold anything, and the reader meets it with anything
        raise ModelError(
            f"{str(path)!r} can't be read as weights ({cause(error)}); give .safetensors or a state dict"
        ) from error


def _candidates(content: Any, net: Any, wanted: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dicts a file may be meant as, the plainest first."""
    for tensors in _state_dicts(content):
        stripped = _without(_prefix(tensors, wanted), tensors)
        yield _adapted(stripped, wanted)
        for spelled in (stripped, tensors, _without(_common(tensors), tensors)):
            if converted := _converted(spelled, net):
                yield _adapted(converted, wanted)


def _state_dicts(content: Any, depth: int = 0) -> Iterator[dict[str, Tensor]]:
    """Dictionaries of tensors in a checkpoint, averaged ones first; not those of an optimizer, which lie deeper."""
    if not isinstance(content, Mapping) or depth > 2:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield tensors
    for name in sorted(content, key=lambda name: name not in AVERAGED):
        yield from _state_dicts(content[name], depth + 1)


def _prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What has to be taken off the names for most of them to fit."""
    counts: Counter[str] = Counter({"": 0})
    for name, value in tensors.items():
        parts = name.split(".")
        for cut in range(len(parts)):
            match = wanted.get(".".join(parts[cut:]))
            if match is not None and match.shape == value.shape:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))


def _common(tensors: Mapping[str, Tensor]) -> str:
    """What all names begin with, up to a dot."""
    first, last = min(tensors), max(tensors)
    same = 0
    for one, other in zip(first.split(".")[:-1], last.split(".")[:-1], strict=False):
        if one != other:
            break
        same += len(one) + 1
    return first[:same]


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the prefix taken off; those without it keep their names, unless that would make two of one."""
    stripped = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    return stripped | {
        name: value for name, value in tensors.items() if not name.startswith(prefix) and name not in stripped
    }


def _converted(tensors: Mapping[str, Tensor], net: Any) -> dict[str, Tensor] | None:
    """The tensors as timm's conversion for this model gives them, None where there is none or they are not for it."""
    module = sys.modules[type(net).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    try:
        with warnings.catch_warnings():  # about how timm interpolates
            warnings.simplefilter("ignore")
            return convert(dict(tensors), net) if convert else None
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None


def _adapted(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the first convolution, if it is of three colours and one is wanted, summed over them."""
    adapted = dict(tensors)
    for name, value in tensors.items():
        shape = wanted[name].shape if name in wanted else ()
        if len(shape) == value.ndim == 4 and value.shape[1] == 3 * shape[1] and value.shape[2:] == shape[2:]:
            adapted[name] = adapt_input_conv(1, value)
    return adapted


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
