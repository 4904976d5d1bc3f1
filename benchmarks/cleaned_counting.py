"""The threshold of `unmingle separate --speakers auto` between one speaker and two.

    python benchmarks/cleaned_counting.py CORPUS [--model MODEL] [--split valid]

The mixtures are the counting lists of one and two speakers of benchmarks/separator_scores.py (one alone, in noise and
in music; pairs and conversations), with another seed. Each is separated without its noise
(unmingle/separation/cleaned_energy.py), and the levels of the two estimates are compared. Prints for thresholds in
dB the share counted right of each list, and the slope of the logistic curve of the share of right counts over the
distance from the threshold. Choose on the split valid; the values are in unmingle/counting.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from separator_scores import LIST_RATE, LISTS, Corpus, MixtureList

from unmingle.audio import Samples, resample
from unmingle.counting import typical_levels
from unmingle.denoising.enhancer import Enhancer, load_denoiser
from unmingle.models import COUNTING_DENOISER, DEFAULT_MODEL, load_system
from unmingle.separation.cleaned_energy import cleaned_energy
from unmingle.separation.fine_masks import FineMasks
from unmingle.systems import MaskingSystem

THRESHOLDS = range(8, 17)
SLOPES = np.arange(0.05, 0.6, 0.01)


def wanted_lists() -> list[MixtureList]:
    """One and two speakers, with another seed than the lists that are scored."""
    return [
        dataclasses.replace(each, seed=7)
        for each in LISTS
        if each.counting and int(str(each.config.get("speakers", 2))) < 3
    ]


@torch.no_grad()
def level_gap(fine: FineMasks, denoiser: Enhancer, mixture: Samples) -> float:
    """How many dB one of two estimates lies below the other, without noise."""
    found = fine.of(torch.from_numpy(mixture), 2)
    energy = cleaned_energy(fine, denoiser, mixture, found.masks, found.spectrum.abs())
    return -float(typical_levels(torch.from_numpy(energy)[None]).min())


def slope(gaps: NDArray[np.float64], speaking: NDArray[np.intp], threshold: float) -> float:
    """Slope of the logistic curve under which the right and wrong counts are most likely."""
    right = (gaps < threshold) == (speaking == 2)
    distance = np.abs(gaps - threshold)
    likely = [
        -np.logaddexp(0.0, np.where(right, -value * distance, value * distance)).sum() for value in SLOPES
    ]
    return float(SLOPES[int(np.argmax(likely))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--split", default="valid")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system, denoiser = load_system(arguments.model), load_denoiser(COUNTING_DENOISER)
    assert isinstance(system, MaskingSystem)
    fine = FineMasks(system)
    corpus, lists = Corpus(arguments.corpus, arguments.split), wanted_lists()
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.model}, split {arguments.split}\n")
    gaps, speaking = [], []
    for wanted in lists:
        found = [
            level_gap(fine, denoiser, resample(mixture, LIST_RATE, system.sample_rate))
            for mixture, _ in corpus.mixtures(wanted)
        ]
        gaps.append(np.array(found))
        speaking.append(np.full(len(found), int(str(wanted.config.get("speakers", 2)))))
    print("| threshold (dB) | " + " | ".join(each.name for each in lists) + " | mean | slope |")
    print("| --- " * (len(lists) + 3) + "|")
    every_gap, everybody = np.concatenate(gaps), np.concatenate(speaking)
    for threshold in THRESHOLDS:
        right = [
            ((own < threshold) == (count == 2)).mean() for own, count in zip(gaps, speaking, strict=True)
        ]
        cells = [f"{100 * share:.0f} %" for share in [*right, float(np.mean(right))]]
        print(f"| {threshold} | " + " | ".join(cells) + f" | {slope(every_gap, everybody, threshold):.2f} |")


if __name__ == "__main__":
    main()
