"""What the page draws and plays: stretches of a stored track as samples, as a waveform, as a spectrogram.

Tracks are WAV files of our own making; only the stretch that is asked for is read.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmingle.audio import Samples

BANDS = 128
"""Rows of a spectrogram, evenly spaced from 0 Hz to :data:`HIGHEST_HERTZ`, or to half the sample rate."""
HIGHEST_HERTZ = 8000.0
_WINDOW_SECONDS = 0.032
_RANGE_DB = 70.0
_WINDOWS_PER_COLUMN = 4


def read_samples(path: Path, start: int, count: int) -> bytes:
    """Samples from ``start`` on, little-endian float32, channels interleaved; fewer at the end."""
    with soundfile.SoundFile(str(path)) as file:
        file.seek(min(start, file.frames))
        return bytes(file.read(count, dtype="float32", always_2d=True).astype("<f4").tobytes())


def draw(path: Path, start: int, count: int, width: int, loudest: float) -> bytes:
    """A stretch of a track as ``width`` columns of a picture.

    Args:
        path: of the track.
        start: first sample.
        count: samples that the picture covers.
        width: columns.
        loudest: power that is drawn as 255; 70 dB less is drawn as 0.

    Returns:
        For every column the lowest sample, then for every column the highest one (float32, little-endian);
        then :data:`BANDS` bytes per column, the lowest frequency first.
    """
    edges = start + np.linspace(0, count, width + 1).astype(np.int64)
    low, high = np.zeros(width, "<f4"), np.zeros(width, "<f4")
    with soundfile.SoundFile(str(path)) as file:
        window = _window(file.samplerate)
        pieces = np.zeros((width, _WINDOWS_PER_COLUMN, len(window)), np.float32)
        for column, (begin, end) in enumerate(pairwise(edges)):
            # At least a window around the column's middle, however far one has zoomed in.
            first = max(0, min(int(begin), int(begin + end - len(window)) // 2))
            heard = _read_mono(file, first, max(int(end) - first, len(window)))
            inside = heard[begin - first : max(end - first, begin - first + 1)]
            if len(inside):
                low[column], high[column] = inside.min(), inside.max()
            pieces[column] = _spread(heard, len(window))
        power = _power(pieces, window, file.samplerate)
    decibels = 10 * np.log10(np.maximum(power, 1e-30) / max(loudest, 1e-20))
    shades = np.clip(255 * (1 + decibels / _RANGE_DB), 0, 255).astype(np.uint8)
    return low.tobytes() + high.tobytes() + shades.tobytes()


def loudest_power(path: Path) -> float:
    """The power that a picture of the track draws as its brightest."""
    with soundfile.SoundFile(str(path)) as file:
        window = _window(file.samplerate)
        starts = np.linspace(0, max(0, file.frames - len(window)), 400).astype(np.int64)
        pieces = np.stack([_spread(_read_mono(file, int(k), len(window)), len(window)) for k in starts])
        return float(_power(pieces, window, file.samplerate).max())


def _read_mono(file: soundfile.SoundFile, start: int, count: int) -> Samples:
    """The mean of the channels; nothing beyond the end."""
    file.seek(min(start, file.frames))
    mono: Samples = file.read(count, dtype="float32", always_2d=True).mean(axis=1)
    return mono


def _spread(heard: Samples, size: int) -> Samples:
    """A few windows ``(windows, size)`` spread over samples; over fewer than a window, with silence after them."""
    padded = np.pad(heard, (0, max(0, size - len(heard))))
    starts = np.linspace(0, len(padded) - size, _WINDOWS_PER_COLUMN).astype(np.int64)
    return np.stack([padded[k : k + size] for k in starts])


def _window(sample_rate: int) -> Samples:
    return np.hanning(max(16, round(_WINDOW_SECONDS * sample_rate))).astype(np.float32)


def _power(pieces: Samples, window: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Mean power ``(columns, BANDS)`` of windows ``(columns, windows, size)``."""
    power = np.square(np.abs(np.fft.rfft(pieces * window))).mean(axis=1)
    # Between the bins, which are 1 / size of the sample rate apart, on lines; in a band the highest counts.
    fine = (np.arange(4 * BANDS) + 0.5) / (4 * BANDS) * min(HIGHEST_HERTZ, sample_rate / 2)
    bins = fine * len(window) / sample_rate
    below = np.minimum(bins.astype(np.int64), power.shape[1] - 2)
    share = bins - below
    between = power[:, below] * (1 - share) + power[:, below + 1] * share
    answer: NDArray[np.float64] = between.reshape(-1, BANDS, 4).max(axis=2)
    return answer
