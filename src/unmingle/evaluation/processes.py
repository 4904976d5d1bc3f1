"""Work shared among processes, its results in order."""

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
"""Of this worker process."""


def _begin(function: Callable[[Any], Any], threads: int) -> None:
    global _function
    _function = function
    # Told to end, a worker ends what it started and leaves no temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import torch

    torch.set_num_threads(threads)


def _call(item: Any) -> Any:
    try:
        return _function(item)
    except SystemExit:  # The pool would take it for a result and go on.
        os._exit(143)


def prepare() -> None:
    """Start the process that workers are forked from, which loads the libraries while this one goes on.

    Workers are not forks of this process: its threads for OpenMP would be missing in them, and be waited for.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["unmingle.evaluation.evaluate", "fast_bss_eval"]
    )
    forkserver.ensure_running()


@contextmanager
def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, threads: int | None
) -> Iterator[Iterator[Result]]:
    """The results of ``function`` in the order of ``items``; with one process in this one.

    ``function`` is handed to each process once, so what it builds at its first call is kept there.
    ``threads``: PyTorch's in each process; one, if not given.

    Raises:
        UnmingleError: a process was ended from outside.
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
