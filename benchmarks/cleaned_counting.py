"""The thresholds of `unmingle separate --speakers auto` between one speaker and two.

    python benchmarks/cleaned_counting.py CORPUS [--model MODEL] [--split valid]

The mixtures are lists of benchmarks/separator_scores.py with another seed: one speaker alone, in noise and in music;
two in conversations and in full overlap, without and with noise and rooms. Levels of the two estimates are compared,
with and without noise (unmingle/separation/cleaned_energy.py). Prints for pairs of thresholds in dB, for loud and for
hardly any noise, the share counted right of each list, and the slope of the logistic curve of the share of right
counts over the distance from the threshold. Choose on the split valid; the values are in unmingle/counting.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import platform
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from separator_scores import LIST_RATE, LISTS, Corpus, MixtureList

from unmingle.audio import Samples, resample
from unmingle.counting import REMOVED_DB, typical_levels, with_and_without_noise
from unmingle.denoising.enhancer import Enhancer, load_denoiser
from unmingle.models import COUNTING_DENOISER, DEFAULT_MODEL, load_system
from unmingle.separation.cleaned_energy import cleaned_energy, removed_noise
from unmingle.separation.fine_masks import FineMasks
from unmingle.systems import MaskingSystem

LOUD, LITTLE = (9.5, 10.5, 11.0, 11.5, 12.0, 12.5), (18.0, 20.0, 22.0, 24.0)
"""Thresholds where the noise is loud, and where there is hardly any."""
COUNTS = {
    "one speaker": 100, "one in noise": 60, "one in music": 40, "two speakers": 100, "pairs": 100, "noise 10 dB": 60,
    "noise 0 dB": 30, "rooms": 40,
}  # fmt: skip
"""Mixtures of each list."""
LONGEST = 8.0
"""Seconds of a mixture that are heard."""
SLOPES = np.arange(0.05, 0.6, 0.01)

Values = NDArray[np.float64]


def wanted_lists() -> list[MixtureList]:
    """One and two speakers, with another seed than the lists that are scored."""
    listed = {each.name: each for each in LISTS}
    return [dataclasses.replace(listed[name], count=count, seed=7) for name, count in COUNTS.items()]


@torch.no_grad()
def measure(fine: FineMasks, denoiser: Enhancer, mixture: Samples) -> tuple[float, float]:
    """How many dB one of two estimates lies below the other, and the mixture above the noise."""
    found = fine.of(torch.from_numpy(mixture), 2)
    separated = found.masks * found.spectrum
    estimates = fine.stft.synthesise(separated, len(mixture)).numpy()
    cleaned = cleaned_energy(fine, denoiser, mixture, found, estimates)
    own = separated.abs().square().sum(dim=(1, 2)).double()
    energy = with_and_without_noise(own, torch.from_numpy(cleaned.sources))
    return -float(typical_levels(energy[None]).min()), removed_noise([cleaned])


def slope(gaps: Values, speaking: Values, thresholds: Values) -> float:
    """Slope of the logistic curve under which the right and wrong counts are most likely."""
    right = (gaps < thresholds) == (speaking == 2)
    distance = np.abs(gaps - thresholds)
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
    found, list_of, speaking = [], [], []
    for number, wanted in enumerate(lists):
        for mixture, _ in corpus.mixtures(wanted):
            heard = resample(mixture[: round(LONGEST * LIST_RATE)], LIST_RATE, system.sample_rate)
            found.append(measure(fine, denoiser, heard))
            list_of.append(number)
            speaking.append(int(str(wanted.config.get("speakers", 2))))
    (gaps, removed), places, true = np.array(found).T, np.array(list_of), np.array(speaking, dtype=float)
    print("| thresholds (dB) | " + " | ".join(each.name for each in lists) + " | mean | slope |")
    print("| --- " * (len(lists) + 3) + "|")
    for loud, little in itertools.product(LOUD, LITTLE):
        thresholds = np.interp(removed, REMOVED_DB, (loud, little))
        right = (gaps < thresholds) == (true == 2)
        shares = [float(right[places == number].mean()) for number in range(len(lists))]
        cells = [f"{100 * share:.0f} %" for share in [*shares, float(np.mean(shares))]]
        print(f"| {loud}; {little} | " + " | ".join(cells) + f" | {slope(gaps, true, thresholds):.2f} |")


if __name__ == "__main__":
    main()
