"""Work shared among processes, its results in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any]
"""Of this worker process."""


def _begin(function: Callable[[Any], Any], threads: int) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.
    torch.set_num_threads(threads)


def _call(item: Any) -> Any:
    return _function(item)


@contextmanager
def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, threads: int | None
) -> Iterator[Iterator[Result]]:
    """The results of ``function`` in the order of ``items``; with one process in this one.

    ``function`` is handed to each process once, so what it builds at its first call is kept there.
    ``threads``: PyTorch's in each process; one, if not given.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        yield map(function, items)
        return
    pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(function, threads or 1))
    try:
        yield pool.map(_call, items, chunksize=max(1, min(4, len(items) // (4 * processes))))
    finally:
        pool.shutdown(cancel_futures=True)
