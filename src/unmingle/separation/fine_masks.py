"""Masks at least every 16 ms.

A system with a longer hop runs twice on each window, shifted by half a hop. Each estimate is the mean of both
runs, which has smaller errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unmingle.device import fast_inference
from unmingle.frontend import Spectra
from unmingle.permutation import best_permutation
from unmingle.separation.tracking import overlap_agreement
from unmingle.stft import Stft
from unmingle.systems import MaskingSystem

LONGEST_HOP = 0.016
"""Seconds between two frames, at most."""


@dataclass(frozen=True)
class Masked:
    """A window and its masks."""

    spectrum: Tensor
    """Of the mixture, ``(frames, freqs)``."""
    masks: Tensor
    """``(sources, frames, freqs)``"""
    attractors: Tensor | None
    """``(sources, dim)``; None if the system has none."""


class FineMasks:
    """Computes the masks of windows.

    Args:
        system: gives masks. It runs twice if its hop is longer than :data:`LONGEST_HOP`.
    """

    def __init__(self, system: MaskingSystem) -> None:
        self._system, self.stft = system, system.frontend.stft
        self._twice = self.stft.hop > LONGEST_HOP * system.sample_rate and self.stft.hop % 2 == 0
        if self._twice:
            name = system.config.stft.window
            self.stft = Stft(self.stft.window_length, self.stft.hop // 2, name).to(self.stft.window.device)
        self.hop, self.sample_rate = self.stft.hop, system.sample_rate
        self.runs = 2 if self._twice else 1
        """How often the system runs on a window, and how many frames there are for each of its own."""

    @torch.no_grad()
    def of(self, mixture: Tensor, sources: int) -> Masked:
        """The masks of a window ``(samples,)``, of so many sources."""
        found = self.coarse(mixture, sources)
        if not self._twice:
            return found
        first = found.masks
        # With half a hop of silence before it, frame k + 1 lies between frames k and k + 1 of the first time.
        second = self._run(functional.pad(mixture, (self.hop, 0)), sources)[1][0].float()[:, 1:]
        shared = second.shape[1]
        agreement = overlap_agreement(first[:, :shared], second, found.spectrum[:shared].abs())
        _, order = best_permutation(torch.from_numpy(agreement)[None])
        fine = first.new_empty(sources, first.shape[1] + shared, first.shape[2])
        fine[:, ::2], fine[:, 1::2] = first, second[order[0].to(second.device)]
        return Masked(self.stft.analyse(mixture), fine, found.attractors)

    @torch.no_grad()
    def coarse(self, mixture: Tensor, sources: int) -> Masked:
        """What the system makes of a window in one run, with its own frames."""
        spectra, masks, attractors = self._run(mixture, sources)
        points = None if attractors is None else attractors[0].float()
        return Masked(spectra.spectrum[0], masks[0].float(), points)

    def _run(self, mixture: Tensor, sources: int) -> tuple[Spectra, Tensor, Tensor | None]:
        with fast_inference(mixture.device):
            return self._system.mask_and_attractors(mixture[None], sources)
