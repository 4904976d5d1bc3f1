"""The constant (DC) offset of a stream.

It is subtracted before the masks are applied, and added to the outputs afterwards, because masks that vary would turn
it into low-frequency noise. A file uses its mean; a stream uses a slow low-pass filter.
"""

from __future__ import annotations

import math

import numpy as np

from unmingle.audio import Samples

CORNER_HERTZ = 5.0
"""Far below speech: at 80 Hz the offset is 48 dB below what goes in, at 50 Hz 40 dB."""
_SAMPLES_AT_ONCE = 256


class OffsetTracker:
    """Two low-passes of first order, one after the other, that start at the first sample.

    So an offset that is there from the beginning is known at once.

    Args:
        sample_rate: in hertz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._keep = math.exp(-2 * math.pi * CORNER_HERTZ / sample_rate)
        self._last: list[float] = []

    def push(self, audio: Samples) -> Samples:
        """The offset at some more samples, both ``(samples,)``; blocks of any size give the same."""
        if len(audio) and not self._last:
            self._last = [float(audio[0])] * 2
        offsets = np.empty(len(audio))
        for start in range(0, len(audio), _SAMPLES_AT_ONCE):
            block = audio[start : start + _SAMPLES_AT_ONCE].astype(np.float64)
            for number, last in enumerate(self._last):
                # y(n) = k y(n-1) + (1-k) x(n), solved for the whole block.
                powers = self._keep ** np.arange(1, len(block) + 1)
                block = powers * (last + (1 - self._keep) * np.cumsum(block / powers))
                self._last[number] = float(block[-1])
            offsets[start : start + len(block)] = block
        return offsets.astype(np.float32)
