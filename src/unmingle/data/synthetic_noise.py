"""Synthetic noise: shaped random noise, and physical models of common sounds.

Every draw has new random parameters, such as the modes of a struck object or the speed of an engine. So two noises of
one kind share only the mechanism. Nothing here is a recording or derived from one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples
from unmingle.data.microphones import smooth_response

_BANDS = 6
_VARIANTS = 3


def shaped_noise(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Gaussian noise with a random smooth spectrum that falls by 0 to 12 dB per octave: ``(samples,)``."""
    spectrum = np.fft.rfft(rng.standard_normal(samples, dtype=np.float32))
    octaves = np.log2(np.maximum(np.arange(len(spectrum)) * sample_rate / samples, 60.0) / 60.0)
    tilt = 10 ** (-rng.uniform(0.0, 12.0) * octaves / 20)
    shape = tilt * smooth_response(rng, len(spectrum), 12.0, sample_rate)
    return np.fft.irfft(spectrum * shape, samples).astype(np.float32)


def modulated_noise(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """:func:`shaped_noise` with a varying level: ``(samples,)``."""
    return shaped_noise(rng, samples, sample_rate) * _modulation(rng, samples, sample_rate)


def tones(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Up to eight harmonics of a tone that varies by a few percent or glides like a siren: ``(samples,)``."""
    lowest = 60.0 * 2 ** rng.uniform(0.0, 5.0)
    points = rng.uniform(-1.0, 1.0, max(2, 4 * samples // sample_rate + 2)) * rng.choice([0.03, 0.4])
    bend = 2.0 ** np.interp(np.linspace(0, len(points) - 1, samples), np.arange(len(points)), points)
    phase = np.cumsum(lowest * bend) * (2 * np.pi / sample_rate)
    highest = int(min(8, sample_rate / 2 / (lowest * 1.4)))
    sounds = np.zeros(samples, dtype=np.float32)
    for harmonic in range(1, max(1, int(rng.integers(1, highest + 1))) + 1):
        gain = 10 ** (rng.uniform(-20.0, 0.0) / 20)
        sounds += (gain * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))).astype(np.float32)
    return sounds * _modulation(rng, samples, sample_rate) if rng.random() < 0.5 else sounds


def impulses(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Bursts of :func:`shaped_noise` that decay in 5 to 300 ms, 1 to 12 per second: ``(samples,)``."""
    noise = shaped_noise(rng, samples, sample_rate)
    time = np.arange(len(noise)) / sample_rate
    decay, envelope = 0.005 * 60 ** rng.random(), np.zeros(len(noise), dtype=np.float32)
    count = max(1, rng.poisson(rng.uniform(1.0, 12.0) * len(noise) / sample_rate))
    for first in rng.integers(0, len(noise), count):
        burst = np.exp(-(time[: len(noise) - first]) / decay) * rng.uniform(0.2, 1.0)
        envelope[first:] += burst.astype(np.float32)
    return noise * envelope


def struck(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Struck objects: bells, clocks, steps, keys, drops, rain, crackling: ``(samples,)``.

    An object has 1 to 12 modes between 80 Hz and 7 kHz that decay in 2 ms to 2 s. It is struck 0.5 to 200 times per
    second, at regular or random times. The strokes differ a little, or much for drops.
    """
    lowest = 80.0 * 2 ** rng.uniform(0.0, 5.5)
    ratios = np.concatenate([[1.0], 1.0 + rng.exponential(1.5, int(rng.integers(12)))])
    longest = 0.002 * 1000 ** rng.random()
    decays = longest * ratios ** -rng.uniform(0.0, 1.5) * 2.0 ** rng.uniform(-1.0, 1.0, len(ratios))
    gains = 10 ** (rng.uniform(-24.0, 0.0, len(ratios)) / 20)
    detune = rng.choice([0.005, 0.1, 0.7])
    times = event_times(rng, 0.5 * 400 ** rng.random(), samples / sample_rate)
    strengths = 10 ** (rng.uniform(-1.0, 0.0, len(times)) * rng.uniform(0.0, 24.0) / 20)
    which = rng.integers(_VARIANTS, size=len(times))
    spectrum = np.zeros(samples // 2 + 1, dtype=np.complex64)
    for variant in range(_VARIANTS):
        pitch = lowest * ratios * 2.0 ** rng.normal(0.0, detune, 1 if detune > 0.5 else len(ratios))
        ring = ringing(rng, pitch, decays, gains, samples, sample_rate)
        hits = np.zeros(samples, dtype=np.float32)
        np.add.at(hits, (times[which == variant] * sample_rate).astype(int), strengths[which == variant])
        spectrum += np.fft.rfft(hits) * np.fft.rfft(ring, samples)
    # Circular convolution: the decay after the end falls on the start.
    return np.fft.irfft(spectrum, samples).astype(np.float32)


def ringing(
    rng: np.random.Generator,
    pitch: NDArray[np.float64],
    decays: NDArray[np.float64],
    gains: NDArray[np.float64],
    samples: int,
    sample_rate: int,
) -> Samples:
    """One stroke: modes with ``pitch`` in hertz that decay by 1/e in ``decays`` seconds, and a click of 3 ms."""
    ring = np.zeros(samples, dtype=np.float32)
    for frequency, decay, gain in zip(pitch, decays, gains, strict=True):
        if frequency < 0.45 * sample_rate:
            length = min(samples, int(6.0 * decay * sample_rate) + 1)
            time = np.arange(length, dtype=np.float32) / np.float32(sample_rate)
            wave = np.sin(np.float32(2 * np.pi * frequency) * time + np.float32(rng.uniform(0, 2 * np.pi)))
            ring[:length] += np.float32(gain) * np.exp(time * np.float32(-1 / decay)) * wave
    length = min(samples, int(0.02 * sample_rate))
    click = np.exp(-np.arange(length) / (0.003 * sample_rate)) * rng.standard_normal(length)
    ring[:length] += (10 ** (rng.uniform(-30.0, 6.0) / 20) * click).astype(np.float32)
    return ring


def calls(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Harmonic calls with glides, trills and pauses: birds, dogs, horns, insects, infants: ``(samples,)``."""
    seconds = samples / sample_rate
    pitch = 150.0 * 2 ** rng.uniform(0.0, 5.0)
    call, pause = 0.03 * 50 ** rng.random(), 0.02 * 60 ** rng.random()
    onsets = np.cumsum(call + pause * rng.uniform(0.2, 1.8, int(1.2 * seconds / (call + 0.2 * pause)) + 2))
    onsets -= onsets[0] + rng.uniform(0.0, 1.0) * (call + pause)
    if not np.any((onsets > -call) & (onsets < seconds)):
        onsets -= onsets[0] + call / 2  # The crop is shorter than the pause.
    # Pitch and loudness are interpolated between five points per call. The loudness is 0 at both ends.
    places = (onsets[:, None] + call * np.array([0.0, 0.15, 0.5, 0.85, 1.0])).ravel()
    shape = rng.uniform(-1.0, 1.0, 5) * rng.choice([0.05, 0.3, 0.8])
    vary = rng.uniform(0.0, 0.15)
    bends = shape + rng.normal(0.0, vary, (len(onsets), 1)) + rng.normal(0.0, vary / 3, (len(onsets), 5))
    loud = np.array([0.0, 1.0, rng.uniform(0.4, 1.0), rng.uniform(0.2, 1.0), 0.0])
    loudness = 10 ** (rng.uniform(-12.0, 0.0, (len(onsets), 1)) / 20) * loud
    time = np.arange(samples) / sample_rate
    track = pitch * 2.0 ** np.interp(time, places, bends.ravel())
    gains = np.interp(time, places, loudness.ravel())
    if rng.random() < 0.4:
        trill = rng.uniform(8.0, 70.0)
        gains = gains * (1.0 + rng.uniform(0.3, 1.0) * np.sin(2 * np.pi * trill * time)) / 2
    phase = 2 * np.pi * np.cumsum(track) / sample_rate
    sound = pulse_train(rng, phase, track.max(), sample_rate, most=40)
    breath = rng.standard_normal(samples, dtype=np.float32) * np.float32(10 ** (rng.uniform(-40.0, 0.0) / 20))
    return _coloured(rng, (sound + breath) * gains.astype(np.float32), sample_rate)


def engines(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Pulses of an engine, rotor or saw with varying speed, and noise in their rhythm: ``(samples,)``."""
    speed = 8.0 * 2 ** rng.uniform(0.0, 5.0)
    count = max(2, int(samples / sample_rate * rng.uniform(0.2, 4.0)) + 2)
    wander = np.interp(np.linspace(0, count - 1, samples), np.arange(count), rng.uniform(-1.0, 1.0, count))
    track = speed * 2.0 ** (wander * rng.choice([0.01, 0.08, 0.5]))
    phase = 2 * np.pi * np.cumsum(track) / sample_rate
    pulses = pulse_train(rng, phase, track.max(), sample_rate, most=80)
    # Cylinders differ, so a pattern of a few pulses repeats.
    cylinders = 10 ** (rng.uniform(-10.0, 0.0, int(rng.integers(1, 9))) / 20)
    turn = (phase / (2 * np.pi) + 0.5).astype(int)
    pulses *= cylinders[turn % len(cylinders)].astype(np.float32)
    rhythm = (0.5 + 0.5 * np.cos(phase)) ** rng.uniform(0.5, 8.0)
    noise = rng.standard_normal(samples, dtype=np.float32) * rhythm.astype(np.float32)
    return _coloured(rng, pulses + np.float32(10 ** (rng.uniform(-30.0, 10.0) / 20)) * noise, sample_rate)


def flowing(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Noise whose bands vary independently, like wind, water and crowds: ``(samples,)``."""
    white = rng.standard_normal(samples, dtype=np.float32)
    noise = in_bands(_coloured(rng, white, sample_rate), sample_rate)
    rates, depth = rng.uniform(0.5, 2.0) * 10 ** rng.uniform(0.0, 1.3, _BANDS), rng.uniform(6.0, 40.0)
    together = np.ones(samples, dtype=np.float32)
    if rng.random() < 0.5:
        together = _modulation(rng, samples, sample_rate)
    gains = [_varying_gains(rng, samples, sample_rate, float(rate), depth) for rate in rates]
    mixed: Samples = together * np.sum(noise * np.stack(gains), axis=0)
    return mixed


def crossed(sound: Samples, rhythm: Samples, sample_rate: int) -> Samples:
    """The noise ``sound`` ``(samples,)`` with the level of the noise ``rhythm`` over time in each band."""
    window = max(1, int(0.016 * sample_rate))
    noise = np.zeros_like(sound)
    # Empty bands of the sound are not amplified.
    least = np.float32(1e-3 * np.sqrt(np.mean(np.square(sound))) + 1e-9)
    for band, other in zip(in_bands(sound, sample_rate), in_bands(rhythm, sample_rate), strict=True):
        noise += band * slow_envelope(other, window) / (slow_envelope(band, window) + least)
    return noise


def in_bands(noise: Samples, sample_rate: int) -> Samples:
    """Six bands ``(6, samples)``, uniform over the logarithm of frequency from 100 Hz. Their sum is the noise."""
    spectrum = np.fft.rfft(noise)
    place = np.log2(np.maximum(np.linspace(0.0, sample_rate / 2, len(spectrum)), 100.0) / 100.0)
    place *= (_BANDS - 1) / place[-1]
    shares = np.maximum(0.0, 1.0 - np.abs(place - np.arange(_BANDS)[:, None])).astype(np.float32)
    return np.fft.irfft(spectrum * shares, len(noise)).astype(np.float32)


def event_times(rng: np.random.Generator, rate: float, seconds: float) -> NDArray[np.float64]:
    """Times of events in seconds, about ``rate`` per second: nearly regular, or random."""
    if rng.random() < 0.5:
        count = int(seconds * rate) + 1
        times = (np.arange(count) + rng.random() + rng.normal(0.0, rng.choice([0.01, 0.15]), count)) / rate
    else:
        times = rng.uniform(0.0, seconds, max(1, rng.poisson(seconds * rate)))
    times = times[(times >= 0) & (times < seconds - 1e-3)]
    return times if len(times) else np.zeros(1)


def pulse_train(
    rng: np.random.Generator, phase: NDArray[np.float64], highest: float, sample_rate: int, most: int
) -> Samples:
    """A sum of equally strong harmonics of ``phase``: at most ``most``, all below half the sample rate."""
    count = int(rng.integers(1, int(np.clip(0.45 * sample_rate / highest, 1, most)) + 1))
    # Lagrange's identity for the sum of cosines. At the peaks, the sum is their number.
    below = np.sin(phase / 2)
    peaks = np.abs(below) < 1e-6
    ratio = np.sin((2 * count + 1) * phase / 2) / np.where(peaks, 1.0, below)
    pulses: Samples = np.where(peaks, count, (ratio - 1.0) / 2).astype(np.float32) / np.float32(
        np.sqrt(count)
    )
    return pulses


def _coloured(rng: np.random.Generator, sound: Samples, sample_rate: int) -> Samples:
    """``sound`` through a resonant body: +-20 dB, and a slope of 0 to -6 dB per octave."""
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.linspace(0.0, sample_rate / 2, len(spectrum)), 60.0) / 60.0)
    tilt = (10 ** (-rng.uniform(0.0, 6.0) * octaves / 20)).astype(np.float32)
    shape = tilt * smooth_response(rng, len(spectrum), 20.0, sample_rate)
    return np.fft.irfft(spectrum * shape, len(sound)).astype(np.float32)


def _modulation(rng: np.random.Generator, samples: int, sample_rate: int) -> Samples:
    """Random gains ``(samples,)`` between 0 and -25 dB that change 1 to 10 times per second."""
    return _varying_gains(rng, samples, sample_rate, rng.uniform(1.0, 10.0), 25.0)


def _varying_gains(
    rng: np.random.Generator, samples: int, sample_rate: int, rate: float, depth: float
) -> Samples:
    """Random gains ``(samples,)`` between 0 and -``depth`` dB that change ``rate`` times per second."""
    count = max(2, int(samples / sample_rate * rate) + 2)
    decibels = rng.uniform(-depth, 0.0, count)
    gains = 10 ** (np.interp(np.linspace(0, count - 1, samples), np.arange(count), decibels) / 20)
    return gains.astype(np.float32)


def slow_envelope(band: Samples, window: int) -> Samples:
    """Moving average of the magnitude over ``window`` samples."""
    padded = np.pad(np.abs(band), (window // 2 + 1, window - 1 - window // 2))
    total = np.cumsum(padded, dtype=np.float64)
    averages: Samples = ((total[window:] - total[:-window]) / window).astype(np.float32)
    return averages
