"""Who started a process: environments as Slurm 22, torchrun and launchers of MPI were seen to set them."""

import pytest

from mil.errors import SettingsError
from mil.launcher import FIRST_PORT, Launch, read_launch, tasks_per_node

BATCH = {
    "SLURM_JOB_ID": "70004", "SLURM_JOB_NAME": "job.sh", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip
STEP = {
    **BATCH, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "n1",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**BATCH, "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "5"},
        {name: value for name, value in BATCH.items() if name != "SLURM_NTASKS"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "2"},  # srun -n1 in a job
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_one_process_is_alone_without_a_word(environ: dict[str, str]) -> None:
    assert read_launch(environ) == Launch()


def test_torchrun_is_taken_at_its_word() -> None:
    assert read_launch(TORCHRUN) == Launch(5, 8, 1, 4, 1, 2, "10.0.0.1", 29500, "torchrun")


def test_torchrun_of_one_is_a_launch() -> None:
    one = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    assert read_launch({**one, "GROUP_WORLD_SIZE": "1"}).by == "torchrun"


def test_srun_meets_on_its_one_machine_at_a_port_of_its_step() -> None:
    assert read_launch(STEP) == Launch(1, 2, 1, 2, 0, 1, "127.0.0.1", FIRST_PORT + 307, "srun")
    assert read_launch({**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "4000"})[6:8] == ("head", 4000)


def test_srun_meets_on_the_first_machine() -> None:
    nodes = {
        **STEP, "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
        "SLURM_STEP_NODELIST": "node[07-09]", "SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "2",
    }  # fmt: skip
    assert read_launch(nodes)[:7] == (4, 5, 0, 1, 2, 3, "node07")


@pytest.mark.parametrize(("text", "counts"), [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2])])
def test_tasks_of_each_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_what_mpi_says_of_an_srun_may_be_the_same() -> None:
    pmi2 = {**STEP, "PMI_SIZE": "2", "PMI_RANK": "1", "WORLD_SIZE": "2", "PMIX_RANK": "1"}
    assert read_launch(pmi2) == read_launch(STEP)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun started 2 processes.*torchrun"),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, "mpiexec started 4 processes"),
        ({"PMIX_RANK": "1"}, "PMIx started several processes"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "sets WORLD_SIZE started 2 processes.*knows of 1"),
        ({**STEP, "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, "mpirun started 4 .*knows of 2"),
        ({**STEP, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "count the processes differently"),
        (BATCH, "the Slurm job has 2 tasks, but its script started one process; write `srun python"),
        ({**BATCH, "SLURM_NTASKS": "", "SLURM_JOB_NUM_NODES": "3"}, "the Slurm job has 3 tasks"),
        ({**TORCHRUN, "SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 torchruns, each of which knows of 2"),
        ({**TORCHRUN, "OMPI_COMM_WORLD_SIZE": "3"}, "mpirun started 3 torchruns"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment"),
    ],
)
def test_several_that_would_train_alone_are_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        read_launch(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {name: value for name, value in BATCH.items() if name not in ("SLURM_PROCID", "SLURM_LOCALID")},  # salloc
        {**BATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},  # salloc with use_interactive_step
    ],
)
def test_shell_of_an_allocation_trains_alone_and_says_so(environ: dict[str, str]) -> None:
    launch = read_launch(environ)
    assert launch == Launch(note=launch.note)
    assert launch.note is not None
    assert "has 2 tasks; `srun python" in launch.note


def test_torchruns_under_srun_that_know_each_other() -> None:
    assert read_launch({**STEP, **TORCHRUN}).world == 8
