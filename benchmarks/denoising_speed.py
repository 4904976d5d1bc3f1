"""Speed and memory of denoising on this machine, with one thread.

    python benchmarks/denoising_speed.py [MODEL]

Streaming: blocks of 16 and 32 ms at 16 kHz, 32 ms at 48 kHz, each the median of five runs of 20 s, with the slowest
single block. Offline: `unmingle denoise` on files of 10 s to an hour, each a process of its own; real-time
factor with reading and writing, peak memory of the process.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from separation_speed import MIXTURE, run

from unmingle.audio import read_audio, resample
from unmingle.denoising import Enhancer, load_denoiser
from unmingle.models import DEFAULT_DENOISER


def stream(enhancer: Enhancer, audio: np.ndarray, rate: int, block: int) -> tuple[float, float]:
    """Real-time factor, and the slowest block's seconds."""
    running = enhancer.stream(rate)
    running.push(audio[:rate])  # Warm: the first call of everything costs more.
    times = []
    for start in range(rate, len(audio) - block, block):
        began = time.perf_counter()
        running.push(audio[start : start + block])
        times.append(time.perf_counter() - began)
    return sum(times) / (len(times) * block / rate), max(times)


def main() -> None:
    torch.set_num_threads(1)
    model = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DENOISER
    enhancer = load_denoiser(model)
    system = enhancer.system
    print(
        f"{enhancer.name}: {system.parameter_count():,} parameters, {system.active_parameter_count():,} of them "
        f"at work at most; {system.multiply_accumulates(10.0) / 10 / 1e6:.0f} MMAC per second of audio at most"
    )
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    recording = read_audio(MIXTURE)
    speech = resample(recording.samples[0], recording.sample_rate, 16000)
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    noisy = speech + 0.3 * float(speech.std()) * noise
    print("| streaming | lag (ms) | real-time factor | slowest block (ms) |\n| --- | --- | --- | --- |")
    for rate, milliseconds in ((16000, 16), (16000, 32), (48000, 32)):
        audio = np.resize(resample(noisy, 16000, rate), 21 * rate)
        runs = [stream(enhancer, audio, rate, rate * milliseconds // 1000) for _ in range(5)]
        print(
            f"| {milliseconds} ms at {rate} Hz | {1000 * enhancer.stream(rate).lag_seconds:.0f} "
            f"| {statistics.median(factor for factor, _ in runs):.4f} "
            f"| {1000 * statistics.median(slowest for _, slowest in runs):.1f} |",
            flush=True,
        )
    print("\n| offline (s) | real-time factor | times real time | wall (s) | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    program = str(Path(sys.executable).parent / "unmingle")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (10, 60, 600, 3600):
            path = Path(folder) / f"{seconds}.wav"
            soundfile.write(path, np.resize(noisy, seconds * 16000), 16000)
            command = [program, "denoise", str(path), "-o", folder, "--overwrite", "--json", "--threads", "1"]
            command += ["--model", model]
            environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
            calls = [run(command, environment) for _ in range(3 if seconds < 3600 else 1)]
            factor = statistics.median(json.loads(out)["files"][0]["real_time_factor"] for *_, out in calls)
            wall = statistics.median(wall for wall, _, _ in calls)
            memory = max(peak for _, peak, _ in calls) / 2**20
            print(f"| {seconds} | {factor:.4f} | {1 / factor:.0f} | {wall:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
