"""How often noisy and clean recordings get the noise warning.

    python benchmarks/noise_warning.py CORPUS [--split test] [--count 50]

For mixtures of two speakers at several levels of recorded noise: the estimate of
`unmingle.separation.noise_level`, and the share of mixtures that get the warning. Nothing is separated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from separator_scores import LIST_RATE, SCORE_RATE, Corpus, MixtureList

from unmingle.audio import resample
from unmingle.separation.doubts import NOISY_DB
from unmingle.separation.noise_level import NoiseLevel
from unmingle.stft import Stft


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    corpus = Corpus(options.corpus, options.split)
    print(f"{'mixtures':24} {'estimate in dB (median, 10 to 90 %)':38} warned")
    talk = {"conversation": {"overlap": (0.0, 1.0)}}
    for name, config, seconds in (("pairs", {}, None), ("conversations", talk, 20.0)):
        for snr in (None, 30, 20, 15, 10, 5, 0):
            noise = {} if snr is None else {"noise": {"snr_levels": [float(snr)]}}
            wanted = MixtureList(name, options.count, seconds, {**config, **noise})
            found = np.array([estimate(corpus_mixture) for corpus_mixture, _ in corpus.mixtures(wanted)])
            low, middle, high = np.percentile(found, (10, 50, 90))
            label = name if snr is None else f"{name}, {snr} dB"
            print(
                f"{label:24} {middle:6.1f} ({low:.1f} to {high:.1f}){'':18} {(found < NOISY_DB).mean():.0%}"
            )
    rooms = MixtureList("rooms", options.count, None, {"room": {"rt60": (0.2, 0.6), "distance": (0.5, 2.0)}})
    found = np.array([estimate(mixture) for mixture, _ in corpus.mixtures(rooms)])
    print(f"{'rooms':24} {np.median(found):6.1f} {'':33} {(found < NOISY_DB).mean():.0%}")


def estimate(mixture: np.ndarray) -> float:
    stft = Stft(512, 256)
    level = NoiseLevel(stft.freqs)
    audio = torch.from_numpy(resample(mixture, LIST_RATE, SCORE_RATE).copy())
    level.add(stft.analyse(audio[None])[0].abs())
    return level.snr()


if __name__ == "__main__":
    main()
