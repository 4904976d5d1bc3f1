"""Losses and masks of mask inference (uPIT), against the papers' equations in NumPy (:mod:`by_equations`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from by_equations import (
    OBJECTIVES,
    assert_loss,
    assert_masks,
    batch_of,
    draw_statistics,
    error_of,
    masks_of,
    mixtures_of,
    spectrum_of,
    upit_masks,
    upit_values,
)
from unmingle.audio import Samples
from unmingle.systems import MaskInference, MaskInferenceConfig


def _upit(**changes: Any) -> MaskInference:
    torch.manual_seed(4)
    system = MaskInference(MaskInferenceConfig.model_validate(upit_values(**changes))).eval()
    draw_statistics(system)
    with torch.no_grad():
        system.network.linear.bias.add_(0.3)
    return system


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_masks_of_upit(objective: str, example_sources: Samples) -> None:
    system, mixtures = _upit(objective=objective), mixtures_of(example_sources)
    masks = [upit_masks(system, mixture) for mixture, _ in mixtures]
    assert_loss(
        system,
        batch_of(mixtures),
        [error_of(system, *each, m) for each, m in zip(mixtures, masks, strict=True)],
    )
    for found, expected in zip(masks_of(system, batch_of(mixtures), 2), masks, strict=True):
        assert_masks(found, expected)


def test_upit_asked_for_fewer_gives_the_loudest_first(example_sources: Samples) -> None:
    system, mixtures = _upit(speakers=3), mixtures_of(example_sources)
    for found, (mixture, _) in zip(masks_of(system, batch_of(mixtures), 2), mixtures, strict=True):
        masks, magnitude = upit_masks(system, mixture), np.abs(spectrum_of(system, mixture))
        order = np.argsort([-((mask * magnitude) ** 2).sum() for mask in masks])
        assert_masks(found, masks[order[:2]])
