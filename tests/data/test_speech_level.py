"""Active speech levels, and speech at half its rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_levels import by_the_recommendation, decibels, halved_by_hand, level_by_hand
from unmingle.audio import Samples
from unmingle.data.speech_level import halve_rate, speech_level, wsj0_mix_level


def test_the_level_is_that_of_the_recommendation(example_sources: Samples) -> None:
    for source in example_sources:
        speech = source[8000:24000].astype(np.float64)
        assert abs(decibels(speech_level(speech, 16000) / by_the_recommendation(speech, 16000))) < 1e-6
        slow = halve_rate(speech)
        assert abs(decibels(wsj0_mix_level(slow) / level_by_hand(slow))) < 1e-3


@pytest.mark.parametrize("on", [1.0, 0.5])
def test_pauses_do_not_count(on: float) -> None:
    time = np.arange(30 * 8000) / 8000
    tone = 0.1 * np.sin(2 * np.pi * 1000 * time) * (time % 10 < 10 * on)
    rms = float(np.sqrt(np.mean(tone**2)))
    assert decibels(0.1 / math.sqrt(2) / rms) == pytest.approx(10 * math.log10(1 / on), abs=0.01)
    assert decibels(0.1 / math.sqrt(2) / speech_level(tone, 8000)) == pytest.approx(0, abs=0.3)
    assert decibels(0.1 / math.sqrt(2) / wsj0_mix_level(tone)) == pytest.approx(0, abs=0.3)


@given(st.floats(1e-4, 1e4), st.integers(-12, 12))
def test_the_level_follows_the_gain(gain: float, power: int) -> None:
    speech = np.random.default_rng(0).standard_normal(8000) * np.sin(np.arange(8000) / 900) ** 8
    for level in (lambda samples: speech_level(samples, 8000), wsj0_mix_level):
        assert level(2.0**power * speech) == pytest.approx(2.0**power * level(speech), rel=1e-12)
        assert abs(decibels(level(gain * speech) / gain / level(speech))) < 0.3


def test_silence_clicks_and_a_few_samples() -> None:
    for samples in (np.zeros(0), np.zeros(5), np.zeros(9000)):
        assert speech_level(samples, 8000) == 0.0
        assert wsj0_mix_level(samples) == 0.0
    for length in (1, 3, 100, 1600):
        assert speech_level(np.full(length, 0.5, dtype=np.float32), 8000) == pytest.approx(0.5, rel=0.1)
    click = np.zeros(8000)
    click[4000] = 1.0
    assert speech_level(click, 8000) == pytest.approx(1 / math.sqrt(4000))


def test_halving_is_a_windowed_sinc(example_sources: Samples) -> None:
    for length in (1, 7, 4000, 4001):
        samples = example_sources[0, 9000 : 9000 + length].astype(np.float64)
        np.testing.assert_allclose(halve_rate(samples), halved_by_hand(samples), atol=1e-12)
