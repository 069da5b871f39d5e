"""How much memory there is for this process, of the GPU, the machine and the job, and whether an error says none."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_NONE_LEFT = (
    "can't allocate memory", "std::bad_alloc", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NONE_LEFT)
    )


def available_bytes(device: torch.device) -> int:
    """Bytes of a device for a training: those that are free and, of a GPU, those that PyTorch has taken already.

    On a CPU it is what Linux calls available, or less where a control group (a job of Slurm, a container) has a limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    lines = _read(Path("/proc/meminfo")).splitlines()
    free_bytes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    if not free_bytes:  # another system than Linux
        free_bytes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min([*free_bytes, *_left_in_groups(Path("/sys/fs/cgroup"), _read(Path("/proc/self/cgroup")))])


def _left_in_groups(root: Path, groups: str) -> Iterator[int]:
    """What the limits of a process's control groups leave of memory; `groups` is its /proc/PID/cgroup.

    Version 2 of control groups and version 1. What the kernel can drop, cached files, is not counted as used.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = base / path.lstrip("/")
        for folder in [own, *own.parents[: len(own.parts) - len(base.parts)]]:
            if (left := _left(folder, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not (most.isdecimal() and used.isdecimal()):  # "max", or no such group
        return None
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    return max(0, int(most) - int(used) + int(stat.get(droppable, 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
