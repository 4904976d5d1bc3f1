"""Shards on Ray: worker processes with one loaded model each, on this machine or on many.

Ray starts and replaces the processes, gives a shard of a lost one to another, and uses nodes as they come. A shard
that kills its process is retried until its poison file is known; see :mod:`unmingle.cluster.shards`.
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
from unmingle.errors import UnmingleError
from unmingle.file_batches import in_one_line

_AHEAD = 2
"""Shards in flight per worker: one at work and one that waits, so that none is idle and little is queued."""


class RayPool:
    """An engine for :func:`~unmingle.cluster.corpus_run.run_corpus`.

    Args:
        address: ``auto`` (a cluster that runs on this machine; else Ray is started here while the run lasts), or an
            address that ``ray.init`` takes.
    """

    def __init__(self, address: str = "auto") -> None:
        self._address = None if address == "auto" else address

    def __call__(self, shards: Sequence[Shard], corpus: Corpus, place: Place) -> Iterator[list[Row]]:
        """The rows of every shard, as they are done.

        Raises:
            UnmingleError: there is no cluster at the address, or a shard's results cannot be written.
        """
        with self._connected():
            task = _do_shard.options(**_needs(corpus.job))
            waiting = list(reversed(shards))
            flying: list[ray.ObjectRef[Any]] = []
            try:
                while waiting or flying:
                    while waiting and len(flying) < _AHEAD * _workers(corpus.job):
                        flying.append(task.remote(waiting.pop(), corpus, place.name))
                    done, flying = ray.wait(flying, timeout=10.0)
                    for each in done:
                        yield _rows(ray.get(each))
            except ray.exceptions.RayError as error:
                raise UnmingleError(
                    f"Ray stopped ({in_one_line(error)[:300]}); the same command goes on where it was."
                ) from error
            finally:
                _stop(flying)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        if ray.is_initialized():  # By the program that calls this.
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Nothing is told to anybody.
        try:
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except Exception as error:
            raise UnmingleError(
                f"There is no Ray cluster to be reached at {self._address or 'this machine'} ({in_one_line(error)})."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


# Without max_calls, a process that uses a GPU would end after each shard.
@ray.remote(max_calls=0, max_retries=-1)
def _do_shard(shard: Shard, corpus: Corpus, output: str) -> list[Row] | str:
    """The rows of a shard, or why the job cannot go on."""
    try:
        return work_through(shard, corpus, open_place(output), _opened(corpus.job))
    except UnmingleError as error:
        return str(error)


@lru_cache(1)
def _opened(job: Job) -> Work:
    """The loaded model: Ray gives many shards to one process."""
    return job.open()


def _needs(job: Job) -> dict[str, Any]:
    """What a worker takes of a node."""
    return {"num_cpus": job.threads, "num_gpus": 1 if job.device == "cuda" else 0}


def _workers(job: Job) -> int:
    """How many shards the cluster, as it is now, can work on at a time."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = there.get("CPU", 0.0) / job.threads
    return max(1, int(min(most, there.get("GPU", 0.0)) if job.device == "cuda" else most))


def _rows(answer: list[Row] | str) -> list[Row]:
    if isinstance(answer, str):
        raise UnmingleError(answer)
    return answer


def _stop(flying: Sequence[Any]) -> None:
    """Interrupt what is at work, and let it tidy up."""
    for each in flying:
        ray.cancel(each, force=False)
    if flying:
        ray.wait(list(flying), num_returns=len(flying), timeout=5.0)
