"""Slides given to worker processes, and what came back; a slide that kills or hangs its worker costs only itself.

Each worker has a pipe of its own and one slide at a time: there is no lock that a dying process could keep, and no
doubt whose fault a death was. The executors of the standard library and of pebble have one pipe for all workers; one
that is killed while it sends a large result blocks that pipe, and with it the batch, for ever.
"""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

from tiling.errors import SlideError, TilingError
from tiling.sources import SlideRef
from tiling.todo import Todo

Result = TypeVar("Result")
Task = Callable[[SlideRef], Result]

TIME_LIMIT_S = 600.0  # the slowest slide we know takes a minute on one processor of an old machine

_ENDING_S = 10.0  # a process that waits for a dead disk ends later than it is killed; nobody waits for that
_LOOK_EVERY_S = 60.0  # a worker that is ready or dead is seen at once; this is for clocks that jump


def run_slides(
    task: Task[Result], slides: Iterable[SlideRef] | Todo, workers: int, time_limit_s: float = TIME_LIMIT_S
) -> Generator[tuple[SlideRef, Result | Exception], None, None]:
    """Each slide with what `task` gave for it in a worker process, or the error it raised, as they finish.

    A slide that takes longer than the limit gets a SlideError, and so does one that kills its worker twice: the second
    time it is alone, for too little memory may have been its neighbours' doing. Where more slides may come for a long
    time, one that kills its worker is given with its error at once, and again after its second try.
    """
    todo = slides if isinstance(slides, Todo) else Todo(slides)
    again: list[SlideRef] = []
    for slide, result in _run_once(task, todo, workers, time_limit_s):
        if isinstance(result, WorkerDied):
            again.append(slide)
        if todo.stays_open or not isinstance(result, WorkerDied):
            yield slide, result
    yield from _run_once(task, Todo(again), 1, time_limit_s)


class WorkerDied(SlideError):
    """A slide ended the process that worked on it."""

    def __init__(self, slide: SlideRef) -> None:
        super().__init__(
            f"{str(slide.path)!r} killed the process that read it (a crash in a decoder, or too little memory); "
            "check the file, or give fewer --workers"
        )


def took_too_long(slide: SlideRef, limit_s: float) -> SlideError:
    """What a slide gets that was ended for its time limit."""
    return SlideError(
        f"{str(slide.path)!r} took longer than {limit_s:g} s and was given up; "
        "check the file and the disk it is on, or give a longer --time-limit"
    )


class WorkersError(TilingError):
    """No worker process can be started."""


class _Answer(NamedTuple):
    """What a worker sends back: a result or an error, or nothing at all when it has started."""

    result: Any = None
    alive: bool = True


class _Worker(Generic[Result]):
    """One process, this end of its pipe, and the slide that it has (None while it starts and when it waits)."""

    def __init__(self, task: Task[Result]) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(target=_work, args=(theirs, task), daemon=True)
        with _without_ctrl_c():
            self.process.start()
        theirs.close()  # the end of the process is then the end of the pipe
        self.slide: SlideRef | None = None
        self.since_s = 0.0

    def give(self, slide: SlideRef) -> None:
        """Send a slide; one who is dead by now is found out when the answer is awaited."""
        self.slide, self.since_s = slide, time.monotonic()
        try:
            self.pipe.send(slide)
        except OSError:
            return

    def answer(self) -> _Answer:
        """What it sent, or that it died."""
        try:
            answer: _Answer = self.pipe.recv()
        except (EOFError, OSError):
            if self.slide is None:
                raise WorkersError(
                    "the worker processes end before they have begun; a script that calls this needs the line "
                    "`if __name__ == '__main__':` before its work, and the machine memory for --workers processes"
                ) from None
            return _Answer(WorkerDied(self.slide), alive=False)
        return answer

    def overdue(self, time_limit_s: float) -> _Answer | None:
        """What a slide gets whose time is over, None while there is time."""
        if self.slide is None or time.monotonic() - self.since_s < time_limit_s:
            return None
        return _Answer(took_too_long(self.slide, time_limit_s), alive=False)

    def end(self) -> None:
        """End the process where it is: files are written whole or not at all."""
        self.process.kill()
        self.pipe.close()
        self.process.join(_ENDING_S)
        if not self.process.is_alive():
            self.process.close()


def _run_once(
    task: Task[Result], todo: Todo, workers: int, time_limit_s: float
) -> Generator[tuple[SlideRef, Result | Exception], None, None]:
    """As `run_slides`, but a slide whose worker dies gets WorkerDied at once."""
    pool: list[_Worker[Result]] = []
    try:
        while (look_again_s := todo.look()) is not None or pool or todo.waiting:
            _start_workers(pool, workers, task, todo)
            if not pool:
                time.sleep(look_again_s or 0)
                continue
            wait_s = _wait_s(pool, time_limit_s)
            ready = wait([worker.pipe for worker in pool], min(wait_s, look_again_s or wait_s))
            for worker in list(pool):
                answer = worker.answer() if worker.pipe in ready else worker.overdue(time_limit_s)
                if answer is None:
                    continue
                slide = worker.slide
                _feed_or_end(pool, worker, todo, answer.alive)
                if slide is not None:
                    todo.answered(slide)
                    yield slide, answer.result
    finally:
        for worker in pool:
            worker.end()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """A block whose new processes never see Ctrl-C, which is for their parent; the parent sees it after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_s(pool: list[_Worker[Result]], time_limit_s: float) -> float:
    """Until the first slide's time is over."""
    ends = [worker.since_s + time_limit_s for worker in pool if worker.slide is not None]
    return min([_LOOK_EVERY_S, *(max(0.0, end - time.monotonic()) + 0.01 for end in ends)])


def _start_workers(pool: list[_Worker[Result]], workers: int, task: Task[Result], todo: Todo) -> None:
    """Start one for each slide that no idle worker is there for, as many as may be."""
    idle = sum(worker.slide is None for worker in pool)
    for _ in range(min(workers - len(pool), len(todo.waiting) - idle)):
        pool.append(_Worker(task))


def _feed_or_end(pool: list[_Worker[Result]], worker: _Worker[Result], todo: Todo, alive: bool) -> None:
    """Give a worker its next slide before anything is done with its last; end one that is dead or not needed."""
    worker.slide = None
    if alive and todo.waiting:
        worker.give(todo.waiting.popleft())
        return
    pool.remove(worker)
    worker.end()


def _work(pipe: "Connection[Any, Any]", task: Task[Any]) -> None:
    """What a worker process does until its parent ends it or is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(_Answer())
    while True:
        try:
            slide = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_Answer(attempt(task, slide)))


def attempt(task: Task[Result], slide: SlideRef) -> Result | Exception:
    """What `task` gives for a slide, or the error it raised, in a form that can be sent to another process."""
    try:
        return task(slide)
    except Exception as error:  # noqa: BLE001  # a row says what it was, and the batch goes on
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error itself, or its type and text where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever a foreign class does when it is copied
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this process when its parent has ended, however it did, and whatever this one is doing."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
