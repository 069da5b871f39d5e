"""What two processes tell each other, against one that has all the bags. Run as a script, this file is one of them."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mil.errors import LaunchError, RunError
from mil.launch import start
from mil.launcher import Launch
from mil.model import MILNet, build_model
from mil.processes import BUCKET_BYTES, Processes, _buckets, cause
from mil.settings import ModelSpec
from mil.task import Task
from tests.mil.pairs import run_pair

LENGTHS = (3, 1, 2, 4, 2)  # of the bags of one step; the two processes have three and two of them
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)
TARGETS = torch.tensor([0, 1, 2, 1, 0])


def make_net() -> MILNet:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="test_resnet", train_px=32, pooling="gated")
    return build_model(spec, Task(("a", "b", "c")), {"instances": 4}).double().eval()


def bags() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(256, (length, 3, 32, 32), dtype=torch.uint8) for length in LENGTHS]


def learn(net: MILNet, rows: list[int]) -> None:
    """Gradients of the weighted mean loss of the whole step, from the bags of these rows alone."""
    picked = [bags()[row] for row in rows]
    mask = torch.arange(max(map(len, picked))) < torch.tensor([len(bag) for bag in picked])[:, None]
    losses = nn.functional.cross_entropy(net(torch.cat(picked), mask).logits_BK, TARGETS[rows], reduction="none")
    ((losses * WEIGHTS[rows]).sum() / WEIGHTS.sum()).backward()


def gradients(net: MILNet) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def work(out: Path) -> dict[str, Any]:
    """All that is told, once; what came of it in this process."""
    found: dict[str, Any] = {}
    with start("cpu") as processes:
        rank = processes.rank
        net = make_net()
        learn(net, [0, 1, 2] if rank == 0 else [3, 4])
        processes.sum_gradients(net.parameters())
        torch.save(gradients(net), out / f"{rank}.pt")
        found["digest"] = hashlib.sha256(
            b"".join(grad.numpy().tobytes() for grad in gradients(net).values())
        ).hexdigest()

        odd = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
        odd.register_buffer("third", torch.tensor([1 / 3]))
        odd.register_buffer("flag", torch.tensor([rank == 0]))
        try:
            processes.check_same_weights(odd)
        except LaunchError as error:
            found["differ"] = str(error)
        processes.mean_([*(weight.detach() for weight in odd.parameters()), *odd.buffers()])
        processes.check_same_weights(odd)
        if rank == 0:
            odd[0].bias.grad = torch.tensor([1.0, 2.0])
        processes.sum_gradients(odd.parameters())
        found["none"] = [None if weight.grad is None else weight.grad.tolist() for weight in odd.parameters()]
        odd[1].running_mean.fill_(rank)
        odd[1].num_batches_tracked.fill_(7 + rank)
        processes.mean_(odd.buffers())
        processes.check_same_weights(odd)
        found["buffers"] = {name: buffer.tolist() for name, buffer in odd.named_buffers()}

        places = torch.tensor([[4, 0, 2], [3, 1]][rank])
        found["rows"] = processes.gather_rows(places[:, None].double() * torch.tensor([1, 10]), places, 5).tolist()
        empty = torch.empty(0, dtype=torch.int64)
        mine = torch.arange(2) if rank == 1 else empty
        found["of one"] = processes.gather_rows(mine[:, None].float(), mine, 2).tolist()
        try:
            processes.gather_rows(torch.ones(2, 1), torch.arange(2), 2)
        except AssertionError as error:
            found["twice"] = str(error)
        found["any"] = [processes.any_(rank == 1), processes.any_(False)]
        found["first"] = processes.from_first(lambda: f"from {rank}")
        try:
            processes.from_first(refuse)
        except (LaunchError, RunError) as error:
            found["refused"] = f"{type(error).__name__}: {error}"
    return found


def refuse() -> None:
    raise RunError("the folder exists")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes of one launch found; their gradients lie in `folder`."""
    folder = tmp_path_factory.mktemp("pair")
    assert run_pair(Path(__file__), str(folder)) == [(0, ""), (0, "")]
    return [{**json.loads((folder / f"{rank}.json").read_text()), "folder": str(folder)} for rank in range(2)]


def test_gradients_are_those_of_one_process(told: list[dict[str, Any]]) -> None:
    net = make_net()
    learn(net, [0, 1, 2, 3, 4])
    wanted = gradients(net)
    assert len(wanted) > 20
    # A constant added to all of a bag's attention changes nothing: one gradient is 0, but for rounding.
    rounding = 1e-15 * max(gradient.abs().max().item() for gradient in wanted.values())
    for rank in range(2):
        found = torch.load(Path(told[rank]["folder"]) / f"{rank}.pt")
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            allowed = max(1e-10 * gradient.abs().max().item(), rounding)
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=allowed)


def test_gradients_are_the_same_bits_in_both_and_in_each_launch(told: list[dict[str, Any]], tmp_path: Path) -> None:
    run_pair(Path(__file__), str(tmp_path))
    again = [json.loads((tmp_path / f"{rank}.json").read_text())["digest"] for rank in range(2)]
    assert again == [told[0]["digest"], told[1]["digest"]]
    assert told[0]["digest"] == told[1]["digest"]


def test_gradient_that_one_process_lacks_counts_as_zero(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert found["none"] == [None, [1.0, 2.0], None, None, None]


def test_buffers_become_their_mean_and_keep_their_bits_where_they_agree(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert found["buffers"] == {
            "third": torch.tensor([1 / 3]).tolist(),
            "flag": [True],
            "1.running_mean": [0.5, 0.5],
            "1.running_var": [1.0, 1.0],
            "1.num_batches_tracked": 7,
        }


def test_rows_are_gathered_once(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert found["rows"] == [[row, 10.0 * row] for row in range(5)]
        assert found["of one"] == [[0.0], [1.0]]
        assert found["twice"] == "rows are there [2] times, not once"


def test_weights_that_differ_are_told(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert found["differ"].startswith("the weights of process 1 are not those of process 0")


def test_all_agree_on_a_flag_and_on_what_the_first_made(told: list[dict[str, Any]]) -> None:
    assert [found["any"] for found in told] == [[True, False]] * 2
    assert [found["first"] for found in told] == ["from 0"] * 2
    assert told[0]["refused"] == "RunError: the folder exists"
    assert told[1]["refused"] == "LaunchError: process 0 stopped: the folder exists"


def test_one_process_needs_no_other() -> None:
    net = nn.BatchNorm1d(2)
    with Processes(Launch(), torch.device("cpu")) as alone:
        assert alone.is_first
        alone.sum_gradients(net.parameters())
        alone.mean_(net.buffers())
        alone.check_same_weights(net)
        assert net.weight.grad is None
        assert alone.any_(True)
        assert not alone.any_(False)
        assert alone.from_first(lambda: 3) == 3
        with pytest.raises(RunError, match="the folder exists"):
            alone.from_first(refuse)
        rows = torch.tensor([[2.0], [1.0]])
        assert alone.gather_rows(rows, torch.tensor([1, 0]), 2).tolist() == [[1.0], [2.0]]
        with pytest.raises(AssertionError, match=r"\[0, 1\] times"):
            alone.gather_rows(rows, torch.tensor([1, 0]), 3)


def test_buckets_hold_neighbours_of_one_kind() -> None:
    large = torch.empty(BUCKET_BYTES // 4)
    small, double = torch.empty(3), torch.empty(3, dtype=torch.float64)
    sizes = [[tensor.numel() for tensor in bucket] for bucket in _buckets([small, small, double, small, large, small])]
    assert sizes == [[3, 3], [3], [3], [len(large)], [3]]
    assert list(_buckets([])) == []


def test_cause_is_one_line() -> None:
    assert cause(RuntimeError("[/a/b.cc:5] Connection closed\n by peer")) == "Connection closed by peer"
    assert len(cause(RuntimeError("x" * 500))) == 200


if __name__ == "__main__":
    result = work(Path(sys.argv[1]))
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(result))
