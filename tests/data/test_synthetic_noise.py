"""Synthetic noise: what each kind is by its definition, and that no draw is silent or breaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unmingle.audio import Samples
from unmingle.data.noise import noise_level
from unmingle.data.synthetic_music import SCALES, music
from unmingle.data.synthetic_noise import (
    calls,
    crossed,
    engines,
    event_times,
    flowing,
    impulses,
    in_bands,
    modulated_noise,
    pulse_train,
    ringing,
    shaped_noise,
    slow_envelope,
    struck,
    tones,
)

RATE = 8000
KINDS = (shaped_noise, modulated_noise, tones, impulses, struck, calls, engines, flowing, music)


@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_sounds_is_finite_and_is_another(
    kind: Callable[[np.random.Generator, int, int], Samples],
) -> None:
    for samples in (100, 801, 6 * RATE):
        drawn = [kind(np.random.default_rng(seed), samples, RATE) for seed in range(25)]
        again = kind(np.random.default_rng(3), samples, RATE)
        np.testing.assert_array_equal(again, drawn[3])
        for noise in drawn:
            assert (noise.shape, noise.dtype) == ((samples,), np.float32)
            assert np.isfinite(noise).all()
            assert noise_level(noise) > 1e-6
        assert max(abs(np.corrcoef(drawn[0], other)[0, 1]) for other in drawn[1:]) < 0.9


def test_what_is_struck_rings_at_its_modes_and_decays_as_said() -> None:
    # So loud that the click is nothing beside it.
    rings = ringing(
        np.random.default_rng(0),
        np.array([500.0, 1800.0]),
        np.array([0.2, 0.05]),
        np.array([1e5, 1e5]),
        RATE,
        RATE,
    )
    power = np.abs(np.fft.rfft(rings)) ** 2
    assert power[480:521].sum() + power[1740:1861].sum() > 0.95 * power.sum()
    first, second = (
        noise_level(rings[RATE // 10 * 3 : RATE // 10 * 4]),
        noise_level(rings[RATE // 10 * 5 : RATE // 10 * 6]),
    )
    assert first / second == pytest.approx(np.exp(0.2 / 0.2), rel=0.02)


def test_a_mode_above_what_the_rate_holds_does_not_come_back_as_another() -> None:
    rings = ringing(
        np.random.default_rng(0), np.array([5000.0]), np.array([0.2]), np.array([1e5]), RATE, RATE
    )
    assert noise_level(rings) < 1.0


def test_pulses_are_a_sum_of_cosines() -> None:
    phase = 2 * np.pi * np.cumsum(np.linspace(90.0, 110.0, 2000)) / RATE
    for seed in range(5):
        count = int(np.random.default_rng(seed).integers(1, 21))
        slow = sum(np.cos(harmonic * phase) for harmonic in range(1, count + 1)) / np.sqrt(count)
        fast = pulse_train(np.random.default_rng(seed), phase, 110.0, RATE, most=20)
        np.testing.assert_allclose(fast, slow, atol=1e-3)


def test_events_come_about_as_often_as_was_asked_and_never_outside() -> None:
    counts = []
    for seed in range(60):
        times = event_times(np.random.default_rng(seed), 5.0, 4.0)
        assert times.min() >= 0.0
        assert times.max() < 4.0
        counts.append(len(times))
    assert np.mean(counts) == pytest.approx(20.0, rel=0.1)
    assert len(event_times(np.random.default_rng(0), 0.5, 0.01)) >= 1


def test_bands_are_parts_of_the_noise_that_lie_side_by_side() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    np.testing.assert_allclose(in_bands(noise, RATE).sum(axis=0), noise, atol=1e-5)
    tone = np.sin(2 * np.pi * 200.0 * np.arange(RATE) / RATE).astype(np.float32)
    shares = np.square(in_bands(tone, RATE)).sum(axis=1)
    assert np.flatnonzero(shares > 1e-6 * shares.sum()).tolist() == [0, 1]


def test_what_flows_moves_each_band_on_its_own_and_modulated_noise_all_alike() -> None:
    def alike(kind: Callable[[np.random.Generator, int, int], Samples]) -> float:
        found = []
        for seed in range(20):
            low, *_, high = in_bands(kind(np.random.default_rng(seed), 6 * RATE, RATE), RATE)
            envelopes = [slow_envelope(band, RATE // 10)[:: RATE // 20] for band in (low, high)]
            found.append(np.corrcoef(*(np.log(envelope + 1e-6) for envelope in envelopes))[0, 1])
        return float(np.mean(found))

    assert alike(flowing) < 0.55
    assert alike(modulated_noise) > 0.8


def test_calls_have_pauses() -> None:
    ratios = []
    for seed in range(30):
        envelope = slow_envelope(calls(np.random.default_rng(seed), 6 * RATE, RATE), RATE // 100)
        ratios.append(envelope.min() / envelope.max())
    assert np.median(ratios) < 1e-2


def test_an_envelope_is_the_average_magnitude_around_each_sample() -> None:
    band = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    for window in (1, 4, 5):
        before = window // 2
        padded = np.pad(np.abs(band), (before, window))
        slow = [padded[k : k + window].mean() for k in range(50)]
        np.testing.assert_allclose(slow_envelope(band, window), slow, atol=1e-5)


def test_crossed_noise_has_the_sound_of_one_and_the_rhythm_of_the_other() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    sound = np.sin(2 * np.pi * 700.0 * time).astype(np.float32)
    loud = (time % 0.5 < 0.25).astype(np.float32)
    noise = crossed(sound, rng.standard_normal(2 * RATE).astype(np.float32) * loud, RATE)
    # Away from the steps, which the bands' envelopes smear by their window.
    inside = (time % 0.25 > 0.05) & (time % 0.25 < 0.2)
    assert noise_level(noise[inside & (loud == 0)]) < 0.05 * noise_level(noise[inside & (loud == 1)])
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[1000:1800].sum() > 0.8 * power.sum()


def test_nothing_crossed_with_something_stays_nothing() -> None:
    silence, noise = np.zeros(RATE, dtype=np.float32), np.ones(RATE, dtype=np.float32)
    assert noise_level(crossed(silence, noise, RATE)) == 0.0
    assert noise_level(crossed(noise, silence, RATE)) == 0.0


def test_music_repeats_its_bar_and_keeps_to_one_scale() -> None:
    rate, seconds = 4000, 40
    found = tuned = 0
    for seed in range(6):
        sound = music(np.random.default_rng(seed), seconds * rate, rate)
        power = np.abs(np.fft.rfft(np.square(sound) - np.mean(np.square(sound)))) ** 2
        repeats = np.fft.irfft(power)[: 9 * rate] / power.sum() * len(power) * 2
        # A bar lasts eight beats of 1/3 to 1 s.
        found += repeats[int(2.6 * rate) : int(8.1 * rate)].max() > 0.5 * repeats[0]
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
        loudest = np.argsort(spectrum)[::-1][:200] / seconds
        loudest = loudest[loudest > 150]
        semitones = 12 * np.log2(loudest / loudest[0])
        # Peaks lie a whole number of semitones apart; harmonics 5, 7 and 11 are a little off.
        tuned += np.median(np.abs(semitones - np.round(semitones))) < 0.1
    assert min(found, tuned) >= 5
    assert all(scale[0] == 0 and list(scale) == sorted(scale) for scale in SCALES)
