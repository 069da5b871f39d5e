"""Weights of a file for a backbone, whoever saved them; the file is of safetensors, in which nothing can run."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from mil.backbone import Backbone
from mil.errors import ModelError, cause

SUFFIX = ".safetensors"
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

    Takes .safetensors alone. What all names begin with (`module.`, `encoder.`) is stripped. Where names or shapes still
    differ, timm's own conversion for the model is tried (other spellings, position embeddings for another picture
    size). The first convolution is adapted to pictures of one colour. Raises ModelError for a file that can't be read,
    and for one of which less than half of the backbone can be loaded.
    """
    wanted = backbone.net.state_dict()
    counted = {name for name in wanted if not name.endswith("num_batches_tracked")}
    best: dict[str, Tensor] = {}
    fitting: set[str] = set()
    for tensors in _candidates(_read(path), backbone.net, wanted):
        fits = {name for name in counted if name in tensors and _fits(tensors[name], wanted[name])}
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
    loadable = {name: value for name, value in best.items() if name in wanted and _fits(value, wanted[name])}
    if wild := [name for name, value in loadable.items() if value.is_floating_point() and value.isnan().any()]:
        raise ModelError(f"{str(path)!r} has in {wild[0]} what is not a number; give other weights")
    backbone.net.load_state_dict(loadable, strict=False)
    return WeightsReport(
        loaded=len(fitting),
        missing=[name for name in wanted if name in counted and name not in best],
        unexpected=[name for name in best if name not in wanted],
        mismatched=[
            f"{name} {_kind(best[name], wanted[name])} in place of {_kind(wanted[name], best[name])}"
            for name in wanted
            if name in best and name not in loadable
        ],
        path=path,
    )


def _fits(value: Tensor, wanted: Tensor) -> bool:
    return value.shape == wanted.shape and value.is_floating_point() == wanted.is_floating_point()


def _kind(value: Tensor, other: Tensor) -> str:
    """The shape of a tensor, and its type where that is all that another one differs in."""
    return f"{tuple(value.shape)}" + ("" if value.shape != other.shape else f" of {value.dtype}")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    if path.suffix != SUFFIX:
        raise ModelError(
            f"{str(path)!r} is no {SUFFIX} file, and others, such as .pth, are not read, for they may run code; where "
            "you trust it, convert it as docs/models.md says"
        )
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"no such file of weights: {str(path)!r}") from error
    except Exception as error:  # a file may hold anything, and the reader meets it with anything
        raise ModelError(f"{str(path)!r} can't be read as weights ({cause(error)}); see that it is whole") from error


def _candidates(tensors: dict[str, Tensor], net: Any, wanted: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dicts that tensors may be meant as, the plainest first."""
    if not tensors:
        return
    stripped = _without(_prefix(tensors, wanted), tensors)
    yield _adapted(stripped, wanted)
    for spelled in (stripped, tensors, _without(_common(tensors), tensors)):
        if converted := _converted(spelled, net):
            yield _adapted(converted, wanted)


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
