"""Speakers are counted without the noise around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unmingle.audio import Samples, resample
from unmingle.denoising.enhancer import load_denoiser
from unmingle.models import COUNTING_DENOISER, load_system
from unmingle.separation.cleaned_energy import CleanedEnergy, cleaned_energy, removed_noise
from unmingle.separation.fine_masks import FineMasks, Masked
from unmingle.separation.offline import load
from unmingle.systems import MaskingSystem

RATE = 8000
MODEL = "adanet-2speakers-8khz"
"""Its counts of these examples are right and not near the threshold."""


def _noisy(voice: Samples, snr: float) -> Samples:
    noise = np.random.default_rng(0).standard_normal(len(voice))
    noise *= np.sqrt(np.square(voice).mean() / np.square(noise).mean()) * 10 ** (-snr / 20)
    return (voice + noise).astype(np.float32)


def _estimates(fine: FineMasks, found: Masked, samples: int) -> Samples:
    return fine.stft.synthesise(found.masks * found.spectrum, samples).numpy()


@pytest.mark.parametrize(("who", "snr"), [(0, 20.0), (1, 10.0)])
def test_one_speaker_in_noise_is_counted_as_one(example_sources: Samples, who: int, snr: float) -> None:
    """Without the denoiser, noise and the speaker's own voice are in the second estimate."""
    voice, separator = resample(example_sources[who], 16000, RATE), load(MODEL)
    assert len(separator.separate(_noisy(voice, snr), RATE, "auto").estimates) == 1
    assert int(separator.system.separate(torch.from_numpy(_noisy(voice, snr))[None]).count[0]) == 2


def test_two_speakers_in_noise_are_counted_as_two(example_sources: Samples) -> None:
    mixture = resample(example_sources.sum(axis=0), 16000, RATE)
    assert len(load(MODEL).separate(_noisy(mixture, 10.0), RATE, "auto").estimates) == 2


@pytest.mark.parametrize(
    ("model", "scale"),
    [("adanet-2speakers-8khz", 1.0), ("adanet-2speakers-8khz", 1e-4), ("separator-8khz", 1.0)],
)
def test_energies_come_in_the_order_of_the_masks(example_sources: Samples, model: str, scale: float) -> None:
    system, denoiser = load_system(model), load_denoiser(COUNTING_DENOISER)
    assert isinstance(system, MaskingSystem)
    mixture = resample(example_sources, 16000, RATE).sum(axis=0)
    fine, scaled = FineMasks(system), np.float32(scale) * mixture
    found = fine.of(torch.from_numpy(scaled), 2)
    estimates = _estimates(fine, found, len(mixture))
    one = cleaned_energy(fine, denoiser, scaled, found, estimates)
    flipped = replace(found, masks=found.masks.flip(0))
    other = cleaned_energy(fine, denoiser, scaled, flipped, estimates[::-1], 3.0)
    np.testing.assert_allclose(9 * one.sources, other.sources[:, ::-1], rtol=1e-5)
    assert other.mixture == pytest.approx(9 * np.square(scaled, dtype=np.float64).sum())
    # There is little noise, so the energies are those of the estimates.
    expected = (found.masks * found.spectrum).abs().square().sum(dim=(1, 2)).numpy()
    np.testing.assert_allclose(10 * np.log10(one.sources[0] / expected), 0.0, atol=1.0)
    np.testing.assert_allclose(10 * np.log10(one.sources[1] / expected), 0.0, atol=1.0)
    assert removed_noise([one]) > 15
    tiny = cleaned_energy(fine, denoiser, scaled, found, estimates, 1e-20)
    np.testing.assert_allclose(tiny.sources, 1e-40 * one.sources, rtol=1e-5)
    assert removed_noise([other]) == pytest.approx(removed_noise([one]))


def test_the_noise_that_was_removed_is_told_to_a_few_db(example_sources: Samples) -> None:
    system, denoiser = load_system(MODEL), load_denoiser(COUNTING_DENOISER)
    assert isinstance(system, MaskingSystem)
    fine, mixture = FineMasks(system), resample(example_sources.sum(axis=0), 16000, RATE)
    for snr in (0.0, 10.0):
        noisy = _noisy(mixture, snr)
        found = fine.of(torch.from_numpy(noisy), 2)
        energy = cleaned_energy(fine, denoiser, noisy, found, _estimates(fine, found, len(noisy)))
        assert removed_noise([energy]) == pytest.approx(10 * np.log10(1 + 10 ** (snr / 10)), abs=2.0)


def test_over_a_recording_energies_are_summed_and_silence_has_no_noise() -> None:
    sources = np.ones((2, 2))
    loud, quiet = CleanedEnergy(sources, 90.0, 1.0), CleanedEnergy(sources, 10.0, 9.0)
    assert removed_noise([loud, quiet]) == pytest.approx(10.0)
    assert removed_noise([CleanedEnergy(sources, 1.0, 0.0)]) == pytest.approx(100.0)
    assert removed_noise([CleanedEnergy(0 * sources, 0.0, 0.0)]) == pytest.approx(0.0)


def test_each_estimate_is_cleaned_alone(example_sources: Samples) -> None:
    """Speech is kept and noise is not, whatever the other estimate is."""
    system, denoiser = load_system(MODEL), load_denoiser(COUNTING_DENOISER)
    assert isinstance(system, MaskingSystem)
    fine, voice = FineMasks(system), resample(example_sources[0], 16000, RATE)
    noise = _noisy(0 * voice + 0.1, 0.0) - 0.1
    found = fine.of(torch.from_numpy(voice + noise), 2)
    for order in ([0, 1], [1, 0]):
        estimates = np.stack([voice, noise])[order]
        before = fine.stft.analyse(torch.from_numpy(estimates)).abs().square().sum(dim=(1, 2)).numpy()
        cleaned = cleaned_energy(fine, denoiser, voice + noise, found, estimates).sources[1]
        of_voice, of_noise = 10 * np.log10(cleaned / before)[order]
        assert of_voice > -1
        assert of_noise < -15
