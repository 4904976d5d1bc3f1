"""Losses and masks of systems with a second network, against the papers' equations in NumPy (:mod:`by_equations`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import naive
from by_equations import (
    assert_loss,
    assert_masks,
    attractor_masks,
    batch_of,
    draw_statistics,
    error_of,
    masks_of,
    mixtures_of,
    run_network,
    spectrum_of,
    upit_masks,
    upit_values,
)
from conftest import TINY_BLSTM, tiny_values
from naive import Array
from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.systems import EmbeddingSeparator, TwoStage, TwoStageConfig


def _normalized(values: Array) -> Array:
    """By the mean and the deviation of the sequence (Isik et al. 2016)."""
    return (values - values.mean()) / values.std()


def _two_stage(refiner: str, **changes: object) -> TwoStage:
    torch.manual_seed(5)
    first = (
        tiny_values(unit_norm=True, formation="kmeans", objective="affinity", mask="assignment")
        if refiner == "enhancement"
        else upit_values()
    )
    values = {"kind": "two_stage", "stft": first["stft"], "first": first, "refiner": refiner}
    system = TwoStage(TwoStageConfig.model_validate(values | {"network": TINY_BLSTM} | changes)).eval()
    draw_statistics(system)
    if isinstance(system.first, EmbeddingSeparator):
        with torch.no_grad():
            system.first.network.linear.bias.copy_(2.0 * torch.eye(4)[torch.arange(129) % 2].flatten())
    with torch.no_grad():
        # Loud enough for the mixture, the estimate and their means to matter.
        system.refiner.network.linear.weight.mul_(4.0)
    return system


def _refined(system: TwoStage, mixture: Array, sources: Array) -> Array:
    magnitude = np.abs(spectrum_of(system, mixture))
    if isinstance(system.first, EmbeddingSeparator):
        masks = attractor_masks(system.first, mixture, sources, 2, training=False)
        # One network for every source, and a softmax over sources.
        values = [
            run_network(
                system.refiner.network,
                _normalized(np.concatenate([magnitude, mask * magnitude], axis=1)),
            )[0]
            for mask in masks
        ]
        return naive.softmax(np.stack(values))
    masks = upit_masks(system.first, mixture)
    joined = np.concatenate([magnitude, masks[0] * magnitude, masks[1] * magnitude], axis=1)
    return np.maximum(0, run_network(system.refiner.network, _normalized(joined)))


@pytest.mark.parametrize("objective", ["magnitude_error", "phase_sensitive_error"])
@pytest.mark.parametrize("refiner", ["enhancement", "second_stage"])
def test_loss_and_masks_of_two_stages(refiner: str, objective: str, example_sources: Samples) -> None:
    system, mixtures = _two_stage(refiner, objective=objective), mixtures_of(example_sources)
    masks = [_refined(system, *each) for each in mixtures]
    errors = [error_of(system, *each, m) for each, m in zip(mixtures, masks, strict=True)]
    batch = batch_of(mixtures)
    for found, expected in zip(masks_of(system, batch, 2), masks, strict=True):
        assert_masks(found, expected, any_order=refiner == "enhancement")
    if refiner == "second_stage":
        assert_loss(system, batch, errors)
    system.choose_part("second")
    assert_loss(system, batch, errors)


def test_the_enhancement_network_hears_mixture_and_estimate(example_sources: Samples) -> None:
    """Blind to one of them it would give other masks: the test above would then not be worth much."""
    system, (mixture, sources) = _two_stage("enhancement"), mixtures_of(example_sources)[0]
    magnitude = np.abs(spectrum_of(system, mixture))
    masks = attractor_masks(system.first, mixture, sources, 2, training=False)
    seen = _refined(system, mixture, sources)
    for blind in (
        lambda mask: _normalized(np.concatenate([mask * magnitude, mask * magnitude], axis=1)),
        lambda mask: _normalized(np.concatenate([magnitude, magnitude], axis=1)),
        lambda mask: np.concatenate([magnitude, mask * magnitude], axis=1),
    ):
        values = [run_network(system.refiner.network, blind(mask))[0] for mask in masks]
        assert np.abs(naive.softmax(np.stack(values)) - seen).max() > 0.02


def test_the_second_part_learns_from_the_first_without_its_dropout(example_sources: Samples) -> None:
    dropout = TINY_BLSTM | {"dropout": 0.5}
    first = tiny_values(unit_norm=True, formation="soft_kmeans", mask="assignment", network=dropout)
    system = _two_stage("enhancement", first=first)
    system.choose_part("second")
    system.train()
    batch = batch_of(mixtures_of(example_sources)[:1])
    losses = {float(system.loss(batch)["loss"].detach()) for _ in range(3)}
    assert len(losses) == 1
    assert system.first.training


def test_a_first_system_without_gradient_is_not_trained_end_to_end(example_sources: Samples) -> None:
    system = _two_stage("enhancement")  # With hard k-means.
    system.choose_part("all")
    with pytest.raises(UnmingleError, match="have no gradient"):
        system.train().loss(batch_of(mixtures_of(example_sources)[:1]))


def test_a_second_stage_has_the_number_of_masks_it_was_built_for_and_an_enhancement_that_of_the_first() -> (
    None
):
    second, enhancement = _two_stage("second_stage"), _two_stage("enhancement")
    assert second.most_speakers() == second.speakers
    assert enhancement.most_speakers() is None  # Clusters have no limit.


def test_a_second_stage_gives_its_loudest_masks_when_asked_for_fewer(example_sources: Samples) -> None:
    system = _two_stage("second_stage")
    mixture = batch_of(mixtures_of(example_sources)[:1]).mixture
    with torch.no_grad():
        spectra, masks = system.mask(mixture, 2)
        one = system.mask(mixture, 1)[1]
    power = (masks * spectra.magnitude.unsqueeze(1)).square().sum(dim=(2, 3))
    assert power[0].max() > 1.01 * power[0].min()
    torch.testing.assert_close(one[0, 0], masks[0, int(power[0].argmax())])


def test_an_enhancement_gives_as_many_masks_as_it_is_asked_for(example_sources: Samples) -> None:
    mixture = batch_of(mixtures_of(example_sources)[:1]).mixture
    for speakers in (1, 3):
        masks = _two_stage("enhancement").mask(mixture, speakers)[1]
        assert masks.shape[1] == speakers
        torch.testing.assert_close(masks.sum(dim=1), torch.ones_like(masks[:, 0]))
