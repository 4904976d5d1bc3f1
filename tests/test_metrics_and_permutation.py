from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive
from unmingle.metrics import magnitude_snr, si_sdr
from unmingle.permutation import best_permutation, pairwise_si_sdr


@pytest.mark.parametrize("decibels", [-20.0, 0.0, 13.5, 40.0])
def test_si_sdr_of_orthogonal_noise_is_the_level_difference(decibels: float) -> None:
    time = torch.arange(8000) / 8000
    reference, noise = torch.sin(2 * math.pi * 100 * time), torch.sin(2 * math.pi * 250 * time)
    score = si_sdr(reference + 10 ** (-decibels / 20) * noise, reference)
    assert float(score) == pytest.approx(decibels, abs=0.01)


@given(st.floats(1e-3, 1e3), st.floats(-1, 1))
def test_si_sdr_ignores_gain_and_offset(gain: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(500, generator=generator, dtype=torch.float64)
    estimate = reference + torch.randn(500, generator=generator, dtype=torch.float64)
    expected = float(si_sdr(estimate, reference))
    assert float(si_sdr(gain * estimate + offset, reference)) == pytest.approx(expected, abs=1e-6)


def test_si_sdr_of_silence_and_perfection_is_finite() -> None:
    signal = torch.randn(100)
    assert float(si_sdr(torch.zeros(100), signal)) == -100
    assert float(si_sdr(signal, torch.zeros(100))) == -100
    assert float(si_sdr(signal, signal)) == 100


def test_best_permutation_tries_all() -> None:
    pairwise = torch.randn(5, 3, 3)
    best, order = best_permutation(pairwise)
    for b in range(5):
        scores = {p: sum(float(pairwise[b, i, p[i]]) for i in range(3)) / 3 for p in permutations(range(3))}
        winner = max(scores, key=lambda p: scores[p])
        assert tuple(order[b].tolist()) == winner
        assert float(best[b]) == pytest.approx(scores[winner], abs=1e-6)


def test_permuted_estimates_score_the_same_and_come_back_in_order() -> None:
    references = torch.randn(2, 3, 400)
    estimates = references + 0.1 * torch.randn(2, 3, 400)
    shuffled = estimates[:, [2, 0, 1]]
    straight, _ = best_permutation(pairwise_si_sdr(estimates, references))
    score, order = best_permutation(pairwise_si_sdr(shuffled, references))
    torch.testing.assert_close(score, straight)
    torch.testing.assert_close(torch.stack([shuffled[b, order[b]] for b in range(2)]), estimates)


def _naive_si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    e, s = estimate - estimate.mean(), reference - reference.mean()
    target = (e @ s) / (s @ s) * s
    return float(10 * np.log10((target @ target) / ((target - e) @ (target - e))))


def test_si_sdr_follows_its_equation_and_its_limits() -> None:
    rng = np.random.default_rng(0)
    references = rng.standard_normal((2, 3, 400)) + 2.0
    estimates = (
        0.3 * references + rng.standard_normal((2, 3, 400)) * np.array([0.01, 0.2, 3.0])[:, None] - 5.0
    )
    found = si_sdr(torch.tensor(estimates), torch.tensor(references))
    for b in range(2):
        for k in range(3):
            expected = _naive_si_sdr(estimates[b, k], references[b, k])
            assert float(found[b, k]) == pytest.approx(expected, abs=1e-6)
    wave = torch.tensor(references[0, :1])
    other = torch.tensor(rng.standard_normal((1, 400)))
    orthogonal = (
        other
        - other.mean()
        - (other @ (wave - wave.mean()).T) / (wave - wave.mean()).square().sum() * (wave - wave.mean())
    )
    assert float(si_sdr(3 * wave, wave)) == 100.0
    assert float(si_sdr(orthogonal, wave)) == -100.0
    assert float(si_sdr(0 * wave, wave)) == -100.0
    assert float(si_sdr(wave, 0 * wave)) == -100.0
    # Quiet signals are not silent.
    assert float(
        si_sdr(1e-5 * torch.tensor(estimates[0, 1]), 1e-5 * torch.tensor(references[0, 1]))
    ) == pytest.approx(_naive_si_sdr(estimates[0, 1], references[0, 1]), abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_magnitude_snr_follows_its_equation_and_its_limits(rate: int) -> None:
    rng = np.random.default_rng(1)
    reference = rng.standard_normal(3000)
    estimate = 0.8 * reference + 0.1 * rng.standard_normal(3000)
    hop = rate // 125
    wanted, found = (np.abs(naive.stft(audio, 4 * hop, hop)) for audio in (reference, estimate))
    expected = 10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum())
    first, second = torch.tensor(estimate, dtype=torch.float32), torch.tensor(reference, dtype=torch.float32)
    assert float(magnitude_snr(first, second, rate)) == pytest.approx(expected, abs=1e-3)
    assert float(magnitude_snr(second, second, rate)) == 100.0
    assert float(magnitude_snr(first, 0 * second, rate)) == -100.0
    assert float(magnitude_snr(1e8 * first, 1e-4 * second, rate)) == -100.0
    assert float(magnitude_snr(1e-4 * first, 1e-4 * second, rate)) == pytest.approx(expected, abs=1e-3)
