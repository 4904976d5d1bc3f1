"""Losses and masks of denoisers and local experts, against the papers' equations in NumPy (:mod:`by_equations`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import naive
from by_equations import (
    OBJECTIVES,
    assert_loss,
    assert_masks,
    batch_of,
    draw_statistics,
    error_of,
    features_of,
    run_network,
    spectrum_of,
)
from naive import Array
from unmingle.audio import Samples
from unmingle.systems import Denoiser, DenoiserConfig, LocalExperts, LocalExpertsConfig


def _noisy(speech: Samples) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(2)
    sources = [speech[:1, k : k + 8192].astype(np.float64) for k in (20000, 40000, 60000)]
    return [(s[0] + 0.03 * rng.standard_normal(8192), s) for s in sources]


def _expert_input(system: Denoiser | LocalExperts, magnitude: Array) -> tuple[Array, int]:
    """Features of the prelude and what follows, and how many frames the prelude has."""
    frames = round(system.config.prelude_seconds * system.sample_rate / system.hop)
    first = magnitude[np.arange(frames) % len(magnitude)]
    return features_of(system, np.concatenate([first, magnitude])), frames


def _expert_mask(system: Denoiser | LocalExperts, magnitude: Array, number: int) -> Array:
    features, frames = _expert_input(system, magnitude)
    return naive.sigmoid(run_network(system.experts[number], features))[None, frames:]


_TINY_LSTM = {"layers": 1, "hidden_size": 8}


@pytest.mark.parametrize("prelude", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_masks_of_a_denoiser(objective: str, prelude: float, example_sources: Samples) -> None:
    torch.manual_seed(6)
    values = {"network": _TINY_LSTM, "objective": objective, "prelude_seconds": prelude}
    system = Denoiser(DenoiserConfig.model_validate(values)).eval()
    draw_statistics(system)
    mixtures = _noisy(example_sources)
    masks = [_expert_mask(system, np.abs(spectrum_of(system, m)), 0) for m, _ in mixtures]
    expected = [error_of(system, *each, m) for each, m in zip(mixtures, masks, strict=True)]
    batch = batch_of(mixtures)
    assert_loss(system, batch, expected)
    found = system.mask(batch.mixture, 1)[1].detach().double().numpy()
    for index, mask in enumerate(masks):
        assert_masks(found[index], mask)


def _experts(**changes: object) -> LocalExperts:
    torch.manual_seed(7)
    values = {"network": _TINY_LSTM, "gate": _TINY_LSTM, "sharpness": 4.0} | changes
    system = LocalExperts(LocalExpertsConfig.model_validate(values)).eval()
    draw_statistics(system)
    with torch.no_grad():
        for expert in system.experts:
            expert.linear.weight.mul_(5.0)
    return system


def _gate_scores(system: LocalExperts, magnitude: Array) -> Array:
    """The mean over the utterance of the gate's values, the prelude included."""
    return run_network(system.gate, _expert_input(system, magnitude)[0]).mean(axis=0)


@pytest.mark.parametrize(
    ("prelude", "sharpness", "objective"),
    [
        (0.0, 30.0, "snr"),
        (0.4, 12.0, "snr"),
        (0.4, 12.0, "si_sdr"),
        (0.4, 12.0, "si_sdr_and_spectrum"),
        (0.4, 12.0, "perceptual"),
    ],
)
def test_losses_and_masks_of_local_experts(
    prelude: float, sharpness: float, objective: str, example_sources: Samples
) -> None:
    """Sivaraman & Kim 2020: specialists and gate apart, together by Eq. 4-5, and the best one alone at test time."""
    system = _experts(prelude_seconds=prelude, sharpness=sharpness, objective=objective)
    mixtures = _noisy(example_sources)
    batch = batch_of(mixtures, snr=torch.tensor([-4.0, 11.0, 3.0]))
    labels = [0, 3, 2]  # The nearest of -5, 0, 5 and 10 dB.
    apart, crossed, together, by_choice, left_out = [], [], [], [], []
    found = system.mask(batch.mixture, 1)[1]
    for index, (mixture, sources) in enumerate(mixtures):
        magnitude = np.abs(spectrum_of(system, mixture))
        scores = _gate_scores(system, magnitude)
        masks = [_expert_mask(system, magnitude, number) for number in range(4)]
        errors = [error_of(system, mixture, sources, mask) for mask in masks]
        apart.append(errors[labels[index]])
        crossed.append(-np.log(naive.softmax(scores)[labels[index]]))
        shares = naive.softmax(sharpness * scores)
        by_choice.append(float((shares * errors).sum()))
        left_out.append(float(shares[shares < 0.01].sum()))
        shares = np.where(shares >= 0.01, shares, 0)
        mixed = sum(share * mask for share, mask in zip(shares / shares.sum(), masks, strict=True))
        together.append(error_of(system, mixture, sources, mixed))
        assert_masks(found[index].detach().double().numpy(), masks[int(scores.argmax())])
    assert max(left_out) > 0.002  # So hard that some shares are left out, and the others grow.
    assert_loss(system, batch, together)
    system.choose_part("choice")
    assert_loss(system, batch, by_choice)
    system.choose_part("gate")
    assert_loss(system, batch, crossed)
    system.choose_part("apart")
    losses = {name: float(value.detach()) for name, value in system.loss(batch).items()}
    assert losses["gate"] == pytest.approx(np.mean(crossed), rel=1e-4)
    assert losses["specialists"] == pytest.approx(np.mean(apart), rel=2e-4)
    assert losses["loss"] == pytest.approx(np.mean(crossed) + np.mean(apart), rel=2e-4)
