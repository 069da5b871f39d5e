"""The demo of attention: every command of it is one that the programs take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import infer
import train
from benchmarks.demo_attention import recipe
from tiling import __main__ as tiling
from tiling import reselect
from tiling.synthetic import __main__ as synthetic

PARSERS: dict[str, Callable[[], Any]] = {
    "train.py": train._parser, "infer.py": infer._parser, "tiling": tiling._parser, "tiling.reselect": reselect._parser,
    "tiling.synthetic": synthetic._parser,
}  # fmt: skip


@pytest.mark.parametrize("weights", [None, Path("w.safetensors")])
def test_every_command_is_understood(weights: Path | None, tmp_path: Path) -> None:
    called = []
    for words in recipe(tmp_path, 20, 5, weights):
        name, *rest = map(str, words[1:] if words[0] == "-m" else words)
        args = PARSERS[name]().parse_args(rest)
        if name == "train.py":
            assert (args.pretrained, args.weights is None) == (weights is None, weights is None)
        called.append(name)
    assert called == [
        *["tiling.synthetic"] * 2, "tiling", "train.py", "tiling.reselect", "train.py", "train.py", "tiling", "tiling",
        "infer.py", "infer.py",
    ]  # fmt: skip
