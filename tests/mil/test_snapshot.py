"""A checkpoint gives back exactly what was saved, and is whole or not there."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mil.errors import RunError
from mil.snapshot import load_state, save_state

OURS = {"format": "gigabag-checkpoint", "format_version": 1}
STATE = {
    "text": "µ",
    "numbers": [1, -2, 0.1, 1e-300, math.inf, True, None],
    "betas": (0.9, 0.999),
    "by number": {0: {"step": torch.tensor(3.0)}, 7: {}},
    "empty": [(), {}, []],
    "tensors": {
        "half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
        "brain": torch.tensor([0.1, 3e38], dtype=torch.bfloat16),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "nothing": torch.zeros(0, 3),
    },
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE)
    assert same(STATE, load_state(tmp_path / "state"))


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_state(tmp_path / name, STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shared_and_strided_tensors_are_copies(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    pictures = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {"whole": whole, "turned": whole.T, "row": whole[1], "again": whole, "pictures": pictures}
    save_state(tmp_path / "state", state)
    assert same(state, load_state(tmp_path / "state"))


def test_an_optimiser_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    def steps(weight: nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()

    straight, broken, resumed = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(3))
    steps(straight, torch.optim.AdamW([straight], lr=0.1, fused=True), 5)
    optimizer = torch.optim.AdamW([broken], lr=0.1, fused=True)
    steps(broken, optimizer, 2)
    save_state(tmp_path / "state", {"weight": broken, "optimizer": optimizer.state_dict()})
    state = load_state(tmp_path / "state")
    resumed.data.copy_(state["weight"])
    optimizer = torch.optim.AdamW([resumed], lr=0.5, fused=True)
    optimizer.load_state_dict(state["optimizer"])
    steps(resumed, optimizer, 3)
    assert torch.equal(straight, resumed)


def test_what_is_no_plain_value_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold PosixPath"):
        save_state(tmp_path / "state", {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE)
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"delete it, and the fold starts again$"):
            load_state(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"cannot be read \('gigabag'\)"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({**OURS, "format_version": 9}), "is gigabag-checkpoint version 9"),
        (json.dumps(OURS), r"cannot be read \('state'\)"),
        (json.dumps({**OURS, "state": {"set": []}}), "unknown kind 'set'"),
        (json.dumps({**OURS, "state": {"tensor": "7"}}), "cannot be read"),
        (json.dumps({**OURS, "state": {"list": [], "dict": []}}), "cannot be read"),
    ],
)
def test_strange_files_are_refused_with_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "state", None if content is None else {"gigabag": content})
    with pytest.raises(RunError, match=sentence):
        load_state(tmp_path / "state")


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_state(tmp_path / "state", STATE)
    assert (tmp_path / "state").stat().st_mode == (tmp_path / "other").stat().st_mode
