"""Processes that train together as jobs of a real Slurm. Run as a script, this file is one of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mil.errors import MilError
from tests.slurm.test_array import finish

PYTHON = f"{sys.executable} {__file__}"


def job(folder: Path, script: str, *options: str, **environ: str) -> str:
    """What the processes of a job write, once it is over."""
    (folder / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
    command = ["sbatch", "--quiet", "--open-mode=append", "--output=job.log", *options, "job.sh"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environ)
    finish()
    return (folder / "job.log").read_text()


def joined(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line.startswith("process "))


def test_srun_joins_its_tasks(tmp_path: Path) -> None:
    assert joined(job(tmp_path, f"srun {PYTHON}", "--ntasks=2")) == ["process 0 of 2: 3", "process 1 of 2: 3"]


def test_two_nodes(tmp_path: Path) -> None:
    # The pretended nodes have names that nobody knows.
    text = job(tmp_path, f"srun {PYTHON}", "--nodes=2", "--ntasks-per-node=1", MASTER_ADDR="127.0.0.1")
    assert joined(text) == ["process 0 of 2: 3", "process 1 of 2: 3"]


def test_two_steps_of_a_job_do_not_meet(tmp_path: Path) -> None:
    text = job(tmp_path, f"srun -n2 --exact {PYTHON} &\nsrun -n2 --exact {PYTHON}\nwait", "--ntasks=4")
    assert joined(text) == ["process 0 of 2: 3"] * 2 + ["process 1 of 2: 3"] * 2


def test_elements_of_an_array_are_alone(tmp_path: Path) -> None:
    assert joined(job(tmp_path, PYTHON, "--array=1-2")) == ["process 0 of 1: 1"] * 2


def test_forgotten_srun_is_refused(tmp_path: Path) -> None:
    text = job(tmp_path, f"{PYTHON}; echo status $?", "--ntasks=2")
    assert "the Slurm job has 2 tasks, but its script started one process; write `srun python" in text
    assert "status 2" in text
    assert joined(text) == []


@pytest.mark.parametrize(("nnodes", "refused"), [(1, True), (2, False)])
def test_torchruns_must_know_of_each_other(tmp_path: Path, nnodes: int, refused: bool) -> None:
    torchrun = f"{sys.executable} -m torch.distributed.run --nproc-per-node 1 --nnodes {nnodes}"
    meet = "--standalone" if refused else "--node-rank $SLURM_PROCID --master-addr 127.0.0.1 --master-port 29719"
    text = job(tmp_path, f"srun bash -c '{torchrun} {meet} {__file__}'", "--nodes=2", "--ntasks-per-node=1")
    if refused:
        assert text.count("srun started 2 torchruns, each of which knows of 1") == 2
    else:
        assert joined(text) == ["process 0 of 2: 3", "process 1 of 2: 3"]


def test_others_leave_when_one_task_is_killed(tmp_path: Path) -> None:
    text = job(tmp_path, f"srun {PYTHON} killed; echo status $?", "--ntasks=2")
    assert "process 0 of 2 lost the others" in text
    assert "status 137" in text


if __name__ == "__main__":
    import torch

    from mil.launch import start

    try:
        with start("cpu") as processes:
            total = processes.sum_(torch.tensor(processes.rank + 1)).item()
            sys.stderr.write(f"process {processes.rank} of {processes.world}: {total}\n")
            if sys.argv[1:] == ["killed"] and processes.rank == 1:
                os.kill(os.getpid(), 9)
            processes.barrier()
    except MilError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
