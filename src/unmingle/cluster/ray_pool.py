"""Shards on Ray: worker processes with one loaded model each, on one or several machines.

Ray starts and replaces processes, repeats the shards of lost processes, and uses nodes as they join. A shard that
crashes its process is retried until the file responsible is known; see :mod:`unmingle.cluster.shards`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray

from unmingle.cluster.jobs import Job, Work
from unmingle.cluster.manifests import Shard
from unmingle.cluster.places import Place, open_place
from unmingle.cluster.shards import Corpus, Row, work_through
from unmingle.errors import UnmingleError, in_one_line

_AHEAD = 2
"""Submitted shards per worker: one in work and one that waits, so that no worker is idle."""


class RayPool:
    """An engine for :func:`~unmingle.cluster.corpus_run.run_corpus`.

    Args:
        address: for ``ray.init``. ``auto`` uses a cluster that runs on this machine, or starts Ray here for the run.
    """

    def __init__(self, address: str = "auto") -> None:
        self._address = None if address == "auto" else address

    def __call__(self, shards: Sequence[Shard], corpus: Corpus, place: Place) -> Iterator[list[Row]]:
        """The rows of every shard, in the order in which the shards finish.

        Raises:
            UnmingleError: there is no cluster at the address, or a shard's results cannot be written.
        """
        with self._connected():
            task = _do_shard.options(**_needs(corpus.job))
            waiting = list(reversed(shards))
            pending: list[ray.ObjectRef[Any]] = []
            try:
                while waiting or pending:
                    while waiting and len(pending) < _AHEAD * _workers(corpus.job):
                        pending.append(task.remote(waiting.pop(), corpus, place.name))
                    done, pending = ray.wait(pending, timeout=10.0)
                    for each in done:
                        yield _rows(ray.get(each))
            except ray.exceptions.RayError as error:
                raise UnmingleError(
                    f"Ray stopped ({in_one_line(error)[:300]}); the same command without --overwrite goes on."
                ) from error
            finally:
                _stop(pending)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        if ray.is_initialized():  # By the calling program.
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # No usage reports.
        try:
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except Exception as error:
            raise UnmingleError(
                f"No Ray cluster can be reached at {self._address or 'this machine'} ({in_one_line(error)})."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


# Without max_calls, a process that uses a GPU would end after each shard.
@ray.remote(max_calls=0, max_retries=-1)
def _do_shard(shard: Shard, corpus: Corpus, output: str) -> list[Row] | str:
    """The rows of a shard, or the text of an error that stops the job."""
    try:
        return work_through(shard, corpus, open_place(output), _opened(corpus.job))
    except UnmingleError as error:
        return str(error)


@lru_cache(1)
def _opened(job: Job) -> Work:
    """The loaded model. It is cached because one process gets many shards."""
    return job.open()


def _needs(job: Job) -> dict[str, Any]:
    """Resources of a worker."""
    return {"num_cpus": job.threads, "num_gpus": 1 if job.device == "cuda" else 0}


def _workers(job: Job) -> int:
    """Number of shards that the cluster can process at the same time with its current nodes."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = there.get("CPU", 0.0) / job.threads
    return max(1, int(min(most, there.get("GPU", 0.0)) if job.device == "cuda" else most))


def _rows(answer: list[Row] | str) -> list[Row]:
    if isinstance(answer, str):
        raise UnmingleError(answer)
    return answer


def _stop(pending: Sequence[Any]) -> None:
    """Cancel running shards and wait until they have cleaned up."""
    for each in pending:
        ray.cancel(each, force=False)
    if pending:
        ray.wait(list(pending), num_returns=len(pending), timeout=5.0)
