"""The constant part of a stream: taken off before the masks, and given back after them.

A microphone's constant offset is nobody's voice, and masks that change would make a rumble of it. A file has one
mean; a stream has a slow low-pass, whose output is the offset of the moment.
"""

from __future__ import annotations

import math

import numpy as np

from unmingle.audio import Samples

CORNER_HERTZ = 10.0
"""Far below speech: at 80 Hz a voice loses 0.07 dB."""
_SAMPLES_AT_ONCE = 256


class OffsetTracker:
    """A low-pass of first order that starts at the first sample, so that an offset is known at once.

    Args:
        sample_rate: in hertz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._keep = math.exp(-2 * math.pi * CORNER_HERTZ / sample_rate)
        self._last: float | None = None

    def push(self, audio: Samples) -> Samples:
        """The offset ``(samples,)`` at some more samples ``(samples,)``; blocks of any size give the same."""
        if not len(audio):
            return np.zeros(0, dtype=np.float32)
        last = float(audio[0]) if self._last is None else self._last
        offsets = np.empty(len(audio))
        for start in range(0, len(audio), _SAMPLES_AT_ONCE):
            block = audio[start : start + _SAMPLES_AT_ONCE].astype(np.float64)
            # y(n) = k y(n-1) + (1-k) x(n), solved for the whole block.
            powers = self._keep ** np.arange(1, len(block) + 1)
            made = powers * (last + (1 - self._keep) * np.cumsum(block / powers))
            offsets[start : start + len(block)] = made
            last = float(made[-1])
        self._last = last
        return offsets.astype(np.float32)
