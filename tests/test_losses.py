from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

import naive
from unmingle.losses import (
    affinity_loss,
    mask_error,
    pairwise_compressed_spectrum_error,
    pairwise_magnitude_error,
    pairwise_mask_error,
    pairwise_waveform_error,
    permutation_invariant,
    phase_sensitive_target,
)
from unmingle.metrics import si_sdr
from unmingle.stft import Stft


def test_mask_error_follows_equation_13() -> None:
    magnitude, masks, targets = torch.rand(2, 4, 3), torch.rand(2, 2, 4, 3), torch.rand(2, 2, 4, 3)
    for b in range(2):
        total = 0.0
        for c in range(2):
            for t in range(4):
                for f in range(3):
                    total += float(magnitude[b, t, f] * (masks[b, c, t, f] - targets[b, c, t, f])) ** 2
        assert float(mask_error(magnitude, masks, targets)[b]) == pytest.approx(total / (2 * 4 * 3), abs=1e-6)


def test_the_diagonal_of_the_pairwise_mask_error_is_the_mask_error() -> None:
    magnitude, masks, targets = torch.rand(2, 4, 3), torch.rand(2, 3, 4, 3), torch.rand(2, 3, 4, 3)
    pairwise = pairwise_mask_error(magnitude, masks, targets)
    torch.testing.assert_close(
        pairwise.diagonal(dim1=1, dim2=2).mean(dim=1), mask_error(magnitude, masks, targets)
    )
    swapped = pairwise_mask_error(magnitude, masks.flip(1), targets)
    torch.testing.assert_close(swapped, pairwise.flip(2))


def test_permutation_invariant_loss_is_the_least_over_all_orders() -> None:
    pairwise = torch.rand(4, 3, 3)
    for b in range(4):
        least = min(sum(float(pairwise[b, i, p[i]]) for i in range(3)) / 3 for p in permutations(range(3)))
        assert float(permutation_invariant(pairwise)[b]) == pytest.approx(least, abs=1e-6)


def test_waveform_error_is_the_negative_si_sdr_of_speakers() -> None:
    sources = torch.randn(2, 2, 4000)
    sources -= sources.mean(dim=-1, keepdim=True)
    estimates = sources + 0.5 * torch.randn(2, 2, 4000)
    estimates -= estimates.mean(dim=-1, keepdim=True)
    errors = pairwise_waveform_error(
        estimates, sources, torch.ones(2, 2, dtype=torch.bool), sources.sum(dim=1)
    )
    expected = -si_sdr(estimates, sources).float()
    # The floor at 30 dB changes an SI-SDR of 6 dB by less than 0.02 dB.
    torch.testing.assert_close(errors.diagonal(dim1=1, dim2=2), expected, atol=0.03, rtol=0)


def test_waveform_error_as_snr_counts_the_level_too() -> None:
    torch.manual_seed(0)
    sources = torch.randn(1, 2, 500)
    estimates = 0.5 * sources.flip(1) + 0.1 * torch.randn(1, 2, 500)
    active = torch.ones(1, 2, dtype=torch.bool)
    errors = pairwise_waveform_error(estimates, sources, active, sources.sum(dim=1), scale_invariant=False)
    for i in range(2):
        for j in range(2):
            error, power = 0.0, 0.0
            for s, e in zip(sources[0, i].tolist(), estimates[0, j].tolist(), strict=True):
                error, power = error + (s - e) ** 2, power + s**2
            assert float(errors[0, i, j]) == pytest.approx(10 * math.log10(error / power + 1e-3), abs=1e-3)
    # Half of the level is 6 dB off; SI-SDR does not see it.
    halved = pairwise_waveform_error(
        0.5 * sources, sources, active, sources.sum(dim=1), scale_invariant=False
    )
    assert float(halved[0, 0, 0]) == pytest.approx(-6.0, abs=0.1)


def test_waveform_error_rewards_silence_for_missing_speakers() -> None:
    sources = torch.randn(1, 2, 1000)
    sources[:, 1] = 0
    active = torch.tensor([[True, False]])
    mixture = sources.sum(dim=1)
    values = []
    for leak in (1.0, 0.5, 0.1, 0.0):
        estimates = torch.stack([(1 - leak) * mixture, leak * mixture], dim=1)
        values.append(float(pairwise_waveform_error(estimates, sources, active, mixture)[0, 1, 1]))
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.0, abs=0.1)
    assert values[-1] == pytest.approx(-20.0, abs=0.1)


def test_waveform_error_has_finite_gradients_on_silence() -> None:
    estimates = torch.zeros(1, 2, 100, requires_grad=True)
    errors = pairwise_waveform_error(
        estimates, torch.zeros(1, 2, 100), torch.tensor([[True, False]]), torch.zeros(1, 100)
    )
    errors.sum().backward()
    assert errors.isfinite().all()
    assert estimates.grad is not None
    assert estimates.grad.isfinite().all()


def _naive_affinity(embedding: torch.Tensor, assignment: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Every pair of bins, one after the other."""
    totals = []
    for v, y, w in zip(embedding, assignment, weight, strict=True):
        bins = [(t, f) for t in range(v.shape[0]) for f in range(v.shape[1])]
        total = torch.zeros(())
        for i in bins:
            for j in bins:
                difference = v[i] @ v[j] - y[(slice(None), *i)] @ y[(slice(None), *j)]
                total = total + w[i] * w[j] * difference**2
        totals.append(total / w.sum() ** 2)
    return torch.stack(totals)


def test_affinity_loss_equals_the_naive_form_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(2, 4, 3, 5, requires_grad=True)
    assignment = torch.nn.functional.one_hot(torch.randint(2, (2, 4, 3)), 3).movedim(-1, 1).float()
    for weight in (torch.ones(2, 4, 3), (torch.rand(2, 4, 3) > 0.4).float(), torch.rand(2, 4, 3)):
        expected = _naive_affinity(embedding, assignment, weight)
        value = affinity_loss(embedding, assignment, weight)
        torch.testing.assert_close(value, expected)
        (slow,) = torch.autograd.grad(expected.sum(), embedding)
        (fast,) = torch.autograd.grad(value.sum(), embedding)
        torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-4)


def test_affinity_loss_ignores_the_order_of_sources_and_silent_bins() -> None:
    assignment = torch.nn.functional.one_hot(torch.randint(2, (1, 6, 4)), 2).movedim(-1, 1).float()
    perfect = torch.nn.functional.one_hot(assignment.argmax(dim=1), 5).float()
    weight = torch.ones(1, 6, 4)
    assert float(affinity_loss(perfect, assignment, weight)) == 0
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    assert float(affinity_loss(perfect @ rotation, assignment.flip(1), weight)) == pytest.approx(0, abs=1e-5)
    weight[:, 3:] = 0
    spoiled = perfect.clone()
    spoiled[:, 3:] = torch.randn(1, 3, 4, 5)
    assert float(affinity_loss(spoiled, assignment, weight)) == 0


def test_pairwise_magnitude_error_is_the_mean_square_of_every_pair() -> None:
    estimates, targets = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    pairwise = pairwise_magnitude_error(estimates, targets)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                expected = (estimates[b, j] - targets[b, i]).square().mean()
                torch.testing.assert_close(pairwise[b, i, j], expected)


def test_phase_sensitive_target_follows_the_angle() -> None:
    sources, mixture = torch.randn(2, 2, 3, 4, dtype=torch.cfloat), torch.randn(2, 3, 4, dtype=torch.cfloat)
    target = phase_sensitive_target(sources, mixture)
    for b in range(2):
        for c in range(2):
            angle = mixture[b].angle() - sources[b, c].angle()
            expected = sources[b, c].abs() * torch.cos(angle).clamp_min(0)
            torch.testing.assert_close(target[b, c], expected)


def test_compressed_spectrum_error_is_that_of_the_plain_loop_for_any_gain() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 2, 300, generator=generator) * torch.tensor([1.0, 0.1])[:, None]
    estimates = sources + 0.3 * torch.randn(2, 2, 300, generator=generator)
    mixture, transform = sources.sum(dim=1), Stft(32, 16)
    found = pairwise_compressed_spectrum_error(estimates, sources, mixture, transform)
    for k in range(2):
        e, s, x = (each[k].double().numpy() for each in (estimates, sources, mixture))
        expected = naive.compressed_spectrum_errors(e, s, x, 32)
        torch.testing.assert_close(found[k], torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-4)
    louder = pairwise_compressed_spectrum_error(9 * estimates, 9 * sources, 9 * mixture, transform)
    torch.testing.assert_close(louder, found, atol=1e-5, rtol=1e-4)


def test_compressed_spectrum_error_does_not_see_padding_and_has_gradients_at_silence() -> None:
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(2, 1, 3, 200, generator=generator)
    sources, estimates = audio[:, :, 0], audio[:, :, 1]
    plain = pairwise_compressed_spectrum_error(estimates, sources, sources[:, 0], Stft(32, 16))
    e, s, x = (torch.nn.functional.pad(each, (0, 150)) for each in (estimates, sources, sources[:, 0]))
    padded = pairwise_compressed_spectrum_error(e, s, x, Stft(32, 16), torch.tensor([200, 200]))
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-4)
    nothing = torch.zeros(1, 1, 200, requires_grad=True)
    error = pairwise_compressed_spectrum_error(nothing, sources[:1], sources[:1, 0], Stft(32, 16))
    error.sum().backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()
