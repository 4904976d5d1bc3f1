"""An ordered map over worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, TypeVar

from unmingle.workers import worker_pool

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any]
"""The function that this worker process runs."""


def _begin(function: Callable[[Any], Any], threads: int) -> None:
    global _function
    _function = function
    # On SIGTERM a worker ends the programs it started and removes its temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import torch

    torch.set_num_threads(threads)


def _call(item: Any) -> Any:
    try:
        return _function(item)
    except SystemExit:  # The pool would return it as a result and continue.
        os._exit(143)


def prepare() -> None:
    """Start the process that workers are forked from. It loads the libraries in the background.

    Workers are not forked from the main process: its OpenMP threads would not exist in them, and a worker would wait
    for them forever.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["unmingle.evaluation.evaluate", "fast_bss_eval"]
    )
    forkserver.ensure_running()


@contextmanager
def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, threads: int | None
) -> Iterator[Iterator[Result]]:
    """The results of ``function`` in the order of ``items``. With one process it runs in the current process.

    ``function`` is sent to each process once, so objects that it builds at its first call are kept there.
    ``threads`` is PyTorch's number of threads in each process (default: one).

    Raises:
        UnmingleError: a worker process was killed.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        yield map(function, items)
        return
    prepare()
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("forkserver")
    with worker_pool(processes, _begin, (function, threads or 1), context) as pool:
        finished = False
        try:
            yield pool.map(_call, items, chunksize=max(1, min(4, len(items) // (4 * processes))))
            finished = True
        finally:
            if not finished:
                for child in set(multiprocessing.active_children()) - others:
                    child.terminate()
