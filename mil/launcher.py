"""Who started this process, and how many others with it, as the environment tells.

Started by something that is not understood, N processes would each train alone, on all slides, over each other's files.
So all that the environment says about several of them must fit together, or it is an error. Free of torch.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mil.errors import SettingsError

MPI = {  # what launchers of MPI call the number of processes and that of this one
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
    "mpirun of MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    "a launcher with PMIx": ("", "PMIX_RANK"),
    "something that sets WORLD_SIZE": ("WORLD_SIZE", ""),
}
INSTEAD = "start it with `torchrun --nproc-per-node N train.py …` or, in a Slurm job, `srun python train.py …`"
FIRST_PORT, PORTS = 15000, 10000  # below those that a system gives away by itself


class Launch(NamedTuple):
    """A process among `world` that train together; `local_rank` and `local_world` count those of its machine.

    They meet at `address` and `port`. `by` is torchrun, srun, or nothing for a process alone; `note` is what its user
    may want to know, or None.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = FIRST_PORT
    by: str = ""
    note: str | None = None


def read_launch(environ: Mapping[str, str]) -> Launch:
    """How this process was started; raises SettingsError where several were that would not train together."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return _torchrun(environ)
    # Of the step, that is of one srun; SLURM_NTASKS is that of the job, and also there where srun was forgotten.
    launch = _srun(environ) if _number(environ, "SLURM_STEP_NUM_TASKS", 1) > 1 else Launch()
    _refuse_others(environ, launch)
    if "SLURM_JOB_ID" in environ and launch.world == 1:
        return _alone_in_slurm(environ)
    return launch


def _torchrun(environ: Mapping[str, str]) -> Launch:
    """Several torchruns, one a node, may themselves be started by srun or mpirun: then they must know of each other."""
    node, nodes = _number(environ, "GROUP_RANK"), _number(environ, "GROUP_WORLD_SIZE", 1)
    started = {"srun": _number(environ, "SLURM_STEP_NUM_TASKS", 1)}
    started |= {name: _number(environ, size, 1) for name, (size, _) in MPI.items() if size not in ("", "WORLD_SIZE")}
    for name, count in started.items():
        if count not in (1, nodes):
            raise SettingsError(
                f"{name} started {count} torchruns, each of which knows of {nodes}: they would train apart; give "
                f"torchrun --nnodes {count} --rdzv-backend c10d --rdzv-endpoint HOST:PORT, or leave torchrun out"
            )
    return Launch(
        _number(environ, "RANK"), _number(environ, "WORLD_SIZE", 1), _number(environ, "LOCAL_RANK"),
        _number(environ, "LOCAL_WORLD_SIZE", 1), node, nodes, environ.get("MASTER_ADDR", "127.0.0.1"),
        _number(environ, "MASTER_PORT", FIRST_PORT), "torchrun",
    )  # fmt: skip


def _srun(environ: Mapping[str, str]) -> Launch:
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", 1)
    # Two jobs on one machine, and two steps of one job, must not meet each other.
    default_port = FIRST_PORT + (_number(environ, "SLURM_JOB_ID") + 101 * _number(environ, "SLURM_STEP_ID")) % PORTS
    address = environ.get("MASTER_ADDR")
    if address is None:
        address = "127.0.0.1" if nodes == 1 else _first_host(environ["SLURM_STEP_NODELIST"])
    node = _number(environ, "SLURM_NODEID")
    return Launch(
        _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS"), _number(environ, "SLURM_LOCALID"),
        tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])[node], node, nodes, address,
        _number(environ, "MASTER_PORT", default_port), "srun",
    )  # fmt: skip


def tasks_per_node(text: str) -> list[int]:
    """How many tasks each node has, of Slurm's `2(x3),1`."""
    counts = []
    for part in text.split(","):
        tasks, _, times = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(times or 1)
    return counts


def _first_host(nodes: str) -> str:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment  # takes seconds

    return SLURMEnvironment.resolve_root_node_address(nodes)


def _refuse_others(environ: Mapping[str, str], launch: Launch) -> None:
    """Launchers of MPI set what they set also under srun, where their figures are those of the step."""
    for name, (size, rank) in MPI.items():
        others = _number(environ, size, 1)
        if others not in (1, launch.world) or (launch.world == 1 and _number(environ, rank) > 0):
            count = others if others > 1 else "several"
            raise SettingsError(
                f"{name} started {count} processes, of which each would train alone (this one knows of {launch.world})"
                f"; {INSTEAD}"
            )
        if others > 1 and rank and _number(environ, rank) != launch.rank:
            raise SettingsError(
                f"{name} and srun count the processes differently (this one is {environ[rank]} and {launch.rank})"
                f"; {INSTEAD}"
            )


def _alone_in_slurm(environ: Mapping[str, str]) -> Launch:
    """One process where the job has room for several: an error in a script, a note in a shell one types in."""
    in_step = "SLURM_STEP_ID" in environ  # of srun, or that in which salloc may put its shell
    tasks = _number(environ, "SLURM_NTASKS", 1)
    if not in_step:
        tasks = max(tasks, _number(environ, "SLURM_JOB_NUM_NODES", 1))
    if tasks == 1:
        return Launch()
    if "SLURM_PROCID" in environ and not in_step:
        raise SettingsError(
            f"the Slurm job has {tasks} tasks, but its script started one process; write `srun python train.py …` "
            "there, or ask for --nodes=1 --ntasks=1"
        )
    return Launch(note=f"one process trains here, the Slurm job has {tasks} tasks; `srun python train.py …` takes all")


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise SettingsError(f"{name} is {text!r} in the environment, which is no number; {INSTEAD}") from None
