"""Joining processes: who is refused, what is said, what the others get when one of them ends."""

import os
import sys
from pathlib import Path

import pytest
import torch

from mil.errors import LaunchError, MilError, SettingsError
from mil.launch import start
from mil.launcher import Launch
from tests.mil import pairs

STARTED = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a process that nobody but its user started."""
    for name in [*os.environ]:
        if name.startswith("SLURM_") or name in STARTED:
            monkeypatch.delenv(name)
    return monkeypatch


def test_one_process_joins_nobody(environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with start("cpu") as alone:
        assert (alone.rank, alone.world, alone.device) == (0, 1, torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert capsys.readouterr().err == ""


def test_torchrun_of_one_joins_nobody(environ: pytest.MonkeyPatch) -> None:
    for name, value in pairs.environment(0, 1, 29999).items():
        environ.setenv(name, value)
    with start("cpu") as alone:
        assert alone.world == 1
        assert not torch.distributed.is_initialized()


def test_mpirun_is_refused(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="mpirun started 2 processes.*torchrun"):
        start("cpu")


def test_note_of_a_shell_is_said(environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}.items():
        environ.setenv(name, value)
    with start("cpu") as alone:
        assert alone.world == 1
    assert "the Slurm job has 2 tasks" in capsys.readouterr().err


def test_unknown_host_is_told_at_once(environ: pytest.MonkeyPatch) -> None:
    for name, value in pairs.environment(1, 2, 29999).items():
        environ.setenv(name, value)
    environ.setenv("MASTER_ADDR", "nowhere.invalid")
    with pytest.raises(LaunchError, match=r"to meet at 'nowhere\.invalid', which is no known host.*MASTER_ADDR"):
        start("cpu")


def test_others_that_do_not_come_are_told(environ: pytest.MonkeyPatch) -> None:
    for name, value in pairs.environment(0, 2, pairs.free_port()).items():
        environ.setenv(name, value)
    with pytest.raises(LaunchError, match=r"process 0 of 2 did not meet the others at 127\.0\.0\.1:.*MASTER_PORT"):
        start("cpu", timeout_min=0.02)
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(environ: pytest.MonkeyPatch) -> None:
    from mil.launch import _gpus, _unused

    four = Launch(world=4, local_world=4, by="torchrun")
    assert _gpus(four, 4) == [0, 1, 2, 3]
    assert _gpus(four._replace(by="srun"), 1) == [0]  # Slurm shows each task its own
    with pytest.raises(SettingsError, match=r"torchrun started 4 processes on .*, which has 2 GPUs"):
        _gpus(four, 2)
    assert _unused(4, 1) == "training takes 1 of 4 GPUs; `torchrun --nproc-per-node 4 train.py …` takes all"
    assert _unused(4, 4) is None


def test_the_others_are_told_when_one_ends() -> None:
    (status, sentence), (killed, _) = pairs.run_pair(Path(__file__))
    assert killed == -9
    assert status == 2
    assert sentence.startswith("process 0 of 2 lost the others (")


if __name__ == "__main__":
    try:
        with start("cpu") as processes:
            processes.barrier()
            if processes.rank == 1:
                os.kill(os.getpid(), 9)
            processes.barrier()
    except MilError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
