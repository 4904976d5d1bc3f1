"""Minimum gain of masks: from the attenuation limit, and higher where a recording is nearly clean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmingle.audio_stream import Frames
from unmingle.errors import UnmingleError

LOOK_AHEAD_FRAMES = 250
"""Frames after a frame that count for its minimum gain, in files."""

_FADE = 0.5 ** (1 / 250)
"""Decay of sums per frame, with a half-life of 250 frames as in the front end's running level."""
_STEP_DB = 0.3
"""Step of the running median of the removed energy, per frame."""
_START_FRAMES = 30
_QUIET_NOISE_DB = (24.0, 30.0)
"""Range of the level over the median of the removed energy in which the minimum gain rises."""
_LITTLE_REMOVED_DB = (12.0, 18.0)
"""Likewise, range of the kept over the removed energy below 2.5 kHz."""
_SIBILANTS_HERTZ = 2500.0
"""Sibilants lie above. They are what is removed by mistake most often, so they say little about the noise."""
_SOME_REMOVED_DB = (8.0, 12.0)
"""Likewise, range of the kept over the removed energy at all frequencies: noise may lie above, too."""
_LOUD_DB = (-30.0, -20.0)
"""Likewise, range of a frame's energy relative to the level. In pauses, noise is removed."""
_MOST_KEPT = 0.9
"""Minimum gain of loud frames of clean input."""
_TINY = 1e-20


def attenuation_limit_of(strength: float) -> float | None:
    """The attenuation limit in dB of a strength from 0 to 1. The minimum gain is ``1 - strength``.

    Strength 0 changes nothing; 0.5 is 6 dB; 0.9 is 20 dB; 1 is None, no limit.

    Raises:
        UnmingleError: the strength is not between 0 and 1.
    """
    if not 0.0 <= strength <= 1.0:
        raise UnmingleError(f"The strength must lie between 0 and 1; got {strength:g}.")
    return None if strength == 1.0 else abs(20 * math.log10(1.0 - strength))


class PostGain:
    """Raises the masks of a recording to a minimum gain, frame by frame.

    The minimum gain is that of the attenuation limit. In loud frames it is higher if three measures indicate hardly
    any noise: most frames lose almost no energy; below the frequencies of sibilants, far more energy is kept than
    removed; and at all frequencies more is kept than removed. The removed energy is then mostly speech, such as
    sibilants, or a second speaker. The measures are those of the audio up to ``look_ahead`` frames after each frame.

    Args:
        sample_rate: in hertz.
        limit: the attenuation limit in dB; None for no limit.
        look_ahead: in frames.

    Raises:
        UnmingleError: the limit is negative or not a number.
    """

    def __init__(self, sample_rate: int, limit: float | None = None, look_ahead: int = 0) -> None:
        if limit is not None and not limit >= 0.0:
            raise UnmingleError(f"The attenuation limit must be at least 0 dB; got {limit}.")
        self._floor = 0.0 if limit is None else 10 ** (-limit / 20)
        self._power = self._square = 0.0
        self._kept, self._removed = [0.0, 0.0], [0.0, 0.0]
        self._frames, self._median = 0, 0.0
        self._low_share = min(1.0, 2 * _SIBILANTS_HERTZ / sample_rate)
        self.look_ahead = look_ahead
        self._waiting: Frames | None = None
        """Masks whose later frames are not there yet."""
        self._known: list[tuple[float, float, float]] = []
        """For each of them, its energy, and the level and the share of the highest minimum gain by the measures."""

    @property
    def waiting(self) -> int:
        """Number of frames that wait for later ones."""
        return len(self._known)

    def push(self, masks: Tensor, magnitude: Tensor, *, ended: bool) -> Tensor:
        """Push the masks of the next frames; returns those that are ready, none below the minimum gain.

        Args:
            masks: of one recording, ``(1, frames, freqs)``. Block size does not change the result.
            magnitude: of the mixture, of the same shape.
            ended: no more frames follow, so all are ready.
        """
        power = magnitude.double().square()
        kept, removed = power * masks.square(), power * (1.0 - masks).square()
        low = slice(round(self._low_share * (power.shape[-1] - 1)) + 1)
        sums = [
            values.sum(dim=-1)[0].tolist()
            for values in (power, kept, removed, kept[..., low], removed[..., low])
        ]
        self._known += [self._measured(*frame) for frame in zip(*sums, strict=True)]
        if self._waiting is None:
            self._waiting = Frames(masks[:, :0])
        self._waiting.add(masks)
        known = self._known
        ready = len(known) if ended else max(0, len(known) - self.look_ahead)
        floors = []
        for number in range(ready):
            _, level, share = known[min(number + self.look_ahead, len(known) - 1)]
            loud = _share(_decibels(known[number][0]) - level, _LOUD_DB)
            floors.append(max(self._floor, _MOST_KEPT * share * loud))
        self._known = known[ready:]
        return torch.maximum(self._waiting.take(ready), masks.new_tensor(floors).reshape(1, -1, 1))

    def _measured(
        self, total: float, kept: float, removed: float, low_kept: float, low_removed: float
    ) -> tuple[float, float, float]:
        """The next frame's energy, and the level and the share of the highest minimum gain so far."""
        self._power = _FADE * self._power + total
        self._square = _FADE * self._square + total**2
        self._kept = [_FADE * sum_ + new for sum_, new in zip(self._kept, (kept, low_kept), strict=True)]
        self._removed = [
            _FADE * sum_ + new for sum_, new in zip(self._removed, (removed, low_removed), strict=True)
        ]
        lost, self._frames = _decibels(removed), self._frames + 1
        # At first the median moves in large steps, later in steps of _STEP_DB.
        step = (
            max(_STEP_DB, abs(lost - self._median) / self._frames)
            if self._frames <= _START_FRAMES
            else _STEP_DB
        )
        self._median = lost if self._frames == 1 else self._median + math.copysign(step, lost - self._median)
        level = _decibels(self._square / max(self._power, _TINY))
        all_, low = (_decibels(k) - _decibels(r) for k, r in zip(self._kept, self._removed, strict=True))
        share = min(
            _share(level - self._median, _QUIET_NOISE_DB),
            _share(low, _LITTLE_REMOVED_DB),
            _share(all_, _SOME_REMOVED_DB),
        )
        return total, level, share


def _decibels(power: float) -> float:
    return 10 * math.log10(power + _TINY)


def _share(value: float, bounds: tuple[float, float]) -> float:
    """Position of a value between two bounds: 0 at or below the first, 1 at or above the second."""
    return min(1.0, max(0.0, (value - bounds[0]) / (bounds[1] - bounds[0])))
