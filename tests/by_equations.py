"""Losses and masks of whole systems, computed by the equations of :mod:`naive`, and comparisons with the package.

Only the layers of the networks are the package's. Their inputs, and all that follows their outputs, are computed
here, one mixture at a time and without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naive
from conftest import TINY_BLSTM
from naive import Array
from unmingle.audio import Samples
from unmingle.batch import MixtureBatch
from unmingle.perceptual import perceptual_distance
from unmingle.systems import EmbeddingSeparator, MaskInference, MaskingSystem, TwoStage

HOP = 128
LENGTHS = (1536, 1152)
"""Whole hops, so that no frame reaches from padding back into the mixture."""
OBJECTIVES = ["mask_error", "magnitude_error", "phase_sensitive_error", "si_sdr", "snr"]


def mixtures_of(speech: Samples) -> list[tuple[Array, Array]]:
    """Mixtures ``(samples,)`` and their sources, of :data:`LENGTHS`."""
    starts = (20000, 40000)
    sources = [speech[:, k : k + n].astype(np.float64) for k, n in zip(starts, LENGTHS, strict=True)]
    return [(each.sum(axis=0), each) for each in sources]


def batch_of(mixtures: list[tuple[Array, Array]], **facts: Tensor) -> MixtureBatch:
    """The mixtures with silence behind the shorter ones."""
    longest = max(len(mixture) for mixture, _ in mixtures)
    padded = [np.pad(sources, ((0, 0), (0, longest - sources.shape[1]))) for _, sources in mixtures]
    noisy = [np.pad(mixture, (0, longest - len(mixture))) for mixture, _ in mixtures]
    sources = torch.tensor(np.stack(padded), dtype=torch.float32)
    lengths = None if len({len(m) for m, _ in mixtures}) == 1 else torch.tensor([len(m) for m, _ in mixtures])
    return MixtureBatch(
        torch.tensor(np.stack(noisy), dtype=torch.float32),
        sources,
        sources.abs().sum(dim=-1) > 0,
        lengths=lengths,
        **facts,
    )


def run_network(network: nn.Module, values: Array) -> Array:
    """A network's output for one sequence."""
    with torch.no_grad():
        output = network(torch.tensor(values, dtype=torch.float32).unsqueeze(0))
    return output[0].double().numpy()


def draw_statistics(system: MaskingSystem) -> None:
    """Give the system stored means and deviations that are not 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    for name, buffer in system.named_buffers():
        if name.endswith("frontend.mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) - 3)
        elif name.endswith("frontend.deviation"):
            buffer.copy_(1 + torch.rand(buffer.shape, generator=generator))
    if isinstance(system, TwoStage):
        system.first.frontend.load_state_dict(system.frontend.state_dict())


def spectrum_of(system: MaskingSystem, audio: Array) -> naive.Complex:
    stft = system.config.stft
    return naive.stft(audio, stft.window_length, stft.hop, stft.window == "sqrt_hann")


def features_of(system: MaskingSystem, magnitude: Array) -> Array:
    stft = system.config.stft
    of = naive.log_features if stft.feature == "log_magnitude" else naive.plain_features
    levels = naive.level(magnitude) if stft.level == "whole" else naive.running_level(magnitude)
    mean, deviation = system.frontend.mean.double().numpy(), system.frontend.deviation.double().numpy()
    return of(magnitude, levels, mean, deviation)


def error_of(
    system: MaskingSystem, mixture: Array, sources: Array, masks: Array, *, ordered: bool = False
) -> float:
    """The objective of the system's config: smaller is better."""
    objective, spectrum = system.config.model_dump()["objective"], spectrum_of(system, mixture)
    if objective in ("si_sdr", "snr", "si_sdr_and_spectrum", "perceptual"):
        stft = system.config.stft
        size = (stft.window_length, stft.hop, len(mixture), stft.window == "sqrt_hann")
        estimates = np.stack([naive.istft(mask * spectrum, *size) for mask in masks])
        errors = naive.waveform_errors(estimates, sources, mixture, objective != "snr")
        if objective in ("si_sdr_and_spectrum", "perceptual"):
            for length in (stft.window_length // 2, stft.window_length, 2 * stft.window_length):
                errors += 400 / 3 * naive.compressed_spectrum_errors(estimates, sources, mixture, length)
        if objective == "perceptual":
            # Compared with the package pesq in test_perceptual.py.
            pairs = [[_perceptual(estimate, source) for estimate in estimates] for source in sources]
            errors += 10 * np.array(pairs)
    else:
        rule = {
            "mask_error": naive.mask_errors,
            "magnitude_error": naive.magnitude_errors,
            "phase_sensitive_error": naive.phase_sensitive_errors,
        }[objective]
        errors = rule(spectrum, masks, np.stack([spectrum_of(system, s) for s in sources]))
    return float(np.diagonal(errors).mean()) if ordered else naive.least_over_orders(errors)


def _perceptual(estimate: Array, source: Array) -> float:
    heard, wanted = (torch.tensor(audio, dtype=torch.float32)[None] for audio in (estimate, source))
    return float(perceptual_distance(heard, wanted))


def assert_loss(system: MaskingSystem, batch: MixtureBatch, expected: list[float]) -> None:
    assert float(system.loss(batch)["loss"].detach()) == pytest.approx(np.mean(expected), rel=1e-3)


def assert_masks(found: Array, expected: Array, *, any_order: bool = False) -> None:
    """Equal but for a bin or two on the line between two speakers."""
    orders = permutations(range(len(expected))) if any_order else [tuple(range(len(expected)))]
    apart = min(float((np.abs(found - expected[list(order)]) > 2e-3).mean()) for order in orders)
    assert apart < 2e-3
    assert found.shape == expected.shape


def masks_of(system: MaskingSystem, batch: MixtureBatch, speakers: int, sources: bool = False) -> list[Array]:
    """The masks of the package, for each mixture of a batch with padding."""
    with torch.no_grad():
        _, masks = system.mask(batch.mixture, speakers, batch.lengths, batch.sources if sources else None)
    return [mask[:, : n // HOP + 1].double().numpy() for mask, n in zip(masks, LENGTHS, strict=True)]


_WEIGHTS: dict[str, Callable[[Array, float], Array]] = {
    "loudest": naive.loudest,
    "near_loudest": naive.near_loudest,
    "log_range": naive.log_range,
    "all": lambda magnitude, _: np.ones_like(magnitude),
}
_OWN_THRESHOLDS = {"loudest": 0.9, "near_loudest": 40.0, "log_range": 0.6, "all": 1.0}


def embedded(system: EmbeddingSeparator, mixture: Array, *, training: bool) -> tuple[Array, Array]:
    """Embeddings and weights."""
    config, magnitude = system.config, np.abs(spectrum_of(system, mixture))
    embedding = run_network(system.network, features_of(system, magnitude))
    rule = config.weight if training or config.evaluation_weight is None else config.evaluation_weight
    weight = _WEIGHTS[rule.rule](magnitude, rule.threshold or _OWN_THRESHOLDS[rule.rule])
    return naive.unit(embedding) if config.unit_norm else embedding, weight


def ideal_masks(system: EmbeddingSeparator, sources: Array) -> Array:
    """Ideal masks of the sources. Those of silent sources are zero."""
    of = naive.binary if system.config.assignment == "ibm" else naive.ratio
    silent = ~sources.any(axis=1)
    spectra = np.stack([spectrum_of(system, s) for s in sources])
    masks = np.zeros(spectra.shape)
    masks[~silent] = of(spectra[~silent])
    return masks


def attractor_masks(
    system: EmbeddingSeparator, mixture: Array, sources: Array, speakers: int, *, training: bool
) -> Array:
    """Masks of an embedding separator for one mixture."""
    config = system.config
    embedding, weight = embedded(system, mixture, training=training)
    name = config.training_formation if training else config.formation
    if name == "oracle":
        shares = ideal_masks(system, sources)
        points = naive.centroids(embedding, shares, weight)
    elif name == "anchored":
        anchors = system.formation.anchors.detach().double().numpy()
        points, shares = naive.anchored(embedding, weight, anchors, speakers)
    elif name == "fixed":
        points = system.formation.points.double().numpy()[:speakers]
        shares = naive.softmax(naive.dots(embedding, points))
    else:
        shares = naive.kmeans(embedding, weight, speakers, spherical=name == "spherical_kmeans")
        points = naive.centroids(embedding, shares, weight)
        if name == "soft_kmeans":
            points, shares = naive.soft_kmeans(embedding, weight, config.hardness, points)
    rule = config.mask if training else config.evaluation_mask or config.mask
    if rule == "assignment":
        return shares
    logits = naive.dots(embedding, points)
    if config.learned_scale:
        logits = logits * float(system.log_scale.exp())
    masks = {
        "softmax": naive.softmax,
        "softmax_with_rest": naive.softmax_with_rest,
        "sigmoid": naive.sigmoid,
        "hard": naive.hard,
    }
    if name == "oracle" and training:
        present = sources.any(axis=1)
        kept = np.zeros(logits.shape)
        kept[present] = masks[rule](logits[present])
        return kept
    return masks[rule](logits)


def upit_values(speakers: int = 2, **changes: Any) -> dict[str, object]:
    """The config of a tiny mask inference."""
    stft = {"hop": HOP, "feature": "magnitude"}
    return {"kind": "mask_inference", "speakers": speakers, "stft": stft, "network": TINY_BLSTM, **changes}


def upit_masks(system: MaskInference, mixture: Array) -> Array:
    """Masks of mask inference for one mixture."""
    features = features_of(system, np.abs(spectrum_of(system, mixture)))
    return np.maximum(0, run_network(system.network, features))
