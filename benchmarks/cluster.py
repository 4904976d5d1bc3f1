"""Throughput of a corpus of short files: one and two workers, Ray against --shard, and batches of files.

    python benchmarks/cluster.py [--files 400] [--denoise] [--ray] [--batching]

The files are cuts of 3 to 15 s of the example mixture. Workers are processes with one thread each that have loaded
their model before the clock starts. "Simulated" is what benchmarks/scaling_simulation.py says of two workers, from
the times of the shards with one.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from scaling_simulation import Cluster, job_seconds

from unmingle.audio import read_audio, resample
from unmingle.cli.options import set_threads
from unmingle.cluster.corpus_run import Options, Progress, in_this_process, run_corpus
from unmingle.cluster.jobs import DenoisingJob, Job, SeparationJob, Work
from unmingle.cluster.manifests import Shard
from unmingle.cluster.places import Place
from unmingle.cluster.shards import Corpus, Row, work_through
from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL, load_system
from unmingle.shares import Share
from unmingle.workers import peak_memory

MIXTURE = Path(__file__).parent.parent / "examples" / "two_speakers" / "mix" / "reader_and_commands.flac"
RATE = 8000
SHARD = 10


def make_corpus(folder: Path, files: int) -> float:
    """Cuts of 3 to 15 s of the example, repeated; returns the seconds of all."""
    recording = read_audio(MIXTURE)
    audio = np.tile(resample(recording.samples[0], recording.sample_rate, RATE), 4)
    rng, total = np.random.default_rng(0), 0
    folder.mkdir()
    for number in range(files):
        length, start = int(rng.uniform(3, 15) * RATE), int(rng.uniform(0, 5) * RATE)
        soundfile.write(folder / f"{number:05d}.wav", audio[start : start + length], RATE)
        total += length
    return total / RATE


Answer = tuple[float, list[float], int]


def worker(
    job: Job, corpus: str, output: str, share: Share, barrier: Barrier, answers: Queue[Answer]
) -> None:
    """One share; answers with its end, the seconds of its shards, and the peak memory of this process."""
    work = job.open()
    with tempfile.TemporaryDirectory() as folder:
        work(MIXTURE, "warm", Path(folder))
    moments: list[float] = []

    def engine(shards: Sequence[Shard], corpus: Corpus, place: Place) -> Iterator[list[Row]]:
        barrier.wait()
        moments.append(time.perf_counter())
        for shard in shards:
            yield work_through(shard, corpus, place, work)
            moments.append(time.perf_counter())

    run_corpus(job, Options([corpus], output, SHARD), engine, share)
    answers.put((moments[-1] - moments[0], np.diff(moments).tolist(), peak_memory()))


def seconds_of(job: Job, workers: int, corpus: Path, output: Path) -> tuple[float, list[float], int]:
    """Seconds of the slowest worker, the seconds of all shards, and the highest peak memory of a worker."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(
            target=worker, args=(job, str(corpus), str(output), Share(k + 1, workers), barrier, answers)
        )
        for k in range(workers)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return max(f[0] for f in found), [s for f in found for s in f[1]], max(f[2] for f in found)


def ray_seconds(job: Job, corpus: Path, output: Path) -> float:
    """Seconds on a local Ray of two processors whose workers have loaded their models."""
    import ray

    from unmingle.cluster.ray_pool import RayPool

    # As the other workers: Ray's own are nice to other programs.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        # Shards of one file, so that both workers get some and load their models.
        warm, some = (
            Options([str(corpus)], str(output.with_name("warm")), 1),
            len(list(corpus.iterdir())) // 8,
        )
        began = [0.0]

        def begin(progress: Progress) -> None:
            if not progress.shards:
                began[0] = time.perf_counter()

        run_corpus(job, warm, RayPool(), Share(1, max(1, some)))
        run_corpus(job, Options([str(corpus)], str(output), SHARD), RayPool(), tell=begin)
        return time.perf_counter() - began[0]
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Nothing:
    """A job that does nothing: what remains is what shards cost."""

    threads: int = 1
    device: str = "cpu"

    def describe(self) -> dict[str, Any]:
        return {"command": "nothing"}

    def open(self) -> Work:
        return lambda path, stem, folder: {"outputs": [], "seconds": 0.0, "error": None}


def seconds_per_shard(corpus: Path, output: Path) -> float:
    """What one shard costs beside its files, on a local disk: shards of one file against one shard of all."""
    times = []
    for size in (1, 1_000_000):
        began = time.process_time()
        run_corpus(Nothing(), Options([str(corpus)], str(output / str(size)), size), in_this_process)
        times.append(time.process_time() - began)
    return (times[0] - times[1]) / (len(list(corpus.iterdir())) - 1)


def print_batching(corpus: Path, files: int) -> None:
    """Audio seconds per core second of the model alone, for files of like length together."""
    torch.set_num_threads(1)
    system = load_system(DEFAULT_MODEL)
    paths = sorted(corpus.iterdir())[:files]
    waves = sorted((torch.from_numpy(read_audio(path).samples[0]) for path in paths), key=len)
    audio = sum(len(wave) for wave in waves) / RATE
    print(
        "\n| files per batch | float32: audio s per core s | bfloat16: audio s per core s |\n| --- | --- | --- |"
    )
    for size in (1, 8, 16, 32):
        speeds = []
        for low in (False, True):
            began = time.process_time()
            for k in range(0, len(waves), size):
                batch = torch.nn.utils.rnn.pad_sequence(waves[k : k + size], batch_first=True)
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                    system.separate(batch, 2)
            speeds.append(audio / (time.process_time() - began))
        print(f"| {size} | {speeds[0]:.1f} | {speeds[1]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--denoise", action="store_true", help="denoise the files instead of separating them")
    parser.add_argument("--ray", action="store_true", help="also on a local Ray")
    parser.add_argument("--batching", action="store_true", help="also batches of files")
    options = parser.parse_args()
    set_threads(None)  # The workers inherit what the commands set.
    job: Job = DenoisingJob(DEFAULT_DENOISER) if options.denoise else SeparationJob(DEFAULT_MODEL)
    model = DEFAULT_DENOISER if options.denoise else DEFAULT_MODEL
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        audio = make_corpus(root / "in", options.files)
        print(f"{options.files} files, {audio:.0f} s of audio, {model}, {SHARD} files per shard\n")
        print(
            "| workers | seconds | files/s | audio s/s | peak MiB per worker |\n| --- | --- | --- | --- | --- |"
        )
        one, shards, _ = 0.0, [0.0], 0
        two = 0.0
        for workers in (1, 2):
            seconds, times, peak = seconds_of(job, workers, root / "in", root / f"out{workers}")
            print(
                f"| {workers} | {seconds:.1f} | {options.files / seconds:.2f} | {audio / seconds:.1f} "
                f"| {peak / 2**20:.0f} |",
                flush=True,
            )
            one, shards, two = (seconds, times, two) if workers == 1 else (one, shards, seconds)
        simulated = job_seconds(shards, Cluster(2, 1, start_seconds=0.0), shared=False)
        print(f"\ntwo workers: {one / two:.2f} times one; simulated {one / simulated:.2f} times")
        cost = seconds_per_shard(root / "in", root / "nothing")
        mean = one / len(shards)
        print(
            f"a shard costs {1000 * cost:.1f} ms of processor time: {100 * cost / mean:.2f} % of its {mean:.1f} s"
        )
        if options.ray:
            ray = ray_seconds(job, root / "in", root / "out-ray")
            print(f"Ray with two workers: {ray:.1f} s, {100 * (ray / two - 1):+.1f} % against --shard")
        if options.batching:
            print_batching(root / "in", options.files)


if __name__ == "__main__":
    main()
