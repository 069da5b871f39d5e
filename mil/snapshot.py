"""The state of a training on disk: one safetensors file, its tensors beside a tree of plain values; no pickles.

It is one file, so that no half of it is ever older than the other, and it is moved into place when it is complete.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mil.errors import RunError, cause
from tiling.documents import parse_json, regular
from tiling.output import private_folder, replacing

FORMAT = "gigabag-checkpoint"
FORMAT_VERSION = 1
_KEY = "gigabag"
_MOST_LETTERS = 2**24
_PLAIN = (bool, int, float, str, type(None))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, tuples, tensors, numbers, text and None, whole or not at all.

    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    tree = _to_json(state, tensors)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "state": tree}
    with replacing(path) as temporary:  # under one key: several stand in any order
        write_tensors(temporary, tensors, {_KEY: json.dumps(content)})


def write_tensors(path: Path, tensors: dict[str, Tensor], content: dict[str, str] | None = None) -> None:
    """Write tensors, and text beside them, as safetensors; raises RunError where the disk does not take them."""
    path.touch()
    mode = path.stat().st_mode  # as for any file of this user; the library would leave it for nobody else to read
    try:
        with private_folder(path.parent) as folder:  # in which it has a temporary file too
            save_file(tensors, folder / "tensors", content)
            (folder / "tensors").chmod(mode)
            os.replace(folder / "tensors", path)
    except SafetensorError as error:
        raise RunError(f"cannot write to {str(path.parent)!r} ({error}); see that the disk is not full") from error


def load_state(path: Path) -> dict[str, Any]:
    """What was saved, with its tensors on the CPU; raises RunError where the file is damaged or of another version."""
    again = "delete it, and the fold starts again"
    try:
        with safe_open(regular(path), "pt") as file:
            text = (file.metadata() or {})[_KEY]
            if len(text) > _MOST_LETTERS:
                raise ValueError(f"what it says beside its tensors is larger than {_MOST_LETTERS // 2**20} MiB")
            content = parse_json(text)
            found = content["format"], content["format_version"]
            if found != (FORMAT, FORMAT_VERSION):
                raise RunError(
                    f"{str(path)!r} is {found[0]} version {found[1]}, this program reads {FORMAT} version "
                    f"{FORMAT_VERSION}; {again}"
                )
            return dict(_from_json(content["state"], file.get_tensor))
    except (
        OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError
    ) as error:  # fmt: skip
        if isinstance(error, RunError):
            raise
        raise RunError(f"the checkpoint {str(path)!r} cannot be read ({cause(error)}); {again}") from error


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain values as they are; a container as {its kind: its content}; a tensor as {"tensor": its name}."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _to_json(each, tensors)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_to_json(each, tensors) for each in value]}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _from_json(value: Any, tensor: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {key: _from_json(each, tensor) for key, each in content}
    if kind in ("list", "tuple"):
        parts = [_from_json(each, tensor) for each in content]
        return tuple(parts) if kind == "tuple" else parts
    raise ValueError(f"a part of unknown kind {kind!r}")
