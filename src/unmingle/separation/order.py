"""Speaker 1 is the one who speaks first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples

_FRAME_SECONDS = 0.05
_AUDIBLE = 10**-2.5
"""A speaker speaks in a frame within 25 dB of their own loud frames ..."""
_OWN_SHARE = 0.3
"""... if the frame is not just what leaks over from somebody else."""


def order_of_speaking(estimates: Samples, sample_rate: int) -> NDArray[np.intp]:
    """Indices of ``(speakers, samples)`` by the time of their first word; who never speaks comes last."""
    size = max(1, round(_FRAME_SECONDS * sample_rate))
    frames = -(-estimates.shape[1] // size)
    padded = np.pad(estimates, ((0, 0), (0, frames * size - estimates.shape[1])))
    power = np.square(padded, dtype=np.float64).reshape(len(estimates), frames, size).mean(axis=-1)
    loud = np.quantile(power, 0.95, axis=1, keepdims=True)
    speaks = (power > _AUDIBLE * loud) & (power >= _OWN_SHARE * power.sum(axis=0)) & (power > 0)
    onset = np.where(speaks.any(axis=1), speaks.argmax(axis=1), frames)
    return np.argsort(onset, kind="stable")
