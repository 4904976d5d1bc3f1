"""Start a training run: check the options, prepare the data, and run the loop in one or several processes."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessRaisedException

from unmingle.device import has_fast_bfloat16
from unmingle.errors import UnmingleError
from unmingle.memory import keep_freed_memory
from unmingle.training.initial import system_from_model
from unmingle.training.loop import Options, Report, TrainingLoop
from unmingle.training.mixtures import prepare
from unmingle.training.processes import is_first_process, open_fabric, starts_processes
from unmingle.training.recipe import Recipe
from unmingle.training.run_folder import Progress, RunFolder
from unmingle.workers import end_with_parent

_log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    run: Path,
    options: Options,
    on_step: Callable[[Report], None] | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
) -> Progress:
    """Train a system by ``recipe`` in the folder ``run``.

    Raises:
        UnmingleError: there is no data, the run exists already (or, with ``resume``, does not exist), or the model
            of ``init_from`` does not fit.
    """
    folder = RunFolder(run)
    _check(recipe, folder, options)
    if recipe.precision == "bf16-mixed" and not has_fast_bfloat16(options.device) and is_first_process():
        _log.warning(
            "This processor has no bfloat16: the run computes in float32, as with precision: 32-true."
        )
    fabric = open_fabric(options.device, options.processes, options.nodes)
    prepare(recipe, options.cache, on_decoded)
    if is_first_process():
        folder.create(recipe)
    if options.processes * options.nodes > 1:
        # A partial, because Fabric inspects the other arguments and fails on frozen ones.
        told = None if starts_processes(options.processes) else on_step
        process = partial(_train_process, recipe=recipe, folder=folder, options=options, on_step=told)
        try:
            progress: Progress = fabric.launch(process)
        except ProcessRaisedException as error:
            # The error of another process exists only as a printed traceback. Its last line has the text.
            name, _, message = str(error).strip().splitlines()[-1].partition(": ")
            if name != f"{UnmingleError.__module__}.{UnmingleError.__qualname__}":
                raise RuntimeError(f"{name}: {message}") from error
            raise UnmingleError(message) from None
        except SystemExit:
            # At its end, Python would wait for the other processes, which train on.
            for child in multiprocessing.active_children():
                child.kill()
            raise
        return progress
    return _train_process(fabric, recipe, folder, options, on_step)


def _check(recipe: Recipe, folder: RunFolder, options: Options) -> None:
    """Refuse options that do not fit the recipe, the run or the machine, before any work."""
    if folder.checkpoint.exists() and not options.resume:
        raise UnmingleError(
            f"{folder.path} contains a run already; add --resume to continue it, or choose another folder."
        )
    if options.resume and options.init_from:
        raise UnmingleError(
            "--init-from starts a new run, and --resume continues one; leave out one of them."
        )
    if options.resume:
        state, _ = folder.load()
        folder.check_same(recipe)
        if state.get("config") != recipe.system.model_dump_json():
            raise UnmingleError(
                f"{folder.path} was trained with another system than that of the recipe {recipe.name}; use "
                "that recipe, or start another run with --init-from."
            )
        if state.get("optimizer_name", "adam") != recipe.optimizer:
            raise UnmingleError(
                f"{folder.path} was trained with another optimizer than {recipe.optimizer}; use that recipe, or "
                "start another run with --init-from."
            )
    if options.init_from:
        system_from_model(recipe, options.init_from)  # Raises an error if the model does not fit.
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UnmingleError("PyTorch finds no CUDA device on this machine; choose cpu.")
    if options.device not in ("cpu", "cuda"):
        raise UnmingleError(f"There is no device {options.device!r}; choose cpu or cuda.")
    everywhere = options.processes * options.nodes
    if any(stage.batch_size % everywhere for stage in recipe.stages):
        raise UnmingleError(f"{everywhere} processes cannot share every batch evenly; change batch_size.")


def _train_process(
    fabric: Fabric,
    recipe: Recipe,
    folder: RunFolder,
    options: Options,
    on_step: Callable[[Report], None] | None,
) -> Progress:
    # Fabric's processes would train on without the first one.
    end_with_parent()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(max(1, options.threads // options.processes))
    try:
        return TrainingLoop(fabric, recipe, folder, options, on_step).run()
    finally:
        # A process that ends while threads of its group still run is aborted.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
