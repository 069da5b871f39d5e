"""Slides given to a Dask cluster, and what came back: its own scheduler, or jobs of Slurm, PBS, LSF or SGE.

The only module that imports dask, and only when it is asked to.
"""

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tiling.errors import InputError
from tiling.sources import SlideRef
from tiling.workers import TIME_LIMIT_S, Task, WorkerDied, WorkersError, attempt, took_too_long

Result = TypeVar("Result")

QUEUES = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
}
SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # a slide may kill a worker twice
    "distributed.scheduler.worker-saturation": 1.0,  # a slide that only waits there is not blamed for a death
    # A worker that a slide has killed starts again in its job, which takes seconds; another job may wait for hours.
    "distributed.deploy.lost-worker-timeout": "60s",
    "distributed.scheduler.work-stealing": False,  # nothing waits at a worker that could be stolen
}

_WINDOW = 500  # slides the scheduler knows of at once
_CONNECT_S = 5
_MEMORY = "4GB"  # asked for each job where dask-jobqueue's configuration says nothing
_LATE = "gigabag-late"  # the topic under which a worker says whose time is over


def run_on_dask(
    task: Task[Result], slides: Sequence[SlideRef], where: str, jobs: int, time_limit_s: float = TIME_LIMIT_S
) -> Generator[tuple[SlideRef, Result | Exception], None, None]:
    """Each slide with what `task` gave for it on a Dask worker, or the error it raised, as they finish.

    `where` is the address of a scheduler, or a key of QUEUES: then `jobs` jobs are kept running until all is done. A
    slide that ends its workers gets a SlideError after another try alone. Raises InputError where there is no cluster.
    """
    if not slides:
        return
    with _connected(where, min(jobs, len(slides))) as client:
        again: list[SlideRef] = []
        for slide, result in _run(client, task, slides, time_limit_s):
            if isinstance(result, WorkerDied):
                again.append(slide)
            else:
                yield slide, result
        for slide in again:
            yield from _run(client, task, [slide], time_limit_s)


@contextmanager
def _connected(where: str, jobs: int) -> Iterator[Any]:
    """A client of the cluster; the jobs are ended with the block, however it ends."""
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise InputError(f"--dask needs more packages ({error}); pip install 'gigabag[dask]'") from error
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        address = stack.enter_context(_jobs_of(where, jobs)) if where in QUEUES else where
        try:
            if where not in QUEUES:
                asyncio.run(_knock(where))
            client = stack.enter_context(Client(address, timeout=_CONNECT_S))
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {where!r} within {_CONNECT_S} s; "
                f"give its address, such as tcp://host:8786, or one of {', '.join(QUEUES)}"
            ) from error
        over = threading.Event()
        stack.callback(over.set)
        threading.Thread(target=_say_where_no_worker_is, args=(client, over), daemon=True).start()
        yield client


async def _knock(address: str) -> None:
    """Connect and leave again; raises OSError or ValueError as Client does, and nothing is left.

    A Client that met nobody closes when it is collected as garbage. Where that happens while the next one starts, both
    want one lock of distributed, and the process hangs.
    """
    from distributed import Security
    from distributed.comm import connect

    comm = await connect(address, timeout=_CONNECT_S, **Security().get_connection_args("client"))
    await comm.close()


def _say_where_no_worker_is(client: Any, over: threading.Event) -> None:
    """Tell once a minute that the slides wait for a worker, so that nobody takes it for a hang."""
    wait_s = 1.0  # for the first worker
    while not over.wait(wait_s):
        wait_s = 60.0
        with suppress(Exception):  # the scheduler has gone; who waits for its results is told so
            if not client.nthreads():
                print(f"no worker is connected to {client.scheduler.address}, waiting for one", file=sys.stderr)


@contextmanager
def _jobs_of(queue: str, jobs: int) -> Iterator[Any]:
    """A cluster of one-processor jobs of a queueing system; what else a job needs stands in dask-jobqueue's files."""
    import dask
    import dask_jobqueue

    kind, submit = QUEUES[queue]
    if shutil.which(submit) is None:
        raise InputError(f"--dask {queue} needs the command {submit!r}, which is not here; run it on a login node")
    memory = dask.config.get(f"jobqueue.{queue}.memory", None) or _MEMORY
    options = {"cores": 1, "processes": 1, "memory": memory, "python": sys.executable}
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(getattr(dask_jobqueue, kind)(**options))
            _try_to_submit(cluster)
        except (RuntimeError, ValueError, OSError) as error:
            cause = " ".join(str(error).rpartition("stderr:\n")[2].split())
            raise InputError(
                f"{submit} does not take jobs ({cause}); set what they need under jobqueue.{queue} in "
                "~/.config/dask/jobqueue.yaml"
            ) from error
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # replaces jobs that are lost
        yield cluster


def _try_to_submit(cluster: Any) -> None:
    """Submit a job and cancel it: an error of the cluster's own submissions is only logged, and it waits for ever."""
    job = cluster.new_spec["cls"](cluster.scheduler_address, name="probe", **cluster.new_spec["options"])
    cluster.sync(job.start)
    cluster.sync(job.close)


def _run(
    client: Any, task: Task[Result], slides: Sequence[SlideRef], time_limit_s: float
) -> Generator[tuple[SlideRef, Result | Exception], None, None]:
    """As `run_on_dask`, but a slide whose worker dies too often gets WorkerDied at once."""
    from distributed import as_completed

    todo, under_way = iter(slides), {}

    def submit(slide: SlideRef) -> Any:
        # Its worker may be in another folder.
        there = slide._replace(path=Path(os.path.abspath(slide.path)))
        future = client.submit(_within, task, time_limit_s, there, pure=False)
        under_way[future.key] = slide
        return future

    # With its results: a result asked for later may be lost with its worker meanwhile.
    finished = as_completed(map(submit, islice(todo, _WINDOW)), with_results=True, raise_errors=False)
    for future, result in finished:
        slide = under_way.pop(future.key)
        future.release()  # what is kept is computed again when its worker dies
        finished.update(map(submit, islice(todo, 1)))
        yield slide, _outcome(client, slide, result, time_limit_s)


def _outcome(client: Any, slide: SlideRef, result: Any, time_limit_s: float) -> Any:
    """A result, or the error that stands for what Dask says in its place."""
    from distributed import CancelledError, KilledWorker

    if isinstance(result, CancelledError):
        raise WorkersError(
            "the Dask scheduler has gone; start it, and run the same again: what is done stays done"
        ) from result
    error = result[1] if isinstance(result, tuple) and len(result) == 3 and isinstance(result[1], Exception) else None
    if isinstance(error, KilledWorker):
        late = {slide_id for _, slide_id in client.get_events(_LATE)}
        return took_too_long(slide, time_limit_s) if slide.slide_id in late else WorkerDied(slide)
    return error or result


def _within(task: Task[Result], time_limit_s: float, slide: SlideRef) -> Result | Exception:
    """On the worker: what `task` gives for the slide; where it takes too long this process ends."""
    from distributed import get_worker

    worker = get_worker()
    timer = threading.Timer(time_limit_s, _give_up, (worker, slide.slide_id))
    timer.daemon = True
    timer.start()
    alone = worker.state.nthreads == 1
    if alone:  # the alarm ends the process even where C code keeps the interpreter's lock
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + 10)
    try:
        return attempt(task, slide)
    finally:
        timer.cancel()
        if alone:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up(worker: Any, slide_id: str) -> None:
    worker.log_event(_LATE, slide_id)
    time.sleep(1)  # for the message to be sent
    os._exit(1)
