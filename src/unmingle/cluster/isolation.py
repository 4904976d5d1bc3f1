"""Work in a separate process, so that a file that crashes its process does not stop other work."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from unmingle.cluster.jobs import Job, Work
from unmingle.errors import UnmingleError
from unmingle.workers import worker_pool

_ATTEMPTS = 2
"""Number of attempts, after the crash that causes the isolation."""


class Isolation:
    """Does a job's work in another process. As a context manager, it ends that process."""

    def __init__(self, job: Job) -> None:
        self._job, self._closing = job, ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, path: Path, stem: str, folder: Path) -> dict[str, Any]:
        """A file's row. A file that crashes every process has the status ``skipped``.

        Raises:
            UnmingleError: a process cannot start.
        """
        for _ in range(_ATTEMPTS):
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = self._closing.enter_context(worker_pool(1, _begin, (self._job,), context))
                _check_started(self._pool)
            try:
                return self._pool.submit(_do, path, stem, folder).result()
            except BrokenProcessPool:
                self._pool = None
        error = f"{path} ends every process that works on it; it is skipped."
        return {"status": "skipped", "outputs": [], "error": error}

    def __enter__(self) -> Isolation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()


_work: Work
"""The work of this process."""


def _check_started(pool: ProcessPoolExecutor) -> None:
    """If the process cannot start, the file is not the reason."""
    try:
        pool.submit(_ready).result()
    except BrokenProcessPool as error:
        raise UnmingleError(
            "A process for the work could not start, perhaps because memory is short; run the same command again."
        ) from error


def _begin(job: Job) -> None:
    global _work
    _work = job.open()


def _ready() -> None:
    """Does nothing: if it returns, the process has started."""


def _do(path: Path, stem: str, folder: Path) -> dict[str, Any]:
    return _work(path, stem, folder)
