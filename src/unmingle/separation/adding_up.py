"""Make estimates add up to the mixture, in the model's band and above it.

The residual is the mixture minus the estimates. It contains the sound that masks do not assign, because they need not
sum to one, and all sound above the model's band (4 kHz for an 8 kHz model). It is shared among the speakers, frame by
frame, by their power in the upper half of the model's band. So the speaker of a consonant gets its high frequencies.
"""

from __future__ import annotations

import numpy as np

from unmingle.audio import Samples
from unmingle.audio_stream import gains_at

_SMOOTHED_SECONDS = 0.1


def residual_gains(power: Samples, frame_seconds: float) -> Samples:
    """Each speaker's share of the residual in each frame, ``(speakers, frames)``, summing to one over speakers.

    Args:
        power: of each speaker in the upper half of the model's band, ``(speakers, frames)``.
        frame_seconds: between two frames.
    """
    reach = max(0, round(_SMOOTHED_SECONDS / frame_seconds / 2))
    kernel = np.full(2 * reach + 1, 1 / (2 * reach + 1), dtype=np.float32)
    padded = np.pad(power.astype(np.float32, copy=False), ((0, 0), (reach, reach)))
    # In place, because a recording may have many frames.
    shares: Samples = np.stack([np.convolve(row, kernel, mode="valid") for row in padded])
    # The small constant gives equal shares where nobody speaks.
    shares += np.float32(1e-6 * shares.mean(dtype=np.float64) + 1e-30)
    shares /= shares.sum(axis=0)
    return shares


class RunningGains:
    """The same shares for a stream without look-ahead: each frame's power is smoothed with that of earlier frames.

    Args:
        speakers: number of speakers.
        frame_seconds: between two frames.
    """

    def __init__(self, speakers: int, frame_seconds: float) -> None:
        self._before = np.zeros((speakers, max(0, round(_SMOOTHED_SECONDS / frame_seconds) - 1)))

    def push(self, power: Samples) -> Samples:
        """Push the power of the next frames ``(speakers, frames)``; returns their shares of the same shape."""
        joined = np.concatenate([self._before, power], axis=1)
        reach = self._before.shape[1] + 1
        self._before = joined[:, joined.shape[1] - reach + 1 :]
        if not power.shape[1]:
            return np.zeros(power.shape, dtype=np.float32)
        smooth = np.lib.stride_tricks.sliding_window_view(joined, reach, axis=1).mean(axis=2)
        # Equal shares in silence.
        smooth = smooth + 1e-6 * smooth.mean(axis=0) + 1e-30
        shares: Samples = (smooth / smooth.sum(axis=0)).astype(np.float32)
        return shares


def add_residual(
    mixture: Samples, estimates: Samples, gains: Samples, first: float, frames_per_sample: float
) -> Samples:
    """Estimates ``(speakers, samples)`` that add up to the mixture ``(samples,)``.

    Args:
        mixture: at the rate of the estimates.
        estimates: ``(speakers, samples)``.
        gains: of :func:`residual_gains`.
        first: the time of the first sample, in frames.
        frames_per_sample: length of a sample in frames.
    """
    residual = mixture - estimates.sum(axis=0)
    times = first + np.arange(len(mixture), dtype=np.float64) * frames_per_sample
    complete: Samples = estimates + gains_at(gains, times) * residual
    return complete
