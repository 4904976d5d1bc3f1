"""What a corpus costs, and how long it takes on N nodes: core-hours, dollars, stragglers, failures.

    python benchmarks/scaling_simulation.py [--hours 100000] [--nodes 1 2 8 32 128] [--failures-per-node-day 0.1] ...

The cost comes from a measurement on this machine: processor time of one thread per second of audio, with reading and
writing. Job times come from a simulation: shards of random lengths on nodes of which some are slow and any may fail.
"""

from __future__ import annotations

import argparse
import bisect
import datetime
import heapq
import os
import platform
import random
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

from unmingle.cluster.jobs import DenoisingJob, SeparationJob
from unmingle.models import DEFAULT_MODEL, find_model, model_names, read_facts
from unmingle.systems import DenoisingConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
CORPUS_HOURS = (1_000, 100_000, 10_000_000)


@dataclass(frozen=True)
class Cluster:
    """Nodes, and what goes wrong with them."""

    nodes: int
    workers: int
    """Per node, one core each."""
    start_seconds: float = 30.0
    """Until a worker has loaded its model."""
    slow_share: float = 0.0
    """Of the nodes."""
    slow_factor: float = 2.0
    failures_per_node_day: float = 0.0
    restart_seconds: float = 300.0
    """Until a failed node, or another in its place, works again."""


class _Failures:
    """The moments at which one node fails, the first first."""

    def __init__(self, rate: float, rng: random.Random) -> None:
        self._rate, self._rng, self._moments = rate, rng, [0.0]

    def next(self, now: float) -> float:
        if not self._rate:
            return float("inf")
        while self._moments[-1] <= now:
            self._moments.append(self._moments[-1] + self._rng.expovariate(self._rate))
        return self._moments[bisect.bisect_right(self._moments, now)]


def job_seconds(shards: list[float], cluster: Cluster, *, seed: int = 0, shared: bool = True) -> float:
    """Seconds until all shards are done.

    Args:
        shards: seconds of work of each on a node that is not slow.
        cluster: that does them.
        seed: of slow nodes and failures.
        shared: workers take the next shard when they are free (Ray); else worker I of N has every N-th (``--shard``).
    """
    rng = random.Random(seed)
    slow = set(rng.sample(range(cluster.nodes), round(cluster.slow_share * cluster.nodes)))
    rate = cluster.failures_per_node_day / 86_400
    failures = [_Failures(rate, random.Random(rng.random())) for _ in range(cluster.nodes)]
    workers = cluster.nodes * cluster.workers
    common = deque(shards)
    queues = [common] * workers if shared else [deque(shards[k::workers]) for k in range(workers)]
    # (when, worker, a shard that was lost then and goes back to the worker's queue)
    events: list[tuple[float, int, float | None]] = [(cluster.start_seconds, k, None) for k in range(workers)]
    idle: list[int] = []
    heapq.heapify(events)
    end = 0.0
    while events:
        now, worker, lost = heapq.heappop(events)
        if lost is not None:
            queues[worker].append(lost)
            if shared and idle:
                heapq.heappush(events, (now, idle.pop(), None))
            continue
        if not queues[worker]:
            idle.append(worker)
            continue
        node, work = worker // cluster.workers, queues[worker].popleft()
        done = now + work * (cluster.slow_factor if node in slow else 1.0)
        failure = failures[node].next(now)
        if done <= failure:
            end = max(end, done)
            heapq.heappush(events, (done, worker, None))
        else:
            heapq.heappush(events, (failure, worker, work))
            back = failure + cluster.restart_seconds + cluster.start_seconds
            heapq.heappush(events, (back, worker, None))
    return end


def core_seconds_per_second(job: SeparationJob | DenoisingJob, path: Path, repeats: int = 5) -> float:
    """Processor seconds per second of audio, the median; other programs on the machine hardly count."""
    work, times, seconds = job.open(), [], 0.0
    for number in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            seconds = float(work(path, "x", Path(folder))["seconds"])
            if number:  # The first one warms up.
                times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2] / seconds


def _job(model: str) -> SeparationJob | DenoisingJob:
    cleans = isinstance(read_facts(find_model(model))[0], DenoisingConfig)
    return DenoisingJob(model) if cleans else SeparationJob(model)


def print_costs(dollars: float) -> dict[str, float]:
    """A table of core-hours and dollars; returns core seconds per second of audio."""
    torch.set_num_threads(1)
    mixture = EXAMPLES / "two_speakers" / "mix" / "reader_and_commands.flac"
    factors = {name: core_seconds_per_second(_job(name), mixture) for name in model_names()}
    print(f"| model | core seconds per audio hour | {' | '.join(f'{h:,} h' for h in CORPUS_HOURS)} |")
    print(f"| --- | --- | {' | '.join('---' for _ in CORPUS_HOURS)} |")
    for name, factor in factors.items():
        cells = [f"{h * factor:,.0f} core h, ${h * factor * dollars:,.2f}" for h in CORPUS_HOURS]
        print(f"| {name} | {3600 * factor:.0f} | {' | '.join(cells)} |")
    return factors


def print_job_times(options: argparse.Namespace, factor: float) -> None:
    """A table of job hours against nodes: nothing wrong, then stragglers and failures, shared and in fixed shares."""
    rng = random.Random(0)
    work = options.shard_hours * 3600 * factor
    shards = [
        work * rng.lognormvariate(-(options.spread**2) / 2, options.spread) for _ in range(options.shards)
    ]
    print(f"\n{len(shards)} shards of {work:.0f} core seconds on average, {options.workers} cores per node\n")
    print(
        "| nodes | ideal (h) | nothing wrong (h) | slow nodes and failures: Ray (h) | the same: --shard (h) |"
    )
    print("| --- | --- | --- | --- | --- |")
    for nodes in options.nodes:
        calm = Cluster(nodes, options.workers)
        rough = Cluster(
            nodes, options.workers, slow_share=options.slow_share, slow_factor=options.slow_factor,
            failures_per_node_day=options.failures_per_node_day,
        )  # fmt: skip
        ideal = sum(shards) / (nodes * options.workers)
        times = [
            ideal,
            job_seconds(shards, calm),
            job_seconds(shards, rough),
            job_seconds(shards, rough, shared=False),
        ]
        print(f"| {nodes} | {' | '.join(f'{seconds / 3600:.2f}' for seconds in times)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=100_000, help="of audio")
    parser.add_argument("--shard-hours", type=float, default=1.0, help="of audio per shard, on average")
    parser.add_argument("--spread", type=float, default=0.3, help="of the shards' lengths (log-normal sigma)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 8, 32, 128])
    parser.add_argument("--workers", type=int, default=16, help="per node, one core each")
    parser.add_argument("--slow-share", type=float, default=0.05, help="of the nodes")
    parser.add_argument("--slow-factor", type=float, default=2.0)
    parser.add_argument("--failures-per-node-day", type=float, default=0.1)
    parser.add_argument("--dollars", type=float, default=0.04, help="per core-hour")
    options = parser.parse_args()
    options.shards = round(options.hours / options.shard_hours)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    factors = print_costs(options.dollars)
    print_job_times(options, factors[DEFAULT_MODEL])


if __name__ == "__main__":
    main()
