"""The least that stays of every bin: the attenuation limit, and more where the recording is nearly clean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmingle.errors import UnmingleError

_FADE = 0.5 ** (1 / 250)
"""Of sums over frames: half after 250, as the front end's running level has it."""
_STEP_DB = 0.3
"""By which the median of what is removed moves with every frame."""
_START_FRAMES = 30
_QUIET_NOISE_DB = (30.0, 36.0)
"""Level over the median of what frames lose: between these the rule sets in."""
_LITTLE_REMOVED_DB = (8.0, 14.0)
"""Likewise, of what is kept over what is removed."""
_MOST_KEPT = 0.7
"""Of the input, where it is clean: nothing is turned down by more than 3 dB."""
_TINY = 1e-20


def attenuation_limit_of(strength: float) -> float | None:
    """The limit in dB of a strength from 0 to 1, at which ``1 - strength`` of the input's magnitude stays at least.

    0: nothing changes; 0.5: 6 dB; 0.9: 20 dB; 1: None, no limit.

    Raises:
        UnmingleError: it lies outside.
    """
    if not 0.0 <= strength <= 1.0:
        raise UnmingleError(f"The strength must lie between 0 and 1; got {strength:g}.")
    return None if strength == 1.0 else abs(20 * math.log10(1.0 - strength))


class PostGain:
    """Raises the masks of a recording, frame by frame, to a floor.

    The floor is the attenuation limit's. It is higher where two signs, from what has been heard so far, agree that
    there is hardly any noise: in most frames next to nothing is removed, and all in all much more is kept than
    removed. What is removed then is mostly speech, such as sibilants, or a second speaker.

    Args:
        limit: the attenuation limit in dB; None for none.

    Raises:
        UnmingleError: it is negative or no number.
    """

    def __init__(self, limit: float | None = None) -> None:
        if limit is not None and not limit >= 0.0:
            raise UnmingleError(f"The attenuation limit must be at least 0 dB; got {limit}.")
        self._floor = 0.0 if limit is None else 10 ** (-limit / 20)
        self._power = self._square = self._kept = self._removed = 0.0
        self._frames, self._median = 0, 0.0

    def __call__(self, masks: Tensor, magnitude: Tensor) -> Tensor:
        """Masks ``(1, frames, freqs)`` of the next frames, none below the floor.

        Args:
            masks: of one recording, frames in order, whatever the blocks.
            magnitude: of the mixture, of the same shape.
        """
        power = magnitude.double().square()
        kept = (power * masks.square()).sum(dim=-1)[0].tolist()
        removed = (power * (1.0 - masks).square()).sum(dim=-1)[0].tolist()
        total = power.sum(dim=-1)[0].tolist()
        floors = [self._next(*frame) for frame in zip(total, kept, removed, strict=True)]
        return torch.maximum(masks, masks.new_tensor(floors).reshape(1, -1, 1))

    def _next(self, total: float, kept: float, removed: float) -> float:
        """The floor of one more frame."""
        self._power = _FADE * self._power + total
        self._square = _FADE * self._square + total**2
        self._kept = _FADE * self._kept + kept
        self._removed = _FADE * self._removed + removed
        lost, self._frames = _decibels(removed), self._frames + 1
        # At first the median follows quickly; later it moves by even steps.
        step = (
            max(_STEP_DB, abs(lost - self._median) / self._frames)
            if self._frames <= _START_FRAMES
            else _STEP_DB
        )
        self._median = lost if self._frames == 1 else self._median + math.copysign(step, lost - self._median)
        level = _decibels(self._square / max(self._power, _TINY))
        share = min(
            _share(level - self._median, _QUIET_NOISE_DB),
            _share(_decibels(self._kept) - _decibels(self._removed), _LITTLE_REMOVED_DB),
        )
        return max(self._floor, _MOST_KEPT * share)


def _decibels(power: float) -> float:
    return 10 * math.log10(power + _TINY)


def _share(value: float, bounds: tuple[float, float]) -> float:
    """Where a value lies between two others: 0 at the first or below, 1 at the second or above."""
    return min(1.0, max(0.0, (value - bounds[0]) / (bounds[1] - bounds[0])))
