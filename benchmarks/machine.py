"""The machine on which a figure was measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> str:
    """Processor, cores and versions, in one line to stand beside every table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, {versions}"


def device_name(device: str) -> str:
    """What the steps run on."""
    import torch

    return str(torch.cuda.get_device_name()) if device == "cuda" else f"{torch.get_num_threads()} threads"
