"""The level of steady noise in a recording, from the quietest moments of every frequency."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_QUIETEST_SHARE = 0.05
"""Minimum share of the time in which speech has no energy at a frequency."""
_FLOOR_DB = 10 * math.log10(-math.log(1 - _QUIETEST_SHARE))
"""Level of the quietest twentieth of the frames relative to the mean, for steady noise: the power of a bin has an
exponential distribution."""
_LOWEST_DB, _HIGHEST_DB = -200, 100
_CLEAN_DB = 60.0


class NoiseLevel:
    """Collects spectrograms of a recording, in constant memory: a histogram of levels for every frequency.

    Minimum statistics (Martin 2001), but over the whole recording. Only steady noise is found.
    """

    def __init__(self, freqs: int) -> None:
        self._counts = torch.zeros(freqs, _HIGHEST_DB - _LOWEST_DB, dtype=torch.int64)
        self._energy, self._frames = 0.0, 0

    def add(self, magnitude: Tensor) -> None:
        """Add magnitudes ``(frames, freqs)``."""
        power = magnitude.double().square().cpu()
        not_zero = power.sum(dim=1) > 0  # Digital silence says nothing about the noise.
        power = power[not_zero]
        self._energy += float(power.sum())
        self._frames += len(power)
        level = 10 * torch.log10(power.clamp_min(1e-30))
        bins = level.floor().clamp(_LOWEST_DB, _HIGHEST_DB - 1).long() - _LOWEST_DB
        self._counts.scatter_add_(1, bins.T, torch.ones_like(bins.T))

    def snr(self) -> float:
        """Level of all other sound over the steady noise, in dB. At most 60; 60 for silence."""
        if not self._energy:
            return _CLEAN_DB
        share = self._counts.cumsum(dim=1).double() / self._frames
        floor = (share < _QUIETEST_SHARE).sum(dim=1).numpy() + _LOWEST_DB + 0.5
        noise = float(np.power(10.0, (floor - _FLOOR_DB) / 10).sum())
        rest = self._energy / self._frames / max(noise, 1e-30) - 1.0
        return min(_CLEAN_DB, 10 * math.log10(max(rest, 1e-2)))
