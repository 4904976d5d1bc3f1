"""Speed, memory and start-up of `unmingle separate` on this machine.

    python benchmarks/separation_speed.py

Every row is a process of its own: real-time factor (reading and writing included, start-up not),
wall time and peak memory of the whole process, and what share of this machine's matrix-product rate
one run of the model reaches. The number of speakers is given, or counted (auto).
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from unmingle.audio import read_audio, resample
from unmingle.models import DEFAULT_MODEL, load_system

MIXTURE = Path(__file__).parent.parent / "examples" / "two_speakers" / "mix" / "reader_and_commands.flac"
RATE = 8000


def matrix_product_rate(threads: int) -> float:
    """Floating-point operations a second of a 2048 x 2048 float32 matrix product, the best of ten."""
    torch.set_num_threads(threads)
    left, right = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(times))


def run(arguments: list[str], environment: dict[str, str]) -> tuple[float, int, str]:
    """Wall seconds, peak bytes and standard output of a process."""
    began = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return time.perf_counter() - began, usage.ru_maxrss * 1024, output


def main() -> None:
    system = load_system(DEFAULT_MODEL)
    macs = system.multiply_accumulates(1.0)
    print(
        f"{DEFAULT_MODEL}: {system.parameter_count():,} parameters, {macs / 1e9:.3f} GMAC per second of audio"
    )
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    program = str(Path(sys.executable).parent / "unmingle")
    times = [run([program, "--help"], dict(os.environ))[0] for _ in range(5)]
    print(f"unmingle --help: {statistics.median(times):.2f} s (median of 5)\n")
    recording = read_audio(MIXTURE)
    mixture = resample(recording.samples[0], recording.sample_rate, RATE)
    columns = "real-time factor | times real time | wall (s) | peak MiB | of matrix rate"
    print(f"| audio (s) | speakers | threads | {columns} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (10, 60, 600):
            path = Path(folder) / f"{seconds}.wav"
            soundfile.write(path, np.resize(mixture, seconds * RATE), RATE)
            for speakers, threads in itertools.product(("2", "auto"), (1, 2)):
                peak_rate = matrix_product_rate(threads)
                command = [program, "separate", str(path), "-o", folder, "--overwrite", "--json"]
                command += ["--speakers", speakers, "--threads", str(threads)]
                environment = dict(os.environ) | {"OMP_NUM_THREADS": str(threads)}
                runs = [run(command, environment) for _ in range(3)]
                factor = statistics.median(
                    json.loads(out)["files"][0]["real_time_factor"] for *_, out in runs
                )
                wall = statistics.median(wall for wall, _, _ in runs)
                memory = max(peak for _, peak, _ in runs)
                share = 2 * macs / factor / peak_rate
                print(
                    f"| {seconds} | {speakers} | {threads} | {factor:.4f} | {1 / factor:.0f} | {wall:.2f} | "
                    f"{memory / 2**20:.0f} | {share:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
