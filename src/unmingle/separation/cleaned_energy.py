"""Energies of the sources of a window without its noise, by which the speakers are counted.

A separator puts noise and music into the estimate of a speaker who is not there, and divides the only speaker between
its estimates. So speakers are counted with a denoiser: before the separator, and after it. The first may take a quiet
speaker for noise. The second hears each speaker alone.
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
from unmingle.separation.fine_masks import FineMasks, Masked
from unmingle.separation.tracking import overlap_agreement


@dataclass(frozen=True)
class CleanedEnergy:
    """Energies of a window or a recording."""

    sources: NDArray[np.float64]
    """Of each source: separated from the cleaned mixture, and cleaned after separation; ``(2, sources)``."""
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
    fine: FineMasks, denoiser: Enhancer, audio: Samples, found: Masked, estimates: Samples, scale: float = 1.0
) -> CleanedEnergy:
    """Energy of each source of a window without noise. The system runs once.

    Args:
        fine: separates the window.
        denoiser: cleans it.
        audio: of the window, ``(samples,)``.
        found: what ``fine`` makes of the window. The energies come in its order of sources.
        estimates: of the sources, ``(sources, samples)``.
        scale: factor by which the audio and the estimates were divided. The energies are those of undivided audio.
    """
    cleaned = denoiser.denoise(audio, fine.sample_rate)
    peak = max(float(np.abs(cleaned).max()), 1e-20)
    masks, magnitude = found.masks[:, :: fine.runs], found.spectrum[:: fine.runs].abs()
    again = fine.coarse(torch.from_numpy(cleaned / np.float32(peak)).to(masks.device), len(masks))
    agreement = overlap_agreement(masks, again.masks, magnitude)
    _, order = best_permutation(torch.from_numpy(agreement)[None])
    before = fine.runs * peak**2 * _energy(again.masks * again.spectrum)[order[0].numpy()]
    quiet = np.stack([denoiser.denoise(estimate, fine.sample_rate) for estimate in estimates])
    after = _energy(fine.stft.analyse(torch.from_numpy(quiet)))
    whole, noise = (float(np.square(part, dtype=np.float64).sum()) for part in (audio, audio - cleaned))
    return CleanedEnergy(np.stack([before, after]) * scale**2, whole * scale**2, noise * scale**2)


def _energy(spectra: Tensor) -> NDArray[np.float64]:
    """Of spectra ``(sources, frames, freqs)``."""
    energy: NDArray[np.float64] = spectra.abs().square().sum(dim=(1, 2)).double().cpu().numpy()
    return energy
