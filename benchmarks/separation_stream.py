"""The separator's stream: quality and processor time against the lag, beside the whole recording.

    python benchmarks/separation_stream.py CORPUS [--model MODEL] [--count 10] [--lags 0.3 0.6 1.0 2.0]

Conversations of 30 s of two speakers of the test split (the list `conversations` of separator_scores.py), 8 kHz, one
thread. Columns: SI-SDR in dB, the share of single-speaker speech in the wrong file, processor seconds per second of
audio, and how much faster than real time the slowest block of 80 ms is.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from pathlib import Path

import numpy as np
import torch
from separator_scores import LISTS, Corpus, improvement

from unmingle.audio import Samples, resample
from unmingle.evaluation.conversation_scores import wrong_speaker_share
from unmingle.separation import load

RATE = 8000
BLOCK = 640


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default="adanet-2speakers-8khz")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--lags", type=float, nargs="+", default=[0.3, 0.6, 1.0, 2.0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, corpus = load(arguments.model), Corpus(arguments.corpus, "test")
    (wanted,) = (each for each in LISTS if each.name == "conversations")
    mixtures: list[tuple[Samples, Samples]] = []
    for mixture, sources in corpus.mixtures(wanted):
        mixtures.append((resample(mixture, 16000, RATE), resample(sources, 16000, RATE)))
        if len(mixtures) == arguments.count:
            break
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {arguments.model}\n")
    print("| lag (s) | SI-SDR (dB) | wrong file | processor seconds per second | slowest block |")
    print("| --- | --- | --- | --- | --- |")
    for lag in [None, *arguments.lags]:
        scores, wrong, spent, slowest = [], [], 0.0, 0.0
        for mixture, sources in mixtures:
            began = time.process_time()
            if lag is None:
                estimates = model.separate(mixture, RATE, 2).estimates
            else:
                stream, pieces = model.stream(RATE, 2, lag), []
                for start in range(0, len(mixture), BLOCK):
                    at = time.process_time()
                    pieces.append(stream.push(mixture[start : start + BLOCK]))
                    slowest = max(slowest, time.process_time() - at)
                estimates = np.concatenate([*pieces, stream.flush()], axis=1)
            spent += time.process_time() - began
            _, score, ordered = improvement(estimates, sources, mixture)
            scores.append(score)
            wrong.append(wrong_speaker_share(ordered, sources, RATE))
        seconds = sum(len(mixture) for mixture, _ in mixtures) / RATE
        block = "" if lag is None else f"{BLOCK / RATE / slowest:.2f} times"
        name = "whole recording" if lag is None else f"{lag:g}"
        print(
            f"| {name} | {np.mean(scores):.2f} | {100 * np.nanmean(wrong):.1f} % | {spent / seconds:.3f} | {block} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
