"""The separator's streams: quality and processor time against the lag, beside the whole recording.

    python benchmarks/separation_stream.py CORPUS [--model MODEL ...] [--count 10] [--seconds 30] [--lags 0.3 1.0]

Conversations of two speakers of the test split (the list `conversations` of separator_scores.py), at the rate
of the model, one thread. Models that hear whole windows are measured at every lag; models that run frame by frame
(recipes/online-8khz) at their own. Columns: SI-SDR in dB, SI-SDR improvement, the share of single-speaker speech in
the wrong file, processor seconds per second of audio in blocks of 80 ms, how many times one core keeps up, and the
processor time of the slowest block of 20 ms and of all but one in a thousand.

Without --model it measures the pretrained model. A recipe (a .yaml file) in place of a model is measured with random
weights: its times are those of the trained model, its scores mean nothing and are left out.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from separator_scores import LISTS, Corpus, improvement

from unmingle.audio import Samples, resample
from unmingle.evaluation.conversation_scores import wrong_speaker_share
from unmingle.models import DEFAULT_MODEL
from unmingle.separation import Separator, load
from unmingle.systems import MaskingSystem, build_system
from unmingle.training.recipe import read_recipe

LIST_RATE = 16000
LONG, SHORT = 0.08, 0.02
"""Lengths of blocks in seconds."""


@dataclass
class Measured:
    """Figures of one model at one lag."""

    scores: list[tuple[float, float, float]] = field(default_factory=list)
    """SI-SDR improvement, SI-SDR and the share in the wrong file, of each mixture."""
    seconds: float = 0.0
    spent: float = 0.0
    """Processor seconds, in long blocks."""
    short: list[float] = field(default_factory=list)
    """Processor seconds of every short block."""

    def row(self, model: str, lag: str, *, trained: bool) -> str:
        """A line of the table."""
        gained, score, wrong = np.nanmean(np.array(self.scores), axis=0)
        quality = f"{score:.2f} | {gained:.2f} | {100 * wrong:.1f} %" if trained else " | | "
        rate = self.spent / self.seconds
        blocks = " | "
        if self.short:
            worst, most = 1e3 * max(self.short), 1e3 * float(np.quantile(self.short, 0.999))
            blocks = f"{worst:.1f} | {most:.1f}"
        return f"| {model} | {lag} | {quality} | {rate:.3f} | {1 / rate:.1f} | {blocks} |"


def opened(name: str) -> tuple[Separator, bool]:
    """A model, or a recipe with random weights; and whether it is trained."""
    if not name.endswith(".yaml"):
        return load(name, "cpu"), True
    torch.manual_seed(0)
    system = build_system(read_recipe(Path(name)).system).eval()
    assert isinstance(system, MaskingSystem)
    return Separator(system, Path(name).stem, Path(name)), False


def streamed(
    model: Separator, mixture: Samples, lag: float | None, block: int
) -> tuple[Samples, list[float]]:
    """Estimates, and the processor time of every block."""
    stream, pieces, times = model.stream(model.sample_rate, 2, lag), [], []
    for start in range(0, len(mixture), block):
        began = time.process_time()
        pieces.append(stream.push(mixture[start : start + block]))
        times.append(time.process_time() - began)
    return np.concatenate([*pieces, stream.flush()], axis=1), times


def measure(model: Separator, mixtures: list[tuple[Samples, Samples]], lag: float | None) -> Measured:
    """A stream with a lag; None: the model's own."""
    found, rate = Measured(), model.sample_rate
    for number, (mixture, sources) in enumerate(mixtures):
        began = time.process_time()
        estimates, _ = streamed(model, mixture, lag, round(LONG * rate))
        found.spent += time.process_time() - began
        found.seconds += len(mixture) / rate
        found.scores.append(scored(estimates, sources, mixture, rate))
        if number < 2:
            # Small blocks cost more time than they tell: two recordings are 3000 of them.
            found.short += streamed(model, mixture, lag, round(SHORT * rate))[1]
    return found


def whole(model: Separator, mixtures: list[tuple[Samples, Samples]]) -> Measured:
    """The recordings as files."""
    found, rate = Measured(), model.sample_rate
    for mixture, sources in mixtures:
        began = time.process_time()
        estimates = model.separate(mixture, rate, 2).estimates
        found.spent += time.process_time() - began
        found.seconds += len(mixture) / rate
        found.scores.append(scored(estimates, sources, mixture, rate))
    return found


def scored(estimates: Samples, sources: Samples, mixture: Samples, rate: int) -> tuple[float, float, float]:
    """SI-SDR improvement, SI-SDR and the share of single-speaker speech in the wrong file."""
    gained, score, ordered = improvement(estimates, sources, mixture)
    return gained, score, wrong_speaker_share(ordered, sources, rate)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL], help="Models, or recipes.")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0, help="Length of a conversation.")
    parser.add_argument("--lags", type=float, nargs="+", default=[0.3, 0.6, 1.0, 2.0])
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus(arguments.corpus, arguments.split)
    (wanted,) = (each for each in LISTS if each.name == "conversations")
    drawn: list[tuple[Samples, Samples]] = []
    for mixture, sources in corpus.mixtures(replace(wanted, seconds=arguments.seconds)):
        drawn.append((mixture, sources))
        if len(drawn) == arguments.count:
            break
    versions = f"{platform.machine()}, torch {torch.__version__}"
    print(f"{datetime.date.today()}, {versions}, {len(drawn)} recordings of {arguments.seconds:g} s\n")
    print(
        "| model | lag (s) | SI-SDR (dB) | SI-SDRi (dB) | wrong file | CPU s per s | times real time "
        "| slowest 20 ms block (ms) | 99.9 % (ms) |"
    )
    print("| --- " * 9 + "|")
    for name in arguments.model:
        model, trained = opened(name)
        mixtures = [
            (resample(mixture, LIST_RATE, model.sample_rate), resample(sources, LIST_RATE, model.sample_rate))
            for mixture, sources in drawn
        ]
        print(whole(model, mixtures).row(model.name, "whole recording", trained=trained), flush=True)
        lags = arguments.lags if model.system.steps(2) is None else [None]
        for lag in lags:
            own = model.stream(model.sample_rate, 2, lag).lag_seconds
            found = measure(model, mixtures, lag)
            print(
                found.row(model.name, f"{own:.3f}" if lag is None else f"{lag:g}", trained=trained),
                flush=True,
            )


if __name__ == "__main__":
    main()
