"""The simulation of a cluster: what can be worked out by hand."""

from __future__ import annotations

import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from scaling_simulation import Cluster, job_seconds


@pytest.mark.parametrize("shared", [True, False])
def test_equal_shards_on_equal_workers_take_whole_rounds(shared: bool) -> None:
    assert job_seconds([10.0] * 9, Cluster(2, 2, start_seconds=5.0), shared=shared) == 5.0 + 3 * 10.0


def test_a_slow_node_holds_up_fixed_shares_only() -> None:
    # Of 30 shards the fast node does 20 and the slow one 10 in the same time.
    half = Cluster(2, 1, start_seconds=0.0, slow_share=0.5, slow_factor=2.0)
    assert job_seconds([1.0] * 30, half) == 20.0
    assert job_seconds([1.0] * 30, half, shared=False) == 30.0


def test_fixed_shares_end_with_the_longest() -> None:
    shards = [9.0, 1.0, 9.0, 1.0]
    assert job_seconds(shards, Cluster(2, 1, start_seconds=0.0), shared=False) == 18.0
    assert job_seconds(shards, Cluster(2, 1, start_seconds=0.0)) == 10.0


def test_failures_cost_the_lost_work_and_the_restart() -> None:
    calm = Cluster(1, 1, start_seconds=0.0)
    rough = Cluster(1, 1, start_seconds=0.0, failures_per_node_day=24.0, restart_seconds=100.0)
    shards = [60.0] * 1000
    times = [job_seconds(shards, rough, seed=seed) for seed in range(50)]
    assert job_seconds(shards, calm) == 60_000.0
    # A failure an hour costs 100 s and half a shard: of 3,600 s, 3,470 are work.
    assert sum(times) / len(times) == pytest.approx(60_000 * 3_600 / 3_470, rel=0.02)
