"""Microphones: how telephones, cheap microphones and old recordings colour what they hear, and what they cut off.

Corpora are recorded well, and a network that heard nothing else takes a missing octave for something that was
said. So some crops for training go through a filter of gains over frequency, the same for all that is heard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unmingle.audio import Samples
from unmingle.config import Config

_POINTS = 8
_LOWEST = 20.0
"""Hertz: a band that begins here cuts nothing off."""


class MicrophoneConfig(Config):
    """Through which microphones crops are heard."""

    share: float = Field(0.5, gt=0.0, le=1.0)
    """Of the crops; the others stay as they were recorded."""
    response_db: float = Field(10.0, ge=0.0, le=40.0)
    """A random smooth response goes up and down by at most so many dB."""
    low_cut: tuple[float, float] = (_LOWEST, 800.0)
    """Range of frequencies in hertz below which little is heard."""
    high_cut: tuple[float, float] = (1500.0, 8000.0)
    """Range of frequencies above which little is heard; beyond half the sample rate nothing is cut."""

    @model_validator(mode="after")
    def _ranges(self) -> MicrophoneConfig:
        for name in ("low_cut", "high_cut"):
            low, high = getattr(self, name)
            if not _LOWEST <= low <= high <= 96000.0:
                raise ValueError(
                    f"{name} must be [low, high] between {_LOWEST:g} and 96000, got [{low:g}, {high:g}]"
                )
        if self.low_cut[1] >= self.high_cut[0]:
            raise ValueError(f"low_cut must end below {self.high_cut[0]:g}, where high_cut begins")
        return self


KNOWN = {"muffled": (0.0, 1000.0, 2.0), "thin": (1000.0, np.inf, 2.0), "narrow": (300.0, 3400.0, 8.0)}
"""Microphones to test with: where they cut off below and above, in hertz, and both slopes' order; behind a wall;
a small loudspeaker; a telephone."""


def draw_response(
    rng: np.random.Generator, config: MicrophoneConfig, samples: int, sample_rate: int
) -> Samples | None:
    """Gains over the frequencies of a transform of ``samples``, or None where the crop stays as it is.

    The slopes at both ends have between 6 and 96 dB an octave (those of Butterworth filters).
    """
    if rng.random() >= config.share:
        return None
    frequency = np.linspace(0.0, sample_rate / 2, samples // 2 + 1)
    gains = smooth_response(rng, len(frequency), config.response_db, sample_rate).astype(np.float64)
    # Evenly over the logarithm: telephones and loudspeakers differ by octaves.
    low, high = (float(np.exp(rng.uniform(*np.log(cut)))) for cut in (config.low_cut, config.high_cut))
    if low > _LOWEST:
        gains *= _band(frequency, low, np.inf, 2.0 ** rng.uniform(0.0, 4.0))
    if high < sample_rate / 2:
        gains *= _band(frequency, 0.0, high, 2.0 ** rng.uniform(0.0, 4.0))
    return gains.astype(np.float32)


def known_response(name: str, samples: int, sample_rate: int) -> Samples:
    """Gains of a microphone of :data:`KNOWN` over the frequencies of a transform of ``samples``."""
    low, high, order = KNOWN[name]
    return _band(np.linspace(0.0, sample_rate / 2, samples // 2 + 1), low, high, order).astype(np.float32)


def _band(frequency: NDArray[np.float64], low: float, high: float, order: float) -> NDArray[np.float64]:
    """Gains of Butterworth filters that cut off below ``low`` and above ``high``."""
    with np.errstate(divide="ignore", over="ignore"):
        power = 1.0 / (1.0 + (low / frequency) ** (2 * order)) if low else np.ones_like(frequency)
        gains: NDArray[np.float64] = np.sqrt(power / (1.0 + (frequency / high) ** (2 * order)))
    return gains


def apply_response(response: Samples, audio: Samples) -> Samples:
    """Audio ``(..., samples)`` filtered by the gains of :func:`draw_response`, without delay."""
    return np.fft.irfft(np.fft.rfft(audio) * response, audio.shape[-1]).astype(np.float32)


def smooth_response(rng: np.random.Generator, size: int, decibels: float, sample_rate: int) -> Samples:
    """Gains ``(size,)``, smooth over the logarithm of frequency, at most ``decibels`` up or down."""
    points = rng.uniform(-decibels, decibels, _POINTS)
    frequency = np.linspace(0.0, sample_rate / 2, size)
    places = np.geomspace(60.0, sample_rate / 2, _POINTS)
    curve: Samples = (10 ** (np.interp(frequency, places, points) / 20)).astype(np.float32)
    return curve
