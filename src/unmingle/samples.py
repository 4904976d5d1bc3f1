"""The type of audio samples, and checks of samples and sample rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmingle.errors import UnmingleError

Samples = NDArray[np.float32]

LOWEST_SAMPLE_RATE = 1000
"""In hertz; a lower rate contains no useful speech."""
LOUDEST_SAMPLE = 1e10
"""Beyond it, squares of spectra exceed float32. 32-bit integers read as floats stay below."""
_SILENT = 1e-7
"""Difference of the highest and lowest sample of a silent channel: less than one step of 24 bits."""


def check_rate(path: Path, sample_rate: int) -> None:
    """Refuse a file whose sample rate is too low for speech.

    Raises:
        UnmingleError: the rate is below 1 kHz.
    """
    if sample_rate < LOWEST_SAMPLE_RATE:
        raise UnmingleError(
            f"{path} has a sample rate of {sample_rate} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
        )


def check_samples(samples: Samples, what: str) -> None:
    """Refuse samples that are not finite or too large.

    Args:
        samples: of any shape.
        what: name of their source, the first words of the error text.

    Raises:
        UnmingleError: some are NaN, infinite, or beyond 1e10.
    """
    # Comparisons with NaN are false, so NaN fails this check too.
    if samples.size and not float(np.abs(samples).max()) <= LOUDEST_SAMPLE:
        raise UnmingleError(f"{what} has samples that are NaN, infinite or beyond 1e10; export it again.")


def is_constant(samples: Samples) -> bool:
    """Whether every channel of ``(channels, samples)``, or ``(samples,)``, is silent apart from an offset."""
    return bool(np.ptp(samples, axis=-1).max(initial=0.0) <= _SILENT)
