"""Make estimates add up to the mixture, in the model's band and above it.

What the estimates leave of the mixture, the residual, is everything above the model's band (an
8 kHz model hears nothing above 4 kHz) and whatever masks that do not sum to one left over. It is
shared among the speakers by gains that follow, frame by frame, their power in the upper half of the
model's band: where one speaker makes the consonant, that speaker gets its high frequencies.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.stft import Stft

_FRAME_SECONDS = 0.032
_SMOOTH_FRAMES = 3


def frame_gains(estimates: Samples, sample_rate: int) -> tuple[Samples, int]:
    """Share of every speaker in each frame, ``(speakers, frames)``, summing to one, and the hop in samples.

    ``estimates`` is ``(speakers, samples)`` at the model's rate.
    """
    window = max(16, round(_FRAME_SECONDS * sample_rate) // 2 * 2)
    stft = Stft(window, window // 2)
    power = stft.analyse(torch.from_numpy(estimates)).abs().square()[..., stft.freqs // 2 :].sum(dim=-1)
    kernel = torch.ones(1, 1, _SMOOTH_FRAMES) / _SMOOTH_FRAMES
    smooth = torch.nn.functional.conv1d(power.unsqueeze(1), kernel, padding=_SMOOTH_FRAMES // 2).squeeze(1)
    # The small constant shares the residual evenly where nobody speaks.
    smooth = smooth + 1e-6 * smooth.mean() + 1e-12
    return (smooth / smooth.sum(dim=0)).numpy(), stft.hop


def share_residual(
    mixture: Samples, estimates: Samples, gains: Samples, seconds_per_frame: float, sample_rate: int
) -> Samples:
    """Estimates ``(speakers, samples)`` that add up to the mixture ``(samples,)``, at the mixture's rate."""
    residual = mixture - estimates.sum(axis=0)
    times: NDArray[np.float64] = np.arange(len(mixture)) / (seconds_per_frame * sample_rate)
    frames = np.arange(gains.shape[1])
    shared = estimates.copy()
    for estimate, gain in zip(shared, gains, strict=True):
        estimate += residual * np.interp(times, frames, gain).astype(np.float32)
    return shared
