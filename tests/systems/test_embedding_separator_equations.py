"""Losses and masks of embedding separators, against the papers' equations in NumPy (:mod:`by_equations`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import naive
from by_equations import (
    HOP,
    assert_loss,
    assert_masks,
    attractor_masks,
    batch_of,
    draw_statistics,
    embedded,
    error_of,
    ideal_masks,
    masks_of,
    mixtures_of,
    spectrum_of,
)
from conftest import TINY_CNN, tiny_values
from unmingle.audio import Samples
from unmingle.networks import BlstmEmbedding
from unmingle.systems import EmbeddingSeparator, EmbeddingSeparatorConfig


def _embedding_system(**changes: object) -> EmbeddingSeparator:
    """Its embeddings lie in clear clusters, so that any k-means finds the same ones."""
    torch.manual_seed(3)
    system = EmbeddingSeparator(EmbeddingSeparatorConfig.model_validate(tiny_values(**changes))).eval()
    draw_statistics(system)
    if isinstance(system.network, BlstmEmbedding):
        with torch.no_grad():
            system.network.linear.weight.mul_(2.0)
            bias = torch.eye(4)[torch.arange(129) % 2] - 0.3
            system.network.linear.bias.copy_(2.0 * bias.flatten())
    return system


_LOSSES: dict[str, dict[str, object]] = {
    "ADANet": {},
    "ADANet with a rest": {"mask": "softmax_with_rest", "weight": {"threshold": 0.7}},
    "ADANet of three": {"speakers": 3, "anchors": 4},
    "DANet": {"training_formation": "oracle", "formation": "kmeans"},
    "DANet sigmoid": {"training_formation": "oracle", "formation": "kmeans", "mask": "sigmoid"},
    "DANet by IRM": {"training_formation": "oracle", "formation": "kmeans", "assignment": "irm"},
    "DANet, k-means inside": {"training_formation": "kmeans", "formation": "kmeans"},
    "DANet, directions inside": {"training_formation": "spherical_kmeans", "formation": "kmeans"},
    "Mobin": {
        "stft": {"hop": HOP, "window": "hann"},
        "network": TINY_CNN,
        "unit_norm": True,
        "training_formation": "oracle",
        "formation": "kmeans",
        "weight": {"rule": "log_range"},
        "objective": "magnitude_error",
    },
    "learned scale": {"unit_norm": True, "learned_scale": True, "objective": "magnitude_error"},
    "phase": {"objective": "phase_sensitive_error"},
    "waveform": {"objective": "si_sdr"},
    "waveform and level": {"objective": "snr", "training_formation": "oracle", "formation": "kmeans"},
    "soft k-means": {
        "unit_norm": True,
        "training_formation": "soft_kmeans",
        "formation": "soft_kmeans",
        "mask": "assignment",
        "objective": "magnitude_error",
        "unfolded_steps": 50,
        "weight": {"rule": "near_loudest", "threshold": 25.0},
    },
}


@pytest.mark.parametrize("name", _LOSSES)
def test_loss_of_attractor_systems(name: str, example_sources: Samples) -> None:
    system = _embedding_system(**_LOSSES[name])
    mixtures = mixtures_of(example_sources)
    if system.speakers == 3:
        third = np.random.default_rng(0).standard_normal((1, 4000)) * 0.02
        more = [np.concatenate([s, third[:, : s.shape[1]]]) for _, s in mixtures]
        mixtures = [(s.sum(axis=0), s) for s in more]
    ordered = system.config.training_formation == "oracle"
    expected = [
        error_of(
            system,
            mixture,
            sources,
            attractor_masks(system, mixture, sources, len(sources), training=True),
            ordered=ordered,
        )
        for mixture, sources in mixtures
    ]
    assert_loss(system, batch_of(mixtures), expected)


@pytest.mark.parametrize("objective", ["mask_error", "magnitude_error", "si_sdr"])
def test_loss_where_a_speaker_is_missing(objective: str, example_sources: Samples) -> None:
    """The missing speaker's mask is nothing; its share of the error is what :mod:`naive` says of silence."""
    system = _embedding_system(
        speakers=3, training_formation="oracle", formation="kmeans", objective=objective
    )
    silent = [(m, np.concatenate([s, np.zeros((1, s.shape[1]))])) for m, s in mixtures_of(example_sources)]
    expected = [
        error_of(system, m, s, attractor_masks(system, m, s, 3, training=True), ordered=True)
        for m, s in silent
    ]
    assert_loss(system, batch_of(silent), expected)


@pytest.mark.parametrize("assignment", ["ibm", "irm"])
@pytest.mark.parametrize(
    "weight",
    [{"rule": "near_loudest"}, {"rule": "loudest", "threshold": 0.5}, {"rule": "all"}, {"rule": "log_range"}],
    ids=lambda weight: weight["rule"],
)
def test_loss_of_deep_clustering(
    assignment: str, weight: dict[str, object], example_sources: Samples
) -> None:
    system = _embedding_system(
        unit_norm=True, objective="affinity", formation="kmeans", assignment=assignment, weight=weight,
        evaluation_weight={"rule": "loudest", "threshold": 0.3},
    )  # fmt: skip
    expected = []
    mixtures = mixtures_of(example_sources)
    for mixture, sources in mixtures:
        embedding, used = embedded(system, mixture, training=True)
        expected.append(naive.affinity(embedding, ideal_masks(system, sources), used))
    assert_loss(system, batch_of(mixtures), expected)


_FEW = {"rule": "loudest", "threshold": 0.2}
_AT_TEST: dict[str, dict[str, object]] = {
    "anchors": {"evaluation_weight": _FEW},
    "anchors' shares": {"evaluation_mask": "assignment"},
    "anchors, sigmoid": {"evaluation_mask": "sigmoid", "weight": {"rule": "near_loudest"}},
    "anchors, rest": {"mask": "softmax_with_rest"},
    "k-means": {"training_formation": "oracle", "formation": "kmeans", "evaluation_weight": _FEW},
    "k-means, binary": {"objective": "affinity", "formation": "kmeans", "evaluation_mask": "assignment"},
    "k-means, hard": {
        "unit_norm": True,
        "learned_scale": True,
        "formation": "kmeans",
        "evaluation_mask": "hard",
        "weight": {"rule": "log_range"},
    },
    "spherical": {"formation": "spherical_kmeans", "mask": "sigmoid", "evaluation_weight": _FEW},
    "soft k-means": {
        "unit_norm": True,
        "objective": "affinity",
        "formation": "soft_kmeans",
        "evaluation_mask": "assignment",
        "hardness": 2.0,
        "unfolded_steps": 50,
        "evaluation_weight": _FEW,
    },
    "fixed": {"training_formation": "oracle", "formation": "fixed", "mask": "sigmoid"},
    "fixed' shares": {"training_formation": "oracle", "formation": "fixed", "evaluation_mask": "assignment"},
    "ideal": {"training_formation": "oracle", "formation": "oracle", "evaluation_weight": _FEW},
    "ideal by IRM": {
        "training_formation": "oracle",
        "formation": "oracle",
        "assignment": "irm",
        "unit_norm": True,
        "learned_scale": True,
    },
}


@pytest.mark.parametrize("name", _AT_TEST)
def test_masks_of_attractor_systems(name: str, example_sources: Samples) -> None:
    system = _embedding_system(**_AT_TEST[name])
    if system.config.formation == "fixed":
        system.formation.points.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    mixtures = mixtures_of(example_sources)
    for found, (mixture, sources) in zip(
        masks_of(system, batch_of(mixtures), 2, True), mixtures, strict=True
    ):
        expected = attractor_masks(system, mixture, sources, 2, training=False)
        assert_masks(found, expected, any_order="kmeans" in system.config.formation)


def test_estimates_are_the_masked_mixture(example_sources: Samples) -> None:
    system = _embedding_system(stft={"hop": 64, "window": "hann"})
    (mixture, sources), _ = mixtures_of(example_sources)
    spectrum = spectrum_of(system, mixture)
    masks = attractor_masks(system, mixture, sources, 2, training=False)
    expected = [naive.istft(spectrum * mask, 256, 64, len(mixture), root=False) for mask in masks]
    found = system.separate(torch.tensor(mixture, dtype=torch.float32).unsqueeze(0), 2).sources[0]
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), atol=2e-5)
