"""Microphones: what they do to a crop, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from unmingle.audio import active_level
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.microphones import KNOWN, MicrophoneConfig, apply_response, draw_response, known_response
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseConfig, NoiseMaker, noise_level

RATE = 8000


def _mixer(corpus: Path, recordings: Path | None = None, seed: int = 0, **changes: object) -> Mixer:
    utterances = read_corpora([corpus], "train")
    speech = decode(utterances, RATE)
    config = MixingConfig.model_validate(changes)
    maker = None
    if recordings is not None and config.noise is not None:
        found = read_noise([recordings], "train")
        maker = NoiseMaker(found, decode(found, RATE), speech, RATE, config.noise)
    return Mixer(utterances, speech, RATE, config, seed, maker)


def _band_db(audio: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    frequency = np.fft.rfftfreq(len(audio), 1 / RATE)
    return float(10 * np.log10(power[(frequency >= low) & (frequency < high)].sum() + 1e-12))


def test_a_band_is_cut_at_both_ends_and_the_middle_stays() -> None:
    config = MicrophoneConfig(share=1.0, response_db=0.0, low_cut=(400, 400), high_cut=(2000, 2000))
    noise = np.random.default_rng(0).standard_normal(8 * RATE).astype(np.float32)
    for seed in range(10):
        response = draw_response(np.random.default_rng(seed), config, len(noise), RATE)
        assert response is not None
        heard = apply_response(response, noise)
        # 3 dB at the edges, at least 6 dB an octave beyond them.
        for edge in (400, 2000):
            assert 20 * np.log10(response[round(edge * 8)]) == pytest.approx(-3.0, abs=0.6)
        assert _band_db(heard, 50, 100) < _band_db(noise, 50, 100) - 11
        assert _band_db(heard, 3900, 4000) < _band_db(noise, 3900, 4000) - 5
        assert _band_db(heard, 850, 950) > _band_db(noise, 850, 950) - 2


def test_a_response_stays_within_its_decibels_and_delays_nothing() -> None:
    config = MicrophoneConfig(share=1.0, response_db=6.0, low_cut=(20, 20), high_cut=(8000, 8000))
    click = np.zeros(4000, dtype=np.float32)
    click[1000] = 1.0
    for seed in range(10):
        response = draw_response(np.random.default_rng(seed), config, len(click), RATE)
        assert response is not None
        assert np.abs(20 * np.log10(response)).max() <= 6.0 + 1e-3
        assert np.abs(apply_response(response, click)).argmax() == 1000


@pytest.mark.parametrize("name", KNOWN)
def test_known_microphones_are_butterworth_filters(name: str) -> None:
    low, high, order = KNOWN[name]
    response = known_response(name, 2 * RATE, RATE)
    for hertz in (50, 299, 300, 1000, 1001, 2500, 3400, 3999):
        slow = 1.0
        if low:
            slow /= (1 + (low / hertz) ** (2 * order)) ** 0.5
        if high < np.inf:
            slow /= (1 + (hertz / high) ** (2 * order)) ** 0.5
        assert response[2 * hertz] == pytest.approx(slow, rel=1e-4)
    assert np.isfinite(response).all()


def test_the_share_is_the_share() -> None:
    config = MicrophoneConfig(share=0.3)
    drawn = [draw_response(np.random.default_rng(k), config, 100, RATE) for k in range(1000)]
    assert sum(response is not None for response in drawn) == pytest.approx(300, abs=60)


def test_speakers_and_noise_are_heard_through_one_microphone_at_the_planned_levels(
    example_corpus: Path, example_noise: Path
) -> None:
    microphone = {"share": 1.0, "response_db": 20.0, "low_cut": [300, 300], "high_cut": [1500, 1500]}
    levels = NoiseConfig(snr_levels=[5.0])
    plain = _mixer(example_corpus, example_noise, noise=levels)
    other = _mixer(example_corpus, example_noise, noise=levels, microphone=microphone)
    for k in range(4):
        before, after = plain.example(k, 2 * RATE), other.example(k, 2 * RATE)
        assert before.noise is not None
        assert after.noise is not None
        level = active_level(after.sources.sum(axis=0), RATE)
        assert 20 * np.log10(level / noise_level(after.noise)) == pytest.approx(after.snr, abs=0.1)
        assert after.snr == pytest.approx(before.snr, abs=0.1)
        np.testing.assert_allclose(after.mixture, after.sources.sum(axis=0) + after.noise, atol=1e-6)
        # One and the same filter: where both are loud, their transfer functions agree.
        frequency = np.fft.rfftfreq(2 * RATE, 1 / RATE)
        transfers, loud = [], (frequency > 400) & (frequency < 1200)
        for ours, theirs in ((after.noise, before.noise), (after.sources[0], before.sources[0])):
            above, below = np.abs(np.fft.rfft(ours)), np.abs(np.fft.rfft(theirs))
            loud &= below > np.median(below)
            transfers.append(above / below.clip(1e-9))
        ratio = transfers[0][loud] / transfers[1][loud]
        np.testing.assert_allclose(ratio / np.median(ratio), 1.0, rtol=0.02)
        assert np.ptp(20 * np.log10(transfers[0][loud])) > 10


def test_mixture_k_is_the_same_again_and_test_mixtures_never_are_changed(example_corpus: Path) -> None:
    plain = _mixer(example_corpus)
    first, second = (_mixer(example_corpus, microphone={"share": 0.5}) for _ in range(2))
    changed = []
    for k in range(12):
        mixture = first.example(k, RATE).mixture
        np.testing.assert_array_equal(mixture, second.example(k, RATE).mixture)
        changed.append(not np.array_equal(mixture, plain.example(k, RATE).mixture))
        whole = first.whole(k, "min")
        np.testing.assert_array_equal(first.realize(k, whole).mixture, plain.realize(k, whole).mixture)
    assert 0 < sum(changed) < 12


@pytest.mark.parametrize("changes", [{"low_cut": [900, 800]}, {"low_cut": [100, 3000]}, {"share": 0.0}])
def test_impossible_microphones_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MicrophoneConfig.model_validate(changes)
