"""The order of speakers (speaker 1 speaks first), and who speaks when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples

_FRAME_SECONDS = 0.05
_AUDIBLE = 10**-2.5
"""A speaker speaks in a frame if its energy is within 25 dB of the speaker's loud frames ..."""
_OWN_SHARE = 0.3
"""... and is more than the leakage from another speaker."""


def speaking(power: Samples, frame_seconds: float) -> tuple[NDArray[np.bool_], float]:
    """When each speaker speaks: ``(speakers, pieces)``, and the seconds of one piece, about 50 ms.

    Args:
        power: of each speaker in each frame, ``(speakers, frames)``.
        frame_seconds: between two frames.
    """
    size = max(1, round(_FRAME_SECONDS / frame_seconds))
    pieces = -(-power.shape[1] // size)
    padded = np.pad(power, ((0, 0), (0, pieces * size - power.shape[1])))
    means = padded.reshape(len(power), pieces, size).mean(axis=-1, dtype=np.float64)
    loud = np.quantile(means, 0.95, axis=1, keepdims=True)
    speaks = (means > _AUDIBLE * loud) & (means >= _OWN_SHARE * means.sum(axis=0)) & (means > 0)
    return speaks, size * frame_seconds


def order_of_speaking(power: Samples, frame_seconds: float) -> NDArray[np.intp]:
    """Indices of the speakers of ``(speakers, frames)``, sorted by their first speech. Silent ones come last."""
    speaks, _ = speaking(power, frame_seconds)
    onset = np.where(speaks.any(axis=1), speaks.argmax(axis=1), speaks.shape[1])
    return np.argsort(onset, kind="stable")
