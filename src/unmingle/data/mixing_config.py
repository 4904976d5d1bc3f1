"""What mixtures are drawn from: the key ``mixing`` of a recipe."""

from __future__ import annotations

from pydantic import Field, model_validator

from unmingle.config import Config
from unmingle.data.conversations import ConversationConfig
from unmingle.data.microphones import MicrophoneConfig
from unmingle.data.noise import NoiseConfig
from unmingle.data.recorders import RecorderConfig
from unmingle.data.rooms import RoomConfig


class MixingConfig(Config):
    """How mixtures are drawn."""

    speakers: int = Field(2, ge=1)
    fewest_speakers: int | None = Field(None, ge=1)
    """Crops for training draw their number of speakers from this one up to ``speakers``, evenly."""
    snr: tuple[float, float] = (0.0, 5.0)
    """Range in dB of the active level of the first speaker over that of the second. With three or
    more speakers each draws a gain of +- half of a value from this range."""
    corpus_weights: dict[str, float] = {}
    """Chance of each corpus to give a mixture's speakers, by name, relative to the others; 1 for one not named."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Range of speeds; speed changes pitch and formants too."""
    partial_overlap: float = Field(0.0, ge=0.0, le=1.0)
    """Share of mixtures in which all speakers but the first speak only for a part of the time."""
    single_speaker: float = Field(0.0, ge=0.0, le=1.0)
    """Share of mixtures in which the first speaker alone speaks."""
    second_speaker: float = Field(0.0, ge=0.0, le=1.0)
    """Of one speaker's mixtures, the share of the crops for training in which two converse. Both are the one source,
    so that a denoiser keeps whoever speaks. ``conversation`` and ``snr`` say how they do."""
    late: float = Field(0.0, ge=0.0, le=1.0)
    """Share of crops for training in which the first speaker begins late, within the first third: recordings begin
    before anybody talks, and a network that never heard that takes the first noise for speech."""
    overlap: tuple[float, float] | None = None
    """Whole utterances follow one another like turns of a conversation: each next one begins before the end of
    what came before, by a share of the shorter of both from this range. 0: one after the other; 1: full overlap."""
    conversation: ConversationConfig | None = None
    """Crops for training that are conversations, with turns and pauses (default: none)."""
    moving_level: float = Field(0.0, ge=0.0, le=20.0)
    """In crops for training each speaker's level moves slowly, by at most so many dB up or down."""
    room: RoomConfig | None = None
    """Rooms in which the speakers are heard (default: none)."""
    noise: NoiseConfig | None = None
    """Noise beside the speakers (default: none)."""
    microphone: MicrophoneConfig | None = None
    """Microphones through which crops for training are heard (default: those of the recordings)."""
    recorder: RecorderConfig | None = None
    """What recorders do to crops for training: noise of their own, jumps of level, clipping, codecs (default:
    nothing)."""

    @property
    def most_at_once(self) -> int:
        """The largest number of different speakers in a mixture."""
        return max(self.speakers, 2 if self.second_speaker else 1)

    @model_validator(mode="after")
    def _ranges(self) -> MixingConfig:
        for name in ("snr", "speed"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be [low, high], got [{low}, {high}]")
        if self.fewest_speakers is not None and self.fewest_speakers > self.speakers:
            raise ValueError(f"fewest_speakers {self.fewest_speakers} is more than speakers {self.speakers}")
        if self.second_speaker and self.speakers != 1:
            raise ValueError(f"second_speaker is for mixtures of one speaker, not of {self.speakers}")
        if self.overlap is not None and not 0.0 <= self.overlap[0] <= self.overlap[1] <= 1.0:
            raise ValueError(f"overlap must be [low, high] between 0 and 1, got {list(self.overlap)}")
        if self.speed[0] < 0.5 or self.speed[1] > 2.0:
            raise ValueError("speed must lie between 0.5 and 2")
        return self
