"""Conversations: who speaks when, with turns, pauses, overlaps and back-channels.

Real recordings rarely have full overlap. A model that is trained on full overlap only splits a speaker over both
outputs where this speaker speaks alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from unmingle.config import Config

_SAME_SPEAKER = 0.15
"""Chance that the same speaker has the next turn, after a pause."""
_PAUSE = 0.4
"""Chance of a pause between two turns that do not overlap. Without it, the gap is shorter than the shortest pause."""
_BACK_CHANNEL_SECONDS = (0.3, 0.9)


class ConversationConfig(Config):
    """Settings of conversations."""

    share: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the mixtures that are conversations. In the others all speakers speak all the time."""
    turn: tuple[float, float] = (0.6, 6.0)
    """Range of a turn's length in seconds, uniform over its logarithm."""
    pause: tuple[float, float] = (0.1, 1.5)
    """Range of pauses between turns in seconds."""
    overlap: tuple[float, float] = (0.0, 1.0)
    """Range of a conversation's overlap: the approximate share of the shorter of two successive turns that overlaps
    the other. At 1, several people speak in about half of the speech."""
    back_channel: float = Field(0.15, ge=0.0, le=1.0)
    """Chance that another speaker makes a short remark during a turn."""

    @field_validator("turn", "pause", "overlap")
    @classmethod
    def _ranges(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= value[0] <= value[1]:
            raise ValueError(f"it must be [low, high], both at least 0, got [{value[0]:g}, {value[1]:g}]")
        return value

    @field_validator("turn")
    @classmethod
    def _turn_lasts(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] < 0.2:
            raise ValueError(f"a turn must last at least 0.2 seconds, got {value[0]:g}")
        return value

    @field_validator("overlap")
    @classmethod
    def _overlap_is_a_share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1.0:
            raise ValueError(f"it must lie between 0 and 1, got {value[1]:g}")
        return value


@dataclass(frozen=True)
class Turn:
    """One turn of a speaker, in samples of the mixture."""

    speaker: int
    first: int
    last: int


def draw_turns(
    rng: np.random.Generator, config: ConversationConfig, speakers: int, samples: int, sample_rate: int
) -> list[Turn]:
    """The turns of one conversation of ``samples``, sorted by start.

    Turns of the same speaker never overlap. The first turn may start before the mixture does. In a long conversation
    every speaker has a turn.
    """
    overlap = float(rng.uniform(*config.overlap))
    ends = [0] * speakers  # Where each speaker's last turn ends.
    turns: list[Turn] = []
    speaker, start, length = int(rng.integers(speakers)), 0, _turn_length(rng, config, sample_rate)
    start -= int(rng.uniform(0.0, 0.5) * length)
    while start < samples:
        turn = Turn(speaker, max(0, start), min(samples, start + length))
        if turn.last - turn.first > 0:
            turns.append(turn)
        ends[speaker] = start + length
        if speakers > 1 and rng.random() < config.back_channel:
            remark = _back_channel(rng, turn, ends, sample_rate)
            if remark is not None:
                turns.append(remark)
                ends[remark.speaker] = remark.last
        following = _next_speaker(rng, speaker, ends)
        next_length = _turn_length(rng, config, sample_rate)
        gap = _gap(
            rng, config, overlap if following != speaker else 0.0, min(length, next_length), sample_rate
        )
        # A turn starts neither before the turn that it interrupts nor before the end of the speaker's own last turn.
        start = max(start, start + length + gap, ends[following])
        speaker, length = following, next_length
    return sorted(turns, key=lambda turn: turn.first)


def _turn_length(rng: np.random.Generator, config: ConversationConfig, sample_rate: int) -> int:
    return int(np.exp(rng.uniform(*np.log(config.turn))) * sample_rate)


def _next_speaker(rng: np.random.Generator, speaker: int, ends: list[int]) -> int:
    others = [other for other in range(len(ends)) if other != speaker]
    if not others or rng.random() < _SAME_SPEAKER:
        return speaker
    silent = [other for other in others if ends[other] == 0]  # They are preferred.
    choice = silent if silent and rng.random() < 0.5 else others
    return choice[int(rng.integers(len(choice)))]


def _gap(
    rng: np.random.Generator, config: ConversationConfig, overlap: float, shorter: int, sample_rate: int
) -> int:
    """Samples between two turns. Negative for an overlap, which is at most the shorter turn."""
    if overlap == 0.0 or rng.random() < 0.5 * (1.0 - overlap):
        low, high = config.pause if rng.random() < _PAUSE else (0.0, config.pause[0])
        return int(rng.uniform(low, high) * sample_rate)
    return -int(min(1.0, overlap * rng.uniform(0.5, 1.5)) * shorter)


def _back_channel(rng: np.random.Generator, turn: Turn, ends: list[int], sample_rate: int) -> Turn | None:
    """A short remark of another speaker within a turn, or None if the turn is too short or nobody is free."""
    length = int(rng.uniform(*_BACK_CHANNEL_SECONDS) * sample_rate)
    free = [other for other, end in enumerate(ends) if other != turn.speaker and end <= turn.first]
    if not free or turn.last - turn.first < 2 * length:
        return None
    first = int(rng.integers(turn.first, turn.last - length))
    return Turn(free[int(rng.integers(len(free)))], first, first + length)
