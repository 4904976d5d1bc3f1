"""Separate and denoise: which of the two comes first?

    python benchmarks/separate_and_denoise.py CORPUS [--model MODEL] [--count 40]

Pairs of the test split in recorded noise, at 16 kHz, by what `unmingle separate` and `unmingle denoise` do; SI-SDR
improvement in dB at 8 kHz against the clean speakers: without a denoiser, with one before the separator, and with one
after it for each estimate. In brackets the share of mixtures that get worse.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from separator_scores import LIST_RATE, LISTS, SCORE_RATE, Corpus, improvement

from unmingle.audio import Samples, resample
from unmingle.denoising import load_denoiser
from unmingle.models import DEFAULT_MODEL
from unmingle.separation import load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    separator, denoiser = load(arguments.model), load_denoiser()
    corpus = Corpus(arguments.corpus, arguments.split)
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {arguments.model}\n")
    print("| input SNR | separated alone | denoised before | denoised after |\n| --- | --- | --- | --- |")
    for wanted in (each for each in LISTS if each.name.startswith("noise")):
        gains: dict[str, list[float]] = {"alone": [], "before": [], "after": []}
        for number, (mixture, sources) in enumerate(corpus.mixtures(wanted)):
            if number == arguments.count:
                break
            alone = separator.separate(mixture, LIST_RATE, 2).estimates
            cleaned = denoiser.denoise(mixture, LIST_RATE)
            ways = {
                "alone": alone,
                "before": separator.separate(cleaned, LIST_RATE, 2).estimates,
                "after": np.stack([denoiser.denoise(each, LIST_RATE) for each in alone]),
            }
            low = resample(np.concatenate([mixture[None], sources]), LIST_RATE, SCORE_RATE)
            for way, estimates in ways.items():
                gains[way].append(_gain(estimates, low))
        cells = [
            f"{np.mean(found):.2f} ({100 * np.mean(np.array(found) < 0):.0f} %)" for found in gains.values()
        ]
        print(f"| {wanted.name.removeprefix('noise ')} | {' | '.join(cells)} |", flush=True)


def _gain(estimates: Samples, low: Samples) -> float:
    found = resample(estimates, LIST_RATE, SCORE_RATE)[:, : low.shape[1]]
    return improvement(found, low[1:, : found.shape[1]], low[0, : found.shape[1]])[0]


if __name__ == "__main__":
    main()
