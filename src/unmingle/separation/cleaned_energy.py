"""Energies of the sources of a window without its noise, by which the speakers are counted.

A separator puts noise and music into the estimate of a speaker who is not there, and divides the only speaker between
its estimates. So speakers are counted in what the separator makes of the window before and after a denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.denoising.enhancer import Enhancer
from unmingle.permutation import best_permutation
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.tracking import overlap_agreement


@dataclass(frozen=True)
class CleanedEnergy:
    """Energies of a window or a recording."""

    sources: NDArray[np.float64]
    """Of each source without noise, ``(sources,)``."""
    mixture: float
    """Of the samples with their noise."""
    noise: float
    """Of what was removed from the samples."""


def removed_noise(windows: Sequence[CleanedEnergy]) -> float:
    """Level in dB of a recording over the noise that was removed from its windows."""
    mixture, noise = (
        sum(energies) for energies in zip(*((w.mixture, w.noise) for w in windows), strict=True)
    )
    return float(10 * np.log10((mixture + 1e-30) / (noise + 1e-10 * mixture + 1e-30)))


@torch.no_grad()
def cleaned_energy(
    fine: FineMasks, denoiser: Enhancer, audio: Samples, masks: Tensor, magnitude: Tensor, scale: float = 1.0
) -> CleanedEnergy:
    """Energy of each source of a window without noise.

    Args:
        fine: separates the window.
        denoiser: cleans it.
        audio: of the window, ``(samples,)``.
        masks: of the window as it is, ``(sources, frames, freqs)``; the energies come in their order.
        magnitude: of the window as it is, ``(frames, freqs)``.
        scale: factor by which the audio was divided. The energies are those of the undivided audio.
    """
    cleaned = denoiser.denoise(audio, fine.sample_rate)
    peak = max(float(np.abs(cleaned).max()), 1e-20)
    found = fine.of(torch.from_numpy(cleaned / np.float32(peak)).to(masks.device), len(masks))
    energy = (found.masks * found.spectrum.abs()).square().sum(dim=(1, 2)).double() * (peak * scale) ** 2
    agreement = overlap_agreement(masks, found.masks, magnitude)
    _, order = best_permutation(torch.from_numpy(agreement)[None])
    whole, noise = (
        float(np.square(part, dtype=np.float64).sum()) * scale**2 for part in (audio, audio - cleaned)
    )
    return CleanedEnergy(energy.cpu().numpy()[order[0].numpy()], whole, noise)
