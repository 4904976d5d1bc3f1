"""Formants move by the factor; pitch, energy and time stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from unmingle.audio import Samples
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.formants import move_formants
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig

_RATE = 8000
_PITCH, _FORMANTS = 100, (600.0, 1500.0)


def _vowel(seconds: float = 1.0) -> Samples:
    """Pulses through two resonances with a bandwidth of 120 Hz."""
    audio = np.zeros(round(seconds * _RATE))
    audio[:: _RATE // _PITCH] = 1.0
    radius = np.exp(-np.pi * 120 / _RATE)
    for formant in _FORMANTS:
        audio = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * formant / _RATE), radius**2], audio)
    return (0.1 * audio / np.abs(audio).max()).astype(np.float32)


def _loudest_harmonic(audio: Samples, low: float, high: float) -> float:
    """Frequency of the loudest harmonic between two frequencies, between its neighbours by a parabola."""
    spectrum = np.abs(np.fft.rfft(audio[1000:-1000] * np.hanning(len(audio) - 2000)))
    step = (len(audio) - 2000) / _RATE
    harmonics = np.arange(_PITCH, _RATE / 2, _PITCH)
    levels = np.log([spectrum[round(h * step) - 2 : round(h * step) + 3].max() for h in harmonics])
    inside = [k for k, h in enumerate(harmonics) if low <= h <= high]
    best = max(inside, key=lambda k: levels[k])
    left, peak, right = levels[best - 1 : best + 2]
    return float(harmonics[best] + _PITCH * 0.5 * (left - right) / (left - 2 * peak + right))


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_the_formants_of_a_vowel_move_by_the_factor(factor: float) -> None:
    moved = move_formants(_vowel(), factor, _RATE)
    for formant in _FORMANTS:
        assert _loudest_harmonic(_vowel(), formant - 250, formant + 250) == pytest.approx(formant, rel=0.04)
        wanted = formant * factor
        assert _loudest_harmonic(moved, wanted - 250, wanted + 250) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_pitch_and_energy_stay(factor: float) -> None:
    vowel = _vowel()
    moved = move_formants(vowel, factor, _RATE)
    assert moved.shape == vowel.shape
    assert moved.dtype == np.float32
    assert np.square(moved).sum() == pytest.approx(np.square(vowel).sum(), rel=1e-4)
    period = _RATE // _PITCH
    inside = moved[1000:-1000]
    likeness = [float(np.corrcoef(inside[:-lag], inside[lag:])[0, 1]) for lag in range(40, 121)]
    assert 40 + int(np.argmax(likeness)) == period
    assert max(likeness) > 0.99


def test_silence_and_a_factor_of_one_change_nothing() -> None:
    vowel, silence = _vowel(), np.zeros(4000, dtype=np.float32)
    np.testing.assert_array_equal(move_formants(vowel, 1.0, _RATE), vowel)
    np.testing.assert_array_equal(move_formants(silence, 1.2, _RATE), silence)


def _mixer(corpus: Path, **changes: object) -> Mixer:
    utterances = read_corpora([corpus], "train")
    return Mixer(utterances, decode(utterances, _RATE), _RATE, MixingConfig.model_validate(changes), seed=3)


def test_every_speaker_of_a_crop_has_formants_of_its_own(example_corpus: Path) -> None:
    moving = _mixer(example_corpus, formants=(0.8, 1.25), conversation={"share": 0.5})
    factors = np.array([[voice.formants for voice in moving.crop(k, 8000).voices] for k in range(100)])
    assert ((factors >= 0.8) & (factors <= 1.25)).all()
    assert (factors[:, 0] != factors[:, 1]).all()
    # As often below 1 as above.
    assert abs(np.log(factors).mean()) < 0.03
    assert moving.whole(0, "min").voices[0].formants == 1.0


def test_only_the_formants_of_the_sources_change(example_corpus: Path) -> None:
    plain, same = _mixer(example_corpus), _mixer(example_corpus, formants=(1.0, 1.0))
    np.testing.assert_array_equal(plain.example(0, 8000).sources, same.example(0, 8000).sources)
    fixed = _mixer(example_corpus, formants=(1.2, 1.2)).example(0, 8000).sources
    # The same speech at the same levels, but other samples.
    before, after = plain.example(0, 8000).sources, fixed
    assert np.abs(before - after).max() > 0.01
    for one, other in zip(before, after, strict=True):
        assert np.square(other).sum() == pytest.approx(np.square(one).sum(), rel=0.3)


@pytest.mark.parametrize(("name", "values"), [("formants", [0.4, 1.0]), ("speed", [1.0, 2.5])])
def test_ranges_beyond_half_and_double_are_refused(name: str, values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie between 0.5 and 2"):
        MixingConfig.model_validate({name: values})
