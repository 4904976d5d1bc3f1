"""How fast mixtures are made, and what scoring costs beside separation and fast-bss-eval themselves.

    python benchmarks/evaluation_speed.py CORPUS [FOLDER]

Mixtures: `unmingle mix`, 300 of two speakers at 8 kHz, twice: the first decodes the corpus. Times are of the whole
program with its start-up; "per core" divides the length of the mixtures by the processor time of all its processes.

Scoring: `unmingle evaluate FOLDER` (those mixtures, if not given) with SI-SDR and BSS-eval SDR by two processes,
against two processes that only separate the same mixtures, already read, and call
fast-bss-eval for estimates and mixture.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fast_bss_eval
import numpy as np
import torch

from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.models import DEFAULT_MODEL

COUNT = 300


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of `unmingle ARGUMENTS` with all its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "unmingle", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bare(items: list[Any]) -> float:
    """Wall seconds of separation and fast-bss-eval for some mixtures in this process."""
    torch.set_num_threads(1)
    candidate = CandidateConfig(model=DEFAULT_MODEL).build()
    read = [read_item(item) for item in items]
    candidate.estimate(*read[0])
    began = time.perf_counter()
    for mixture, sources, rate in read:
        estimates = candidate.estimate(mixture, sources, rate).sources
        references = torch.from_numpy(sources).double().unsqueeze(1)
        for given in (estimates, np.broadcast_to(mixture, sources.shape).copy()):
            fast_bss_eval.sdr(references, torch.from_numpy(given).double().unsqueeze(1), return_perm=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")}
        print(
            "| `unmingle mix` | wall (s) | processor (s) | times real time per core |\n| --- | --- | --- | --- |"
        )
        for label in ("with decoding", "decoded before"):
            folder = scratch / label.replace(" ", "-")
            make = ["mix", str(arguments.corpus), "-o", str(folder), "--count", str(COUNT)]
            wall, work = timed([*make, "--seed", "1", "--split", "test"], environment)
            items = read_mixture_folder(folder)
            seconds = sum(float(item.details["seconds"]) for item in items)
            print(f"| {label} | {wall:.1f} | {work:.1f} | {seconds / work:.0f} |")
        folder = arguments.folder or folder
        items = read_mixture_folder(folder)
        with ProcessPoolExecutor(2) as pool:
            alone = max(pool.map(bare, [items[::2], items[1::2]]))
        score = [
            "evaluate",
            str(folder),
            "--processes",
            "2",
            "--metric",
            "sdr",
            "-o",
            str(scratch / "scores"),
        ]
        wall, work = timed(score, environment)
        print(f"\nseparation and fast-bss-eval alone, two processes: {alone:.1f} s")
        print(
            f"`unmingle evaluate`, two processes, with start-up: {wall:.1f} s, {wall / alone:.2f} times as long"
        )
        print(f"({len(items)} mixtures; {work:.1f} s of processor time)")


if __name__ == "__main__":
    main()
