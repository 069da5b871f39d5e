"""Processes that train one model together: started by torchrun or srun, joined by Lightning Fabric."""

import logging
import os
import socket
import sys
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed as dist

from mil.errors import LaunchError, SettingsError, cause
from mil.launcher import Launch, read_launch
from mil.predict import pick_device
from mil.processes import TIMEOUT_MIN, Processes


def start(device: str, timeout_min: float = TIMEOUT_MIN) -> Processes:
    """Join the processes that torchrun or srun started, each on its device; without these, this one alone.

    `device` is auto, cpu or cuda. Afterwards nothing that all do together may take one of them `timeout_min` longer
    than another, save `Processes.from_first`. Raises SettingsError where N processes would train alone, or have no GPU
    each, and LaunchError where they do not meet.
    """
    launch, kind = read_launch(os.environ), pick_device(device).type
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if launch.world == 1:
        fabric = Fabric(accelerator=kind, devices=1, plugins=LightningEnvironment())
        fabric.launch()
        if note := launch.note or _unused(gpus, 1):
            sys.stderr.write(f"{note}\n")
        return Processes(launch, fabric.device)
    devices: Any = launch.local_world if kind == "cpu" else _gpus(launch, gpus)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    _check_address(launch)
    environment = _Launched(launch, launch.local_rank if kind == "cpu" or len(devices) > 1 else 0)
    strategy = DDPStrategy(cluster_environment=environment, timeout=timedelta(minutes=timeout_min))
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=launch.nodes, strategy=strategy)
    try:
        fabric.launch()
        processes = Processes(launch, fabric.device, timeout_min)
    except RuntimeError as error:
        raise LaunchError(
            f"process {launch.rank} of {launch.world} did not meet the others at {launch.address}:{launch.port} "
            f"({cause(error)}); set MASTER_ADDR to a name or address of the first machine, MASTER_PORT to a free "
            "port of it, or GLOO_SOCKET_IFNAME to the network between them"
        ) from error
    assert (dist.get_world_size(), dist.get_rank()) == (launch.world, launch.rank)
    if launch.local_rank == 0 and (note := _unused(gpus, launch.local_world)):
        sys.stderr.write(f"{note}\n")
    return processes


class _Launched(ClusterEnvironment):
    """What `read_launch` found, for Fabric, whose own reading of it refuses a plain `srun --ntasks`."""

    def __init__(self, launch: Launch, device_index: int) -> None:
        super().__init__()
        self._launch, self._device_index = launch, device_index

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._launch.address

    @property
    def main_port(self) -> int:
        return self._launch.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._launch.world

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        return self._launch.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        return self._device_index

    def node_rank(self) -> int:
        return self._launch.node


def _gpus(launch: Launch, gpus: int) -> list[int]:
    """The GPUs that the processes of this machine take in their order, or the one that Slurm shows this one."""
    if gpus < launch.local_world and not (gpus == 1 and launch.by == "srun"):
        raise SettingsError(
            f"{launch.by} started {launch.local_world} processes on {socket.gethostname()}, which has {gpus} GPUs for "
            "them; start as many as there are GPUs, or give --device cpu"
        )
    return [0] if gpus < launch.local_world else list(range(launch.local_world))


def _unused(gpus: int, used: int) -> str | None:
    if gpus <= used:
        return None
    return f"training takes {used} of {gpus} GPUs; `torchrun --nproc-per-node {gpus} train.py …` takes all"


def _check_address(launch: Launch) -> None:
    try:
        socket.getaddrinfo(launch.address, launch.port)
    except OSError as error:
        raise LaunchError(
            f"the processes are to meet at {launch.address!r}, which is no known host ({error}); set MASTER_ADDR to a "
            "name or address of the first machine"
        ) from error
