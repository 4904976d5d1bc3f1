from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmingle.metrics import si_sdr
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
