"""Two processes train what one would, count no slide twice, and stop and go on together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import train
from mil.launcher import Launch
from mil.order import Batches
from mil.processes import Processes
from tests.conftest import CohortFiles
from tests.mil.pairs import ROOT, free_port
from tests.mil.test_resume import content
from tiling import cli

# Nothing drawn by chance (each process draws its own), no statistics over a part of a batch, and SGD: the steps of
# Adam turn differences of rounding into those of learning.
FLAGS = [
    "--backbone", "test_resnet", "--train-px", "32", "--folds", "2", "--epochs", "3", "--batch-size", "3",
    "--lr", "0.02",
    "--optimizer", "sgd", "--batch-norm", "frozen", "--no-augment", "--device", "cpu", "--cache", "null",
    "--accumulate", "2", "--clip-grad", "5", "--balance", "weights",
]  # fmt: skip


def launch(processes: int, *flags: str) -> "subprocess.Popen[str]":
    """`torchrun --nproc-per-node N train.py …`"""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*torchrun, "--master-addr=127.0.0.1", f"--master-port={free_port()}", ROOT / "train.py", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_would(cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
    given = ["--bags", str(bags), "--labels", str(cohort.labels), *FLAGS]
    assert train.main([*given, "--out", str(tmp_path / "1")]) == 0
    with launch(2, *given, "--out", str(tmp_path / "2")) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert said.count("out of fold, 12 slides of 12 patients") == 1
    for fold in ("fold_0", "fold_1"):
        one, two = (load_file(tmp_path / str(count) / fold / "model.safetensors") for count in (1, 2))
        assert all(torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5) for name in one)
    tables = [pd.read_csv(tmp_path / str(count) / "oof.csv") for count in (1, 2)]
    assert tables[1]["slide_id"].tolist() == tables[0]["slide_id"].tolist()
    np.testing.assert_allclose(*(table["prob_tumour"] for table in tables), rtol=1e-4)
    logs = [pd.read_csv(tmp_path / str(count) / "log.csv") for count in (1, 2)]
    np.testing.assert_allclose(*(log[["train_loss", "valid_loss"]] for log in logs), rtol=1e-4)


@pytest.mark.slow
def test_they_stop_together_and_go_on(cohort: CohortFiles, bags: Path, tmp_path: Path) -> None:
    given = ["--bags", str(bags), "--labels", str(cohort.labels), *FLAGS, "--augment", "--epochs", "8"]
    given += ["--checkpoint-minutes", "0"]
    with launch(2, *given, "--out", str(tmp_path / "whole" / "run")) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    given += ["--out", str(tmp_path / "run"), "--resume"]
    with launch(2, *given) as process:
        while not (tmp_path / "run" / "fold_0" / "checkpoint.safetensors").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode != 0
    assert "start it again with --resume and it goes on" in said
    assert f"exitcode: {cli.STOPPED}" in said or "SIGTERM" in said or "Signal 15" in said
    with launch(2, *given) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert content(tmp_path / "run") == content(tmp_path / "whole" / "run")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_a_batch_are_the_batch(world: int) -> None:
    parts = [Processes.__new__(Processes) for _ in range(world)]
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, world
    for places in Batches(17, 4, 0, shuffle=True, world=world).plan(0):
        shares = [part.share(places) for part in parts]
        assert all(len(share) for share in shares)
        assert sorted(np.concatenate(shares)) == sorted(places)


def test_a_process_alone_has_all() -> None:
    assert Processes(Launch(), torch.device("cpu")).share(np.arange(3)).tolist() == [0, 1, 2]
