"""The processes of a run on one machine or several: started here, by torchrun, or by Slurm's srun."""

from __future__ import annotations

import multiprocessing
import os
from typing import Literal

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from unmingle.errors import UnmingleError

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def open_fabric(device: str, processes: int, nodes: int) -> Fabric:
    """Fabric for so many processes on each of so many machines.

    Args:
        device: ``cpu`` or ``cuda``.
        processes: on each machine.
        nodes: number of machines.

    Raises:
        UnmingleError: torchrun or Slurm started another number of processes, or a machine does not know the others.
    """
    environment = _environment()
    outside = environment.creates_processes_externally
    if outside:
        try:
            environment.validate_settings(processes, nodes)
        except ValueError as error:
            raise UnmingleError(
                f"--processes {processes} and --nodes {nodes} are not what torchrun or Slurm started: "
                f"{environment.world_size()} processes in all; make them the same."
            ) from error
    elif nodes > 1 and (missing := [name for name in _RENDEZVOUS if not os.environ.get(name)]):
        raise UnmingleError(
            f"--nodes needs {', '.join(missing)} in the environment of every machine; set them, or start with "
            "torchrun or srun."
        )
    strategy: DDPStrategy | str = "auto"
    if processes * nodes > 1:
        # A system of two stages trains one part at a time.
        start_method = _start_method() if starts_processes(processes) else "popen"
        strategy = DDPStrategy(start_method=start_method, find_unused_parameters=True)
    return Fabric(
        accelerator=device, devices=processes, num_nodes=nodes, strategy=strategy, plugins=[environment]
    )


def _start_method() -> Literal["forkserver", "spawn"]:
    """How this process starts others. A server of forks loads the libraries once; Windows has none."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(["unmingle.training.launch"])
    return "forkserver"


def starts_processes(processes: int) -> bool:
    """Whether Fabric starts the processes of this machine; else there is only this one, or they run already."""
    return processes > 1 and not _environment().creates_processes_externally


def is_first_process() -> bool:
    """Whether this process, or one that it starts, is the first of the run: it writes the run folder."""
    environment = _environment()
    return environment.node_rank() == 0 and environment.local_rank() == 0


def _environment() -> ClusterEnvironment:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # A job of one task starts its own processes.
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and SLURMEnvironment.detect():
        try:
            return SLURMEnvironment()
        except RuntimeError as error:
            raise UnmingleError("Slurm needs --ntasks-per-node instead of --ntasks.") from error
    return LightningEnvironment()
