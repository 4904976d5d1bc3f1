"""Data that the page draws and plays: sections of a stored track as samples, waveform and spectrogram.

Tracks are WAV files that the worker wrote. Only the requested section is read.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmingle.audio import Samples

BANDS = 128
"""Rows of a spectrogram, evenly spaced from 0 Hz to :data:`HIGHEST_HERTZ` or half the sample rate, the lower one."""
HIGHEST_HERTZ = 8000.0
_WINDOW_SECONDS = 0.032
_RANGE_DB = 70.0
_WINDOWS_PER_COLUMN = 4


def read_samples(path: Path, start: int, count: int) -> bytes:
    """``count`` samples from ``start``, fewer at the end: little-endian float32, channels interleaved."""
    with soundfile.SoundFile(str(path)) as file:
        file.seek(min(start, file.frames))
        return bytes(file.read(count, dtype="float32", always_2d=True).astype("<f4").tobytes())


def draw(path: Path, start: int, count: int, width: int, loudest: float) -> bytes:
    """A section of a track as ``width`` columns of a picture.

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
            # At least one window around the column's middle, even when zoomed in.
            first = max(0, min(int(begin), int(begin + end - len(window)) // 2))
            samples = _read_mono(file, first, max(int(end) - first, len(window)))
            inside = samples[begin - first : max(end - first, begin - first + 1)]
            if len(inside):
                low[column], high[column] = inside.min(), inside.max()
            pieces[column] = _spread(samples, len(window))
        power = _power(pieces, window, file.samplerate)
    decibels = 10 * np.log10(np.maximum(power, 1e-30) / max(loudest, 1e-20))
    shades = np.clip(255 * (1 + decibels / _RANGE_DB), 0, 255).astype(np.uint8)
    return low.tobytes() + high.tobytes() + shades.tobytes()


def loudest_power(path: Path) -> float:
    """The highest power in 400 windows all over a track, drawn as the brightest shade."""
    with soundfile.SoundFile(str(path)) as file:
        window = _window(file.samplerate)
        starts = np.linspace(0, max(0, file.frames - len(window)), 400).astype(np.int64)
        pieces = np.stack([_spread(_read_mono(file, int(k), len(window)), len(window)) for k in starts])
        return float(_power(pieces, window, file.samplerate).max())


def _read_mono(file: soundfile.SoundFile, start: int, count: int) -> Samples:
    """The mean of the channels; fewer samples at the end of the file."""
    file.seek(min(start, file.frames))
    mono: Samples = file.read(count, dtype="float32", always_2d=True).mean(axis=1)
    return mono


def _spread(samples: Samples, size: int) -> Samples:
    """A few windows ``(windows, size)`` spread evenly over the samples, which are zero-padded to one window."""
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    starts = np.linspace(0, len(padded) - size, _WINDOWS_PER_COLUMN).astype(np.int64)
    return np.stack([padded[k : k + size] for k in starts])


def _window(sample_rate: int) -> Samples:
    return np.hanning(max(16, round(_WINDOW_SECONDS * sample_rate))).astype(np.float32)


def _power(pieces: Samples, window: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Mean power ``(columns, BANDS)`` of windows ``(columns, windows, size)``."""
    power = np.square(np.abs(np.fft.rfft(pieces * window))).mean(axis=1)
    # Linear interpolation between bins (spacing: sample rate / size); a band shows the highest of four values.
    fine = (np.arange(4 * BANDS) + 0.5) / (4 * BANDS) * min(HIGHEST_HERTZ, sample_rate / 2)
    bins = fine * len(window) / sample_rate
    below = np.minimum(bins.astype(np.int64), power.shape[1] - 2)
    share = bins - below
    between = power[:, below] * (1 - share) + power[:, below + 1] * share
    answer: NDArray[np.float64] = between.reshape(-1, BANDS, 4).max(axis=2)
    return answer
