"""Synthetic music: notes of a scale and drums on the beats of a bar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.data.microphones import smooth_response

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
"""Semitones above the lowest note: major, minor, and their pentatonic scales."""
_NOTES = 6
_HARMONICS = 12
_STEPS_A_BEAT = 2


def music(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """A melody, plucked or held, in one timbre, mostly with drums: ``(samples,)``.

    Six notes of one scale over two octaves, the lowest between 55 and 440 Hz, on half beats at 60 to 180 beats per
    minute. A bar of eight beats repeats.
    """
    step = 60.0 / float(rng.uniform(60.0, 180.0)) / _STEPS_A_BEAT
    scale = SCALES[int(rng.integers(len(SCALES)))]
    degrees = rng.choice(2 * len(scale), _NOTES, replace=False)
    lowest = 55.0 * 2 ** float(rng.uniform(0.0, 3.0))
    semitones = np.array([12 * (degree // len(scale)) + scale[degree % len(scale)] for degree in degrees])
    harmonics = 10 ** (np.sort(rng.uniform(-40.0, 0.0, _HARMONICS))[::-1] / 20)
    decay = 0.1 * 20 ** float(rng.random())
    sounds = [
        _note(pitch, harmonics, decay, samples, sample_rate) for pitch in lowest * 2 ** (semitones / 12)
    ]
    if rng.random() < 0.7:
        sounds += [_drum(rng, samples, sample_rate) for _ in range(2)]
    first = -float(rng.uniform(0.0, step))
    size = samples // 2 + 1
    spectrum = np.zeros(size, dtype=np.complex128)
    for sound in sounds:
        spectrum += np.fft.rfft(_bar(rng, first, step, samples, sample_rate)) * np.fft.rfft(sound, samples)
    shape = smooth_response(rng, size, 6.0, sample_rate)
    # Circular convolution: the decay after the end falls on the start.
    return np.fft.irfft(spectrum * shape, samples).astype(np.float32)


def _bar(
    rng: np.random.Generator, first: float, step: float, samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Strengths of one sound's hits, by sample: a repeating bar with at least one hit."""
    strengths = np.where(rng.random(8 * _STEPS_A_BEAT) < 0.3, rng.uniform(0.3, 1.0, 8 * _STEPS_A_BEAT), 0.0)
    strengths[int(rng.integers(len(strengths)))] = 1.0
    times = first + step * np.arange(int(samples / sample_rate / step) + 2)
    places = np.maximum(0, np.round(times * sample_rate).astype(int))
    inside = places < samples
    hits = np.zeros(samples)
    np.add.at(hits, places[inside], np.resize(strengths, len(places))[inside])
    if not hits.any():
        hits[0] = 1.0  # The crop ends before the next hit.
    return hits


def _note(
    pitch: float, harmonics: NDArray[np.float64], decay: float, samples: int, sample_rate: int
) -> Samples:
    """A tone that decays by 1/e in ``decay`` seconds, its higher harmonics faster."""
    length = min(samples, int(6.0 * decay * sample_rate) + 1)
    time = np.arange(length, dtype=np.float32) / np.float32(sample_rate)
    sound = np.zeros(length, dtype=np.float32)
    for number, gain in enumerate(harmonics, start=1):
        if number * pitch < 0.45 * sample_rate:
            envelope = np.float32(gain) * np.exp(time * np.float32(-np.sqrt(number) / decay))
            sound += envelope * np.sin(np.float32(2 * np.pi * number * pitch) * time)
    attack = min(length, round(0.005 * sample_rate))
    sound[:attack] *= np.linspace(0.0, 1.0, attack, dtype=np.float32)
    return sound


def _drum(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """A burst of noise or a low falling tone, 20 to 200 ms long."""
    decay = 0.02 * 10 ** float(rng.random())
    time = np.arange(min(samples, int(6.0 * decay * sample_rate) + 1)) / sample_rate
    sound = rng.standard_normal(len(time))
    if rng.random() < 0.5:
        falling = float(rng.uniform(50.0, 120.0)) * (1.0 + np.exp(-time / 0.02))
        sound = 2.0 * np.sin(2 * np.pi * np.cumsum(falling) / sample_rate)
    return (sound * np.exp(-time / decay)).astype(np.float32)
