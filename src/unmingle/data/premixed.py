"""Training crops from existing mixtures: WSJ0-2mix, LibriMix, or folders of `unmingle mix`.

Folders with different numbers of speakers can be combined. One folder may also mix the numbers: mixtures of two
speakers then have no file in ``s3``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmingle.audio import active_level
from unmingle.data.examples import Example
from unmingle.data.mixture_folders import MixtureItem, read_item, read_mixture_folder
from unmingle.data.noise import noise_level
from unmingle.errors import UnmingleError

_SPLITS = {
    "train": ("tr", "train", "train-360", "train-100"),
    "valid": ("cv", "valid", "dev"),
    "test": ("tt", "test"),
}


def is_premixed(folder: Path) -> bool:
    """Whether a folder has splits with mixtures: ``tr/mix/``, ``train-360/mix_clean/`` and similar."""
    return _find(folder, "train") is not None


def _find(folder: Path, split: str) -> Path | None:
    for name in _SPLITS[split]:
        if any((folder / name / mixes).is_dir() for mixes in ("mix", "mix_clean")):
            return folder / name
    return None


@dataclass(frozen=True)
class PremixedPlan:
    """A section of one mixture."""

    speakers: int
    item: int
    """Index among the mixtures with this number of speakers."""
    position: float
    """Start of the crop, 0 to 1 over all possible starts."""
    samples: int


class PremixedMixtures:
    """Draws crops of mixtures, each number of speakers equally often. Crop k is a pure function of (seed, k).

    Args:
        folders: each with one folder per split, in the layout of ``unmingle mix``.
        split: ``train``, ``valid`` or ``test``.
        sample_rate: of all files, in hertz.
        speakers: number of sources of an example; missing ones are silence.
        seed: of the run.
        fewest: minimum number of speakers. Mixtures with fewer, or with more than ``speakers``, are left out.
            Default: all mixtures must have the same number.

    Raises:
        UnmingleError: a folder has no such split, or no mixture has one of the numbers of speakers.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        split: str,
        sample_rate: int,
        speakers: int,
        seed: int,
        *,
        fewest: int | None = None,
    ) -> None:
        self._items: dict[int, list[MixtureItem]] = {}
        for folder in folders:
            found = _find(folder, split)
            if found is None:
                raise UnmingleError(
                    f"{folder} has no split for {split}: it needs one of the folders {', '.join(_SPLITS[split])}."
                )
            for item in read_mixture_folder(found, fewest=fewest and min(2, fewest)):
                self._items.setdefault(len(item.sources), []).append(item)
        self._check(" and ".join(map(str, folders)), speakers, fewest)
        self._numbers = sorted(self._items)
        self.sample_rate, self.seed, self._speakers = sample_rate, seed, speakers

    def _check(self, folders: str, speakers: int, fewest: int | None) -> None:
        there = sorted(self._items)
        counts = " and ".join(map(str, there))
        if fewest is None:
            if len(there) > 1:
                raise UnmingleError(
                    f"The mixtures of {folders} have {counts} sources; give one folder, or set fewest_speakers in "
                    "the recipe."
                )
            if there[0] > speakers:
                raise UnmingleError(
                    f"{folders} has {there[0]} sources per mixture, but the recipe has {speakers} speakers."
                )
            return
        lacking = [number for number in range(fewest, speakers + 1) if number not in self._items]
        if lacking:
            raise UnmingleError(
                f"The recipe needs mixtures of {fewest} to {speakers} speakers; those of {folders} have {counts}: "
                f"add --data with {lacking[0]} speakers, or change fewest_speakers."
            )
        self._items = {number: self._items[number] for number in range(fewest, speakers + 1)}

    def crop(self, index: int, samples: int) -> PremixedPlan:
        """Plan of crop ``index``, of a fixed length."""
        rng = np.random.default_rng([self.seed, index])
        # With a single number nothing is drawn, so that resumed runs keep their sequence of mixtures.
        which = int(rng.integers(len(self._numbers))) if len(self._numbers) > 1 else 0
        speakers = self._numbers[which]
        item = int(rng.integers(len(self._items[speakers])))
        return PremixedPlan(speakers, item, float(rng.random()), samples)

    def example(self, index: int, samples: int) -> Example:
        """Crop ``index``, of a fixed length. The noise is the mixture minus its sources."""
        return self.render(self.crop(index, samples))

    def render(self, plan: PremixedPlan) -> Example:
        """Sources ``(speakers, samples)``. A mixture shorter than the crop is padded with silence.

        Raises:
            UnmingleError: a file is damaged, or has another sample rate.
        """
        item = self._items[plan.speakers][plan.item]
        mixture, sources, rate = read_item(item)
        if rate != self.sample_rate:
            raise UnmingleError(
                f"{item.mixture} has {rate} Hz, but the recipe has {self.sample_rate} Hz; give a folder of that rate."
            )
        start = int(plan.position * (max(0, sources.shape[1] - plan.samples) + 1))
        stop = start + plan.samples
        cut, rest = sources[:, start:stop], (mixture - sources.sum(axis=0))[start:stop]
        rendered = np.zeros((self._speakers, plan.samples), dtype=np.float32)
        rendered[: len(cut), : cut.shape[1]] = cut
        if noise_level(rest) <= 1e-3 * noise_level(mixture):  # Only a rounding error.
            return Example(rendered)
        noise = np.zeros(plan.samples, dtype=np.float32)
        noise[: len(rest)] = rest
        speech_level = active_level(cut.sum(axis=0), self.sample_rate)
        return Example(rendered, noise, 20 * float(np.log10(max(speech_level, 1e-9) / noise_level(rest))))
