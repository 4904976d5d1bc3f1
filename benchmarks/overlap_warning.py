"""How often `unmingle separate` says that the speakers hardly overlap.

    python benchmarks/overlap_warning.py CORPUS [--model MODEL] [--split test] [--count 30]

Conversations of 30 s with a given overlap: the share of the speech in which both speakers are active in the sources
and in the tracks, and the share of the recordings that get the warning (unmingle/separation/doubts.py) if there is
no other.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from separator_scores import LIST_RATE, Corpus, MixtureList

from unmingle.audio import Samples, resample
from unmingle.models import DEFAULT_MODEL, load_system
from unmingle.separation.doubts import HARDLY_OVERLAP, overlap_share
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.windows import Tracks
from unmingle.systems import MaskingSystem

OVERLAPS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


def tracks_of(system: MaskingSystem, mixture: Samples) -> Tracks:
    """Who speaks when in a mixture of two speakers."""
    with RecordingSeparation(system, LIST_RATE, 2) as separation:
        separation.push(mixture)
        return separation.finish()


def true_overlap(system: MaskingSystem, sources: Samples) -> float:
    """Share of the speech in which both sources are active, by the rule of the tracks."""
    audio = torch.from_numpy(resample(sources, LIST_RATE, system.sample_rate))
    power = system.frontend.stft.analyse(audio).abs().square().sum(dim=-1).numpy()
    seconds = system.hop / system.sample_rate
    return overlap_share(Tracks(power, power, 1.0, 1.0, seconds, np.inf))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system, corpus = load_system(arguments.model), Corpus(arguments.corpus, arguments.split)
    assert isinstance(system, MaskingSystem)
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.model}, split {arguments.split}\n")
    print(
        "| overlap of turns | overlapping speech | in the tracks (10 to 90 %) | warned |\n| --- | --- | --- | --- |"
    )
    for overlap in OVERLAPS:
        talk = {"conversation": {"overlap": (overlap, overlap)}}
        rows = np.array(
            [
                (true_overlap(system, sources), overlap_share(tracks_of(system, mixture)))
                for mixture, sources in corpus.mixtures(MixtureList("talk", arguments.count, 30.0, talk, 7))
            ]
        )
        low, high = 100 * np.percentile(rows[:, 1], (10, 90))
        true, found = 100 * rows.mean(axis=0)
        warned = 100 * (rows[:, 1] < HARDLY_OVERLAP).mean()
        print(
            f"| {overlap} | {true:.0f} % | {found:.0f} % ({low:.0f} to {high:.0f}) | {warned:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
