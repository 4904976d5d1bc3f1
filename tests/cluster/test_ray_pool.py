"""Ray: two nodes of one processor each, of which one is killed, give the bytes of one process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from corpora import PoisonJob, contents, make_corpus
from unmingle.cluster.corpus_run import Options, Progress, in_this_process, run_corpus
from unmingle.cluster.jobs import SeparationJob
from unmingle.cluster.ray_pool import RayPool

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
_STORE = 80 * 2**20


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, list[Any]]]:
    # The workers import this file's jobs, too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    # Ray's workers are nice to everybody; on a busy machine they would hardly begin.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False},
    )
    try:
        workers = [cluster.add_node(num_cpus=1, object_store_memory=_STORE) for _ in range(2)]
        ray.init(cluster.address, log_to_driver=False)
        yield cluster, workers
    finally:
        ray.shutdown()  # type: ignore[no-untyped-call]
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_killed_node_changes_no_byte(
    tmp_path: Path, tiny_model: Path, nodes: tuple[Cluster, list[Any]]
) -> None:
    corpus = make_corpus(tmp_path / "in", 60, broken=(7,))
    job = SeparationJob(str(tiny_model), 2)
    cluster, (_, second) = nodes
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.shards >= 3 and not killed:
            killed.append(progress.shards)
            cluster.remove_node(second, allow_graceful=False)

    progress = run_corpus(job, Options([str(corpus)], "out", 3), RayPool(), tell=kill)
    assert killed
    assert (progress.shards, progress.files, progress.failed) == (20, 60, 1)
    run_corpus(job, Options([str(corpus)], "alone", 3), in_this_process)
    assert contents(Path("out")) == contents(Path("alone"))


def test_a_file_that_kills_its_worker_is_skipped(tmp_path: Path, nodes: tuple[Cluster, list[Any]]) -> None:
    corpus = make_corpus(tmp_path / "in", 9)
    job = PoisonJob("004", tmp_path / "deaths")
    progress = run_corpus(job, Options([str(corpus)], "out", 3), RayPool())
    assert (progress.files, progress.failed) == (9, 1)
    assert job.log.read_bytes() == b"xxx"
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows if row["status"] == "skipped"] == ["day1/004"]
