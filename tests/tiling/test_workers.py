"""Workers that die, hang, cannot start or lose their parent: the other slides get their results, and nothing stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from tiling.errors import SlideError
from tiling.sources import SlideRef
from tiling.workers import WorkersError, run_slides

ROOT = Path(__file__).parents[2]


class Homeless(Exception):
    """An error that cannot travel between processes."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def refs(*names: str) -> list[SlideRef]:
    return [SlideRef(name, Path(name)) for name in names]


def act(slide: SlideRef) -> str:
    if slide.slide_id == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if slide.slide_id == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if slide.slide_id == "leave":
        sys.exit(0)
    if slide.slide_id == "hang":
        with suppress(ValueError):  # on a Dask worker this is no main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1e6)
    if slide.slide_id == "wrong":
        raise KeyError("unforeseen")
    if slide.slide_id == "homeless":
        raise Homeless("this", "that")
    return slide.slide_id.upper()


def die_while_sending(slide: SlideRef) -> bytes:
    if slide.slide_id == "killer":  # as the kernel does where memory ends: at the peak, when the result is copied
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(400_000_000)
    return slide.slide_id.encode() * 5_000_000


@pytest.mark.parametrize("workers", [1, 3])
def test_slide_that_kills_its_worker_fails_alone(workers: int) -> None:
    slides = refs("a", "b", "killer", "c", "wrong", "crash", "d", "leave", "e", "homeless", "f", "g")
    results = {slide.slide_id: result for slide, result in run_slides(act, slides, workers)}
    assert len(results) == 12
    dead = [results.pop(name) for name in ("killer", "crash", "leave")]
    wrong, homeless = results.pop("wrong"), results.pop("homeless")
    assert results == {name: name.upper() for name in "abcdefg"}
    assert all(isinstance(error, SlideError) for error in dead)
    assert "'killer' killed the process that read it" in str(dead[0])
    assert isinstance(wrong, KeyError)
    assert isinstance(homeless, RuntimeError)
    assert str(homeless) == "Homeless: this and that"
    assert active_children() == []


def once_too_many(folder: Path, slide: SlideRef) -> str:
    try:
        (folder / slide.slide_id).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def test_slide_that_killed_its_worker_has_another_try_alone(tmp_path: Path) -> None:
    results = dict(run_slides(partial(once_too_many, tmp_path), refs(*"abcde"), 2))
    assert [*results.values()] == ["done"] * 5


@pytest.mark.parametrize("workers", [1, 2])
def test_hanging_slide_is_given_up(workers: int) -> None:
    results = {s.slide_id: r for s, r in run_slides(act, refs("a", "hang", "b", "hang2", "c"), workers, time_limit_s=2)}
    hung = results.pop("hang")
    assert results == {"a": "A", "b": "B", "hang2": "HANG2", "c": "C"}
    assert isinstance(hung, SlideError)
    assert "'hang' took longer than 2 s" in str(hung)
    assert "--time-limit" in str(hung)


def test_worker_killed_while_it_sends_blocks_nobody() -> None:
    results = {s.slide_id: r for s, r in run_slides(die_while_sending, refs("a", "b", "killer", "c", "d"), 2)}
    assert isinstance(results.pop("killer"), SlideError)
    assert {name: len(result) for name, result in results.items() if isinstance(result, bytes)} == dict.fromkeys(
        "abcd", 5_000_000
    )


def test_slow_consumer_costs_no_slide_its_result() -> None:
    """A result that waits to be fetched is no slide that hangs."""
    results = []
    for slide, result in run_slides(die_while_sending, refs("a", "b", "c"), 2, time_limit_s=8):
        time.sleep(9)
        results.append((slide.slide_id, len(result) if isinstance(result, bytes) else result))
    assert sorted(results) == [("a", 5_000_000), ("b", 5_000_000), ("c", 5_000_000)]


def test_no_slides_no_processes() -> None:
    assert list(run_slides(act, [], 2)) == []


def test_ended_early_leaves_no_process() -> None:
    results = run_slides(act, refs(*"abcdefgh"), 2)
    next(results)
    results.close()
    assert active_children() == []


def test_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom tiling.sources import SlideRef\nfrom tiling.workers import run_slides\n"
        "print(list(run_slides(str, [SlideRef('a', Path('a'))], 1)))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert WorkersError.__name__ in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path: Path, ending: signal.Signals) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.tiling.test_workers import act, refs\n"
        "from tiling.workers import run_slides\n"
        "if __name__ == '__main__':\n"
        "    for _ in run_slides(act, refs('hang', 'a', 'hang'), 2): print('result', flush=True)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environ, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(ending)
        parent.wait()
    assert len(workers) >= 2
    until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def until(condition: Callable[[], bool]) -> None:
    """Come back when it is so; a test that never does is ended by whoever started it."""
    while not condition():
        time.sleep(0.05)
