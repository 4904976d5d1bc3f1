"""Active speech levels a sample at a time: what tests hold the package's against."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


def by_the_recommendation(samples: Signal, rate: int, per_doubling: int = 1) -> float:
    """ITU-T P.56, clause on method B, a sample at a time; halving between thresholds as its flow chart does."""
    g, hangover = math.exp(-1 / (rate * 0.03)), math.ceil(0.2 * rate)
    thresholds = [2 ** (k / per_doubling) for k in range(4 * per_doubling, -20 * per_doubling, -1)]
    counts, since = [0] * len(thresholds), [hangover] * len(thresholds)
    p = q = energy = 0.0
    for x in samples.tolist():
        energy += x * x
        p = g * p + (1 - g) * abs(x)
        q = g * q + (1 - g) * p
        for j, threshold in enumerate(thresholds):
            if q >= threshold:
                counts[j], since[j] = counts[j] + 1, 0
            elif since[j] < hangover:
                counts[j], since[j] = counts[j] + 1, since[j] + 1
    reached = [
        (10 * math.log10(energy / n), decibels(c)) for n, c in zip(counts, thresholds, strict=True) if n > 0
    ]
    for (upper_level, upper), (lower_level, lower) in pairwise(reached):
        if upper_level - upper < 15.9 <= lower_level - lower:
            for _ in range(50):
                level, threshold = (upper_level + lower_level) / 2, (upper + lower) / 2
                if level - threshold < 15.9:
                    upper_level, upper = level, threshold
                else:
                    lower_level, lower = level, threshold
            return float(10 ** (level / 20))
    raise AssertionError("no threshold meets the margin")


def _without_rumble(samples: Signal) -> Signal:
    """The high-pass of VOICEBOX at 8 kHz: Chebyshev 2 of order 5, 50 dB, with its edge sought for -0.25 dB."""
    from scipy.optimize import brentq
    from scipy.signal import cheby2, freqz, lfilter

    def excess(edge: float) -> float:
        response = freqz(*cheby2(5, 50, edge, "highpass", fs=8000), worN=[200], fs=8000)[1]
        return decibels(abs(response[0])) + 0.25

    result: Signal = lfilter(*cheby2(5, 50, brentq(excess, 50, 150), "highpass", fs=8000), samples)
    return result


def level_by_hand(samples: Signal) -> float:
    return by_the_recommendation(_without_rumble(np.append(samples, np.zeros(2800))), 8000, per_doubling=2)


def halved_by_hand(samples: Signal) -> Signal:
    taps = np.sinc(np.arange(-20, 21) / 2) * np.kaiser(41, 5.0)
    return np.convolve(samples, taps / taps.sum())[20 : 20 + len(samples)][::2]
