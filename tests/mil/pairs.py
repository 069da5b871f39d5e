"""Two processes that train together, started as torchrun would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun says to one of its processes, all on this machine."""
    return {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def run_pair(script: Path, *arguments: str) -> list[tuple[int, str]]:
    """Status and stderr of the two processes that run `script`."""
    port = free_port()
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", script, *arguments],
            env=os.environ | environment(rank, 2, port), stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate()[1] for process in pair]
    return [(process.returncode, error) for process, error in zip(pair, errors, strict=True)]
