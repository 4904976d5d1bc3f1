"""Energies of the sources of a window without its noise, by which the speakers are counted.

A separator puts noise and music into the estimate of a speaker who is not there, and divides the only speaker between
its estimates. So speakers are counted in what the separator makes of the window after a denoiser.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.denoising.enhancer import Enhancer
from unmingle.permutation import best_permutation
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.tracking import overlap_agreement


@torch.no_grad()
def cleaned_energy(
    fine: FineMasks, denoiser: Enhancer, audio: Samples, masks: Tensor, magnitude: Tensor
) -> NDArray[np.float64]:
    """Energy of each source of a window without noise, ``(sources,)``.

    Args:
        fine: separates the window.
        denoiser: cleans it.
        audio: of the window, ``(samples,)``.
        masks: of the window as it is, ``(sources, frames, freqs)``; the energies come in their order.
        magnitude: of the window as it is, ``(frames, freqs)``.
    """
    cleaned = denoiser.denoise(audio, fine.sample_rate)
    peak = max(float(np.abs(cleaned).max()), 1e-20)
    found = fine.of(torch.from_numpy(cleaned / np.float32(peak)).to(masks.device), len(masks))
    energy = (found.masks * found.spectrum.abs() * peak).square().sum(dim=(1, 2))
    agreement = overlap_agreement(masks, found.masks, magnitude)
    _, order = best_permutation(torch.from_numpy(agreement)[None])
    ordered: NDArray[np.float64] = energy.double().cpu().numpy()[order[0].numpy()]
    return ordered
