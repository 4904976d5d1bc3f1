"""Settings of mixtures: the key ``mixing`` of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from unmingle.config import Config
from unmingle.data.conversations import ConversationConfig
from unmingle.data.microphones import MicrophoneConfig
from unmingle.data.noise import NoiseConfig
from unmingle.data.recorders import RecorderConfig
from unmingle.data.rooms import RoomConfig


class MixingConfig(Config):
    """Settings of mixtures. "Crops" are training mixtures of a fixed length."""

    speakers: int = Field(2, ge=1)
    fewest_speakers: int | None = Field(None, ge=1)
    """Crops have this many speakers up to ``speakers``, each number equally often (default: always ``speakers``)."""
    snr: tuple[float, float] = (0.0, 5.0)
    """Range in dB of the first speaker's active level over the second's. With three or more speakers, each draws a
    value from this range and has a gain of plus or minus half of it."""
    corpus_weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """By corpus: relative chance that a speaker is drawn from it (default: 1)."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Range of speeds. The speed also changes pitch and formants."""
    formants: tuple[float, float] = (1.0, 1.0)
    """In crops, range of the factors by which a speaker's formants move, at the same pitch and tempo."""
    partial_overlap: float = Field(0.0, ge=0.0, le=1.0)
    """Share of crops in which all speakers except the first speak only part of the time."""
    single_speaker: float = Field(0.0, ge=0.0, le=1.0)
    """Share of crops in which only the first speaker speaks."""
    second_speaker: float = Field(0.0, ge=0.0, le=1.0)
    """For mixtures of one speaker: share of crops in which two people converse. Both belong to the single source, so
    that a denoiser keeps every speaker. ``conversation`` and ``snr`` set their turns and levels."""
    late: float = Field(0.0, ge=0.0, le=1.0)
    """Share of crops in which the first speaker starts later, within the first third. Recordings often start before
    the speech does, and without such crops a network takes the first noise for speech."""
    overlap: tuple[float, float] | None = None
    """In test lists, whole utterances follow one another. Each overlaps the one before by a share of the shorter of
    both, drawn from this range. 0: one after the other; 1: full overlap (default: all start together)."""
    conversation: ConversationConfig | None = None
    """Crops that are conversations, with turns and pauses (default: none)."""
    moving_level: float = Field(0.0, ge=0.0, le=20.0)
    """In crops, each speaker's level moves slowly within plus or minus this many dB."""
    room: RoomConfig | None = None
    """Rooms of the speakers (default: none)."""
    noise: NoiseConfig | None = None
    """Noise in the mixtures (default: none)."""
    microphone: MicrophoneConfig | None = None
    """Microphones of crops (default: those of the recordings)."""
    recorder: RecorderConfig | None = None
    """Effects of recorders on crops: device noise, jumps of level, clipping, codecs (default: none)."""

    @property
    def most_at_once(self) -> int:
        """Maximum number of different speakers in a mixture."""
        return max(self.speakers, 2 if self.second_speaker else 1)

    @model_validator(mode="after")
    def _ranges(self) -> MixingConfig:
        for name in ("snr", "speed", "formants"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be [low, high], got [{low}, {high}]")
            if name != "snr" and not 0.5 <= low <= high <= 2.0:
                raise ValueError(f"{name} must lie between 0.5 and 2")
        if self.fewest_speakers is not None and self.fewest_speakers > self.speakers:
            raise ValueError(f"fewest_speakers {self.fewest_speakers} is more than speakers {self.speakers}")
        if self.second_speaker and self.speakers != 1:
            raise ValueError(f"second_speaker is for mixtures of one speaker, not of {self.speakers}")
        if self.overlap is not None and not 0.0 <= self.overlap[0] <= self.overlap[1] <= 1.0:
            raise ValueError(f"overlap must be [low, high] between 0 and 1, got {list(self.overlap)}")
        return self
