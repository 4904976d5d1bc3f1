"""Microphones: the frequency responses of telephones, cheap microphones and old recordings.

Corpora are recorded with good microphones. A network that is trained on them alone fails on recordings that lack a
part of the spectrum. So some training crops are filtered: speakers and noise with the same gains over frequency.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unmingle.audio import Samples
from unmingle.config import Config

_POINTS = 8
_LOWEST = 20.0
"""In hertz. A band that starts at this frequency has no low cut."""


class MicrophoneConfig(Config):
    """Microphones of training crops."""

    share: float = Field(0.5, gt=0.0, le=1.0)
    """Share of the crops that are filtered."""
    response_db: float = Field(10.0, ge=0.0, le=40.0)
    """Maximum deviation of the random smooth response from 0 dB."""
    low_cut: tuple[float, float] = (_LOWEST, 800.0)
    """Range of the lower cutoff frequency in hertz."""
    high_cut: tuple[float, float] = (1500.0, 8000.0)
    """Range of the upper cutoff frequency in hertz. A cutoff above half the sample rate has no effect."""

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
"""Microphones for tests: lower and upper cutoff frequency in hertz, and the filter order. Sound through a wall, a
small loudspeaker, and a telephone."""


def draw_response(
    rng: np.random.Generator, config: MicrophoneConfig, samples: int, sample_rate: int
) -> Samples | None:
    """Gains at the frequencies of a Fourier transform of ``samples``, or None if the crop is not filtered.

    The slopes at both ends are those of Butterworth filters, 6 to 96 dB per octave.
    """
    if rng.random() >= config.share:
        return None
    frequency = np.linspace(0.0, sample_rate / 2, samples // 2 + 1)
    gains = smooth_response(rng, len(frequency), config.response_db, sample_rate).astype(np.float64)
    # Uniform over the logarithm of frequency, because devices differ by octaves.
    low, high = (float(np.exp(rng.uniform(*np.log(cut)))) for cut in (config.low_cut, config.high_cut))
    if low > _LOWEST:
        gains *= _band(frequency, low, np.inf, 2.0 ** rng.uniform(0.0, 4.0))
    if high < sample_rate / 2:
        gains *= _band(frequency, 0.0, high, 2.0 ** rng.uniform(0.0, 4.0))
    return gains.astype(np.float32)


def known_response(name: str, samples: int, sample_rate: int) -> Samples:
    """Gains of a microphone of :data:`KNOWN` at the frequencies of a Fourier transform of ``samples``."""
    low, high, order = KNOWN[name]
    return _band(np.linspace(0.0, sample_rate / 2, samples // 2 + 1), low, high, order).astype(np.float32)


def _band(frequency: NDArray[np.float64], low: float, high: float, order: float) -> NDArray[np.float64]:
    """Gains of Butterworth filters with the cutoff frequencies ``low`` and ``high``."""
    with np.errstate(divide="ignore", over="ignore"):
        power = 1.0 / (1.0 + (low / frequency) ** (2 * order)) if low else np.ones_like(frequency)
        gains: NDArray[np.float64] = np.sqrt(power / (1.0 + (frequency / high) ** (2 * order)))
    return gains


def apply_response(response: Samples, audio: Samples) -> Samples:
    """Audio ``(..., samples)`` filtered with the gains of :func:`draw_response`, without delay."""
    return np.fft.irfft(np.fft.rfft(audio) * response, audio.shape[-1]).astype(np.float32)


def smooth_response(rng: np.random.Generator, size: int, decibels: float, sample_rate: int) -> Samples:
    """Random gains ``(size,)`` within +-``decibels``, smooth over the logarithm of frequency."""
    points = rng.uniform(-decibels, decibels, _POINTS)
    frequency = np.linspace(0.0, sample_rate / 2, size)
    places = np.geomspace(60.0, sample_rate / 2, _POINTS)
    curve: Samples = (10 ** (np.interp(frequency, places, points) / 20)).astype(np.float32)
    return curve
