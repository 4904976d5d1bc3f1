"""Samples of audio, and which of them nothing can be computed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmingle.errors import UnmingleError

Samples = NDArray[np.float32]

LOWEST_SAMPLE_RATE = 1000
"""In hertz; below it there is no speech left to separate."""
LOUDEST_SAMPLE = 1e10
"""Beyond it the squares of spectra leave the range of float32; 32-bit integers taken for floats are below."""
_SILENT = 1e-7
"""From the lowest to the highest sample: less than a step of 24 bits."""


def check_rate(path: Path, sample_rate: int) -> None:
    """Refuse a file whose sample rate leaves no speech.

    Raises:
        UnmingleError: it is below 1 kHz.
    """
    if sample_rate < LOWEST_SAMPLE_RATE:
        raise UnmingleError(
            f"{path} has a sample rate of {sample_rate} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
        )


def check_samples(samples: Samples, what: str) -> None:
    """Refuse samples that nothing can be computed with.

    Args:
        samples: of any shape.
        what: they are of, the sentence's first words.

    Raises:
        UnmingleError: some are NaN, infinite, or beyond 1e10.
    """
    # NaN is in no order with a number: the comparison is false.
    if samples.size and not float(np.abs(samples).max()) <= LOUDEST_SAMPLE:
        raise UnmingleError(
            f"{what} holds samples that are NaN or infinite, or beyond 1e10; export it again."
        )


def is_constant(samples: Samples) -> bool:
    """Whether every channel of ``(channels, samples)``, or ``(samples,)``, is silent, but for an offset."""
    return bool(np.ptp(samples, axis=-1).max(initial=0.0) <= _SILENT)
