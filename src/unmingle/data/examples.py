"""What a mixture is made of: its plan, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.batch import GENDERS
from unmingle.data.rooms import Room

SNR_LIMIT = 100.0
"""In dB: SNRs of speech without noise, and, negative, of noise without speech."""


@dataclass(frozen=True)
class Segment:
    """A stretch of one utterance in a mixture; times in samples after the change of speed."""

    utterance: int
    start: int
    """Where the stretch begins, in samples of the utterance as it was decoded."""
    position: int
    """Where it goes in the mixture."""
    length: int
    """How long it is in the mixture."""


@dataclass(frozen=True)
class Voice:
    """One speaker of a mixture."""

    segments: tuple[Segment, ...]
    speed: float
    gain_db: float
    ramps: bool = False
    """Every segment rises and falls over 20 ms: turns of a conversation cut utterances anywhere."""


@dataclass(frozen=True)
class MixturePlan:
    """All that is random about one mixture."""

    voices: tuple[Voice, ...]
    samples: int


@dataclass(frozen=True)
class Example:
    """One mixture with what is known of it."""

    sources: Samples
    """``(speakers, samples)``."""
    noise: Samples | None = None
    """``(samples,)``: what the mixture holds beside the sources."""
    snr: float | None = None
    """Active level of the speakers over the level of the noise, in dB; -100 where nobody talks."""
    gender: str = "unknown"
    """Of the first speaker."""
    noise_name: str = ""
    """What the noise is."""
    room: Room | None = None
    """Where the speakers were heard."""

    @property
    def mixture(self) -> Samples:
        """``(samples,)``."""
        total: Samples = self.sources.sum(axis=0)
        return total if self.noise is None else total + self.noise


def active_sources(example: Example) -> NDArray[np.bool_]:
    """Which of ``(speakers,)`` talk: those within 40 dB of the mixture's energy."""
    energy = np.square(example.sources).sum(axis=-1)
    active: NDArray[np.bool_] = energy > 1e-4 * max(float(np.square(example.mixture).sum()), 1e-12)
    return active


def gender_index(example: Example) -> int:
    """The place of the first speaker's gender among :data:`~unmingle.batch.GENDERS`."""
    return GENDERS.index(example.gender)
