"""Worker processes that end with their parent process, and the number of available cores."""

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
    """Processor cores that this process may use; all cores if the system does not report it (macOS, Windows)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """Peak memory of this process in bytes; 0 if the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS reports bytes, other systems kibibytes.


def end_with_parent() -> None:
    """In a worker process: end when the parent process ends, even by ``kill -9``."""
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
    """A pool of worker processes that ignore Ctrl-C, which the parent handles, and end with the parent.

    Args:
        processes: number of processes (default: one per core).
        begin: called in each process, with ``arguments``, before any work.
        arguments: for ``begin``.
        context: start method (default: that of the system).

    Raises:
        UnmingleError: a worker process was killed.
    """
    pool = ProcessPoolExecutor(
        processes or available_cores(), context, initializer=_begin, initargs=(begin, arguments)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UnmingleError(
            "A worker process was killed, perhaps because memory ran out; run the same command again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if begin is not None:
        begin(*arguments)
