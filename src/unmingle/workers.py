"""Worker processes that end with the process that started them, and how many there are cores for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from unmingle.errors import UnmingleError


def available_cores() -> int:
    """Processor cores that this process may use; all there are, where the system does not tell (macOS, Windows)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """Bytes of memory that this process had at most; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, the others kibibytes.


def end_with_parent() -> None:
    """In a worker process: end when the process that started it has ended, even by ``kill -9``."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def worker_pool(
    processes: int | None = None,
    begin: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    context: BaseContext | None = None,
) -> Iterator[ProcessPoolExecutor]:
    """Worker processes (default: one per core) that leave Ctrl-C to this one and end with it.

    Args:
        processes: how many.
        begin: called in each, with ``arguments``, before any work.
        arguments: for ``begin``.
        context: how they are started (default: as the system does).

    Raises:
        UnmingleError: a process was ended from outside.
    """
    pool = ProcessPoolExecutor(
        processes or available_cores(), context, initializer=_begin, initargs=(begin, arguments)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UnmingleError(
            "A worker process was ended from outside, perhaps for want of memory; the same command starts again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if begin is not None:
        begin(*arguments)
