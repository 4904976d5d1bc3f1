"""The plan of a mixture, and the rendered mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.batch import GENDERS
from unmingle.data.rooms import Room

SNR_LIMIT = 100.0
"""SNR in dB of speech without noise. Noise without speech has the negative value."""


@dataclass(frozen=True)
class Segment:
    """A part of one utterance in a mixture. Lengths and positions are in samples after the change of speed."""

    utterance: int
    start: int
    """Start of the part, in samples of the decoded utterance."""
    position: int
    """Its start in the mixture."""
    length: int
    """Its length in the mixture."""


@dataclass(frozen=True)
class Voice:
    """One speaker of a mixture."""

    segments: tuple[Segment, ...]
    speed: float
    gain_db: float
    ramps: bool = False
    """Fade every segment in and out over 20 ms, because the turns of a conversation cut utterances anywhere."""
    formants: float = 1.0
    """Factor by which the formants move (:mod:`unmingle.data.formants`)."""


@dataclass(frozen=True)
class MixturePlan:
    """All random choices about the speech of one mixture."""

    voices: tuple[Voice, ...]
    samples: int


@dataclass(frozen=True)
class Example:
    """One mixture with its sources, noise and facts."""

    sources: Samples
    """``(speakers, samples)``."""
    noise: Samples | None = None
    """``(samples,)``: the mixture minus the sources."""
    snr: float | None = None
    """Active level of the speakers over the level of the noise, in dB; -100 without speech."""
    gender: str = "unknown"
    """Of the first speaker."""
    noise_name: str = ""
    """Name of the noise."""
    room: Room | None = None
    """The speakers' room, if any."""

    @property
    def mixture(self) -> Samples:
        """``(samples,)``."""
        total: Samples = self.sources.sum(axis=0)
        return total if self.noise is None else total + self.noise


def active_sources(example: Example) -> NDArray[np.bool_]:
    """Which speakers speak, ``(speakers,)``: those with an energy within 40 dB of the mixture's."""
    energy = np.square(example.sources).sum(axis=-1)
    active: NDArray[np.bool_] = energy > 1e-4 * max(float(np.square(example.mixture).sum()), 1e-12)
    return active


def gender_index(example: Example) -> int:
    """Index of the first speaker's gender in :data:`~unmingle.batch.GENDERS`."""
    return GENDERS.index(example.gender)
