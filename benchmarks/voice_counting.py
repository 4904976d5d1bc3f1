"""Count the speakers of conversations by voice, and fit the rule for it.

    python benchmarks/voice_counting.py CORPUS [--model MODEL] [--split test] [--fit]

Conversations of two to four speakers (30 s to 3 minutes, mostly one or two of them at once) are drawn from one split
of CORPUS. Prints the confusion of the counts, and the expected calibration error of the confidence: the mean distance
of the confidence from the share that is right, weighted by the number of recordings.

With --fit it prints the weights of the logistic regression that tells best whether there is one more speaker
(`_MORE` in unmingle/separation/voice_clusters.py). Fit on the split valid, and check on the split test.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from counting_confidence import calibration_error
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.models import DEFAULT_MODEL, load_system
from unmingle.separation.tracking import assign_speakers
from unmingle.separation.voice_clusters import VoiceClusters
from unmingle.separation.windows import WindowedSeparation
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.systems import MaskingSystem

LENGTHS = {30: 24, 60: 12, 180: 5}
"""Seconds, and how many recordings of each number of speakers."""
SPEAKERS = (2, 3, 4)


def recordings(corpus: Path, split: str, sample_rate: int) -> Iterator[tuple[int, Samples]]:
    """Number of speakers, and mixture ``(samples,)``."""
    utterances = read_corpora([str(corpus)], split)
    decoded = decode(utterances, sample_rate)
    for speakers in SPEAKERS:
        talk = {"overlap": (0.0, 0.5), "turn": (1.0, 10.0)}
        config = MixingConfig.model_validate({"speakers": speakers, "snr": (0.0, 5.0), "conversation": talk})
        mixer = Mixer(utterances, decoded, sample_rate, config, seed=11)
        index = 0
        for seconds, count in LENGTHS.items():
            for _ in range(count):
                example = mixer.example(index, seconds * sample_rate)
                index += 1
                yield speakers, example.sources.sum(axis=0)


def clusters(system: MaskingSystem, mixture: Samples) -> VoiceClusters:
    """The pieces of a recording's estimates, by voice."""
    with WindowedSeparation(system, system.speakers, encoder=pretrained_speaker_encoder()) as separation:
        separation.push(mixture)
        separation.finish()
        places = assign_speakers(separation._sources).speakers
        return VoiceClusters(separation._heard, places, system.speakers)


def fitted(evidence: NDArray[np.float64], more: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression by Newton's method, both classes of the same weight."""
    weights = np.where(more > 0, 0.5 / more.mean(), 0.5 / (1 - more).mean())
    ridge, found = np.diag([0.0, 0.1, 0.1, 0.1]), np.zeros(evidence.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-(evidence @ found)))
        curvature = evidence.T @ (evidence * (weights * chance * (1 - chance))[:, None]) + ridge
        found = found + np.linalg.solve(curvature, evidence.T @ (weights * (more - chance)) - ridge @ found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--split", default="test")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system = load_system(arguments.model)
    assert isinstance(system, MaskingSystem)
    evidence, more, rows = [], [], []
    for number, (speakers, mixture) in enumerate(
        recordings(arguments.corpus, arguments.split, system.sample_rate)
    ):
        found = clusters(system, mixture)
        if arguments.fit:
            for fewer in range(system.speakers, speakers + 1):
                evidence.append(found.evidence(fewer))
                more.append(float(fewer < speakers))
                print(number, speakers, fewer, evidence[-1].round(3).tolist(), flush=True)
        else:
            rows.append((speakers, *found.count()))
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {arguments.split}")
    if arguments.fit:
        print("weights:", fitted(np.array(evidence), np.array(more)).round(2).tolist())
        return
    table = np.array(rows)
    most = int(table[:, 1].max())
    print("| speakers | " + " | ".join(f"counted {n}" for n in range(system.speakers, most + 1)) + " |")
    print("| --- " * (most - system.speakers + 2) + "|")
    for speakers in SPEAKERS:
        own = table[table[:, 0] == speakers, 1]
        counts = [str(int((own == n).sum())) for n in range(system.speakers, most + 1)]
        print(f"| {speakers} | {' | '.join(counts)} |")
    pairs = np.stack([table[:, 2], table[:, 0] == table[:, 1]], axis=1)
    print(f"right: {100 * pairs[:, 1].mean():.0f} %; calibration error {calibration_error(pairs):.3f}")


if __name__ == "__main__":
    main()
