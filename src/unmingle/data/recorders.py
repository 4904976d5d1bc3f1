"""Recorders: effects of a recording device: its own noise, jumps of level, clipping, codecs.

The training target is the speech alone through the same recorder. A mask can remove noise, but cannot restore what
clipping or a codec has removed. So a system learns to leave clean speech from a bad recorder as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from unmingle.audio import Samples
from unmingle.config import Config
from unmingle.data.codecs import Codec, CodecName, draw_codec
from unmingle.data.microphones import smooth_response

_MAINS = (50.0, 60.0)
"""Hertz."""
_HUM_HARMONICS = 12
_JUMP_SECONDS = (0.005, 0.2)


class RecorderConfig(Config):
    """Shares of the training crops with each effect. The effects are drawn independently."""

    device_noise: float = Field(0.0, ge=0.0, le=1.0)
    """Share with device noise: hiss, and in half of these crops mains hum. It is part of the noise."""
    device_snr: tuple[float, float] = (20.0, 45.0)
    """Range of the speakers' active level over the device noise, in dB."""
    level_jump: float = Field(0.0, ge=0.0, le=1.0)
    """Share in which the level jumps once, as after a change of gain."""
    jump_db: float = Field(12.0, ge=0.0, le=40.0)
    """Maximum jump in dB, up or down."""
    clipping: float = Field(0.0, ge=0.0, le=1.0)
    """Share that is clipped."""
    clipped_db: tuple[float, float] = (1.0, 12.0)
    """Range of the mixture's peak over the clipping level, in dB."""
    codec: float = Field(0.0, ge=0.0, le=1.0)
    """Share that is coded and decoded."""
    codecs: list[CodecName] = Field(["opus", "mp3", "amr", "telephone"], min_length=1)
    """The codecs, each equally likely."""

    @field_validator("device_snr", "clipped_db")
    @classmethod
    def _ranges(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= value[0] <= value[1] <= 100.0:
            raise ValueError(f"it must be [low, high] between 0 and 100, got [{value[0]:g}, {value[1]:g}]")
        return value


@dataclass(frozen=True)
class Recorder:
    """The effects of one recorder, applied in the order of the fields."""

    gains: Samples | None
    """One gain per sample, ``(samples,)``."""
    limit: float | None
    """Maximum magnitude; larger samples are clipped."""
    codec: Codec | None

    def __call__(self, audio: Samples, sample_rate: int) -> Samples:
        """Recorded audio ``(samples,)``."""
        if self.gains is not None:
            audio = audio * self.gains
        if self.limit is not None:
            audio = audio.clip(-self.limit, self.limit)
        return audio if self.codec is None else self.codec(audio, sample_rate)

    def record(self, sources: Samples, rest: Samples, sample_rate: int) -> tuple[Samples, Samples]:
        """Each source recorded alone, ``(speakers, samples)``, and the recorded mixture minus these sources.

        Args:
            sources: the targets, ``(speakers, samples)``.
            rest: the noise, ``(samples,)``.
            sample_rate: of both, in hertz.
        """
        mixture = self(sources.sum(axis=0) + rest, sample_rate)
        recorded = np.stack([self(source, sample_rate) for source in sources])
        return recorded, mixture - recorded.sum(axis=0)


def draw_recorder(
    rng: np.random.Generator, config: RecorderConfig, mixture: Samples, sample_rate: int
) -> Recorder | None:
    """A recorder for a mixture ``(samples,)``, or None if no effect was drawn."""
    gains, limit, codec = None, None, None
    if rng.random() < config.level_jump:
        gains = level_jump(rng, len(mixture), config.jump_db, sample_rate)
    if rng.random() < config.clipping:
        peak = float(np.abs(mixture if gains is None else mixture * gains).max(initial=0.0))
        limit = peak * 10 ** (-float(rng.uniform(*config.clipped_db)) / 20)
    if rng.random() < config.codec:
        codec = draw_codec(rng, config.codecs[int(rng.integers(len(config.codecs)))])
    changes = any(each is not None for each in (gains, limit, codec))
    return Recorder(gains, limit, codec) if changes else None


def level_jump(rng: np.random.Generator, samples: int, decibels: float, sample_rate: int) -> Samples:
    """Gains ``(samples,)`` with one jump at a random time: 1 on one side, up to ``decibels`` less on the other."""
    drop = 10 ** (-float(rng.uniform(0.0, decibels)) / 20)
    before, after = (1.0, drop) if rng.random() < 0.5 else (drop, 1.0)
    middle = float(rng.uniform(0.1, 0.9)) * samples
    half = 0.5 * float(rng.uniform(*_JUMP_SECONDS)) * sample_rate
    place = [middle - half, middle + half]
    return np.interp(np.arange(samples), place, [before, after]).astype(np.float32)


def device_noise(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Steady noise ``(samples,)`` of root mean square 1: hiss, and in half of the cases also mains hum."""
    spectrum = np.fft.rfft(rng.standard_normal(samples, dtype=np.float32))
    hiss = np.fft.irfft(spectrum * smooth_response(rng, len(spectrum), 6.0, sample_rate), samples)
    noise = hiss / max(float(np.sqrt(np.mean(np.square(hiss)))), 1e-9)
    if rng.random() < 0.5:
        mains = float(rng.choice(_MAINS)) * np.arange(1, _HUM_HARMONICS + 1)
        mains = mains[mains < sample_rate / 2]
        gains = 10 ** (rng.uniform(-30.0, 0.0, len(mains)) / 20) / np.sqrt(np.arange(1, len(mains) + 1))
        phases = rng.uniform(0.0, 2 * np.pi, len(mains))
        time = np.arange(samples) / sample_rate
        hum = (gains[:, None] * np.sin(2 * np.pi * mains[:, None] * time + phases[:, None])).sum(axis=0)
        hum *= 10 ** (float(rng.uniform(-10.0, 10.0)) / 20) / max(float(np.sqrt(np.mean(hum**2))), 1e-9)
        noise = noise + hum
    scaled: Samples = (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9)).astype(np.float32)
    return scaled
