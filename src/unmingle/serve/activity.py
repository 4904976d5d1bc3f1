"""Who speaks when: intervals of time in which an estimate contains speech."""

from __future__ import annotations

import numpy as np

from unmingle.audio import Samples

_FRAME_SECONDS = 0.05
_AUDIBLE = 10**-3.0
"""A frame is active if its power is within 30 dB of the speaker's loud frames ..."""
_OWN_SHARE = 0.1
"""... and at least this share of the power of all speakers, so that leakage does not count."""
_PAUSE_SECONDS = 0.3
"""A shorter pause does not end an interval."""
_SHORTEST_SECONDS = 0.15


def speaking_times(estimates: Samples, sample_rate: int) -> list[list[tuple[float, float]]]:
    """For each of ``(speakers, samples)`` the intervals of speech as (start, end) in seconds.

    The rule compares energies and fills pauses below 0.3 s. It takes steady noise for speech.
    """
    size = max(1, round(_FRAME_SECONDS * sample_rate))
    frames = max(1, estimates.shape[1] // size)
    power = np.stack(
        [
            # One speaker at a time, because squares in double precision need twice the memory of the estimates.
            np.add.reduceat(np.square(estimate), np.arange(frames) * size, dtype=np.float64)
            for estimate in estimates
        ]
    )
    loud = np.quantile(power, 0.95, axis=1, keepdims=True)
    active = (power > _AUDIBLE * loud) & (power >= _OWN_SHARE * power.sum(axis=0)) & (power > 0)
    return [_intervals(each, size / sample_rate) for each in active]


def _intervals(active: np.ndarray[tuple[int], np.dtype[np.bool_]], step: float) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    joined: list[tuple[float, float]] = []
    for start, end in zip(edges[::2] * step, edges[1::2] * step, strict=True):
        if joined and start - joined[-1][1] < _PAUSE_SECONDS:
            joined[-1] = (joined[-1][0], float(end))
        else:
            joined.append((float(start), float(end)))
    return [(round(start, 3), round(end, 3)) for start, end in joined if end - start >= _SHORTEST_SECONDS]
