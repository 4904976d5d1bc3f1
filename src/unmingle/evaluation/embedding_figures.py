"""Figures of the embeddings, attractors and units of an embedding separator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmingle.attractors import AnchoredAttractors
from unmingle.audio import resample
from unmingle.batch import MixtureBatch
from unmingle.data.mixture_folders import MixtureItem, read_item
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.pages import COLOURS, figure_uri, new_figure
from unmingle.models import find_model, load_system
from unmingle.networks.blstm import Blstm
from unmingle.systems import EmbeddingSeparator

_POINTS = 6000
_MIXTURES = 100
_UNITS = 8
_AROUND = 25
"""Frames before and after a spike."""
_SPIKES = 0.8
"""A unit spikes where its activity is at least this share of its own maximum."""
_LAYER = 2
"""The layer whose units are shown, counted from 1. In a network with fewer layers it is the last one."""


def embedding_pictures(config: CandidateConfig, items: Sequence[MixtureItem]) -> list[tuple[str, str, str]]:
    """Title, explanation and image of each figure; an empty list for systems without embeddings."""
    if config.model is None:
        return []
    system = load_system(find_model(config.model), "cpu", config.changes)
    if not isinstance(system, EmbeddingSeparator):
        return []
    chosen = items[:: max(1, len(items) // _MIXTURES)][:_MIXTURES]
    numbers = sorted({len(item.sources) for item in items})
    pictures = [
        (
            "Embeddings" if len(numbers) == 1 else f"Embeddings, {number} speakers",
            "Bins of one mixture on the first principal components of their embeddings. The colour shows the louder "
            "speaker; bins below the threshold are grey. Circles: estimated attractors; stars: true attractors; "
            "crosses: anchors, the chosen ones bold (Luo et al. 2018, Fig. 2, 3, 6; Mobin et al. 2018, Fig. 6).",
            _embeddings(system, _middle([item for item in items if len(item.sources) == number])),
        )
        for number in numbers
    ]
    pictures.append(
        (
            "Attractors of many mixtures",
            f"The attractors of {len(chosen)} mixtures on their principal components. A line joins the attractors of "
            "one mixture (Luo et al. 2018, Fig. 5).",
            _many_attractors(system, chosen),
        )
    )
    if isinstance(system.network, Blstm):
        pictures.append(
            (
                "What units respond to",
                f"The mean log spectrogram around the frames in which a unit of BLSTM layer "
                f"{min(_LAYER, len(system.network.layers))} reaches {_SPIKES:.0%} of its maximum, minus the mean of "
                f"all frames, in standard deviations: {2 * _AROUND + 1} frames, and the {_UNITS} units with the "
                "clearest pattern (Isik et al. 2016, Fig. 2).",
                _spike_triggered(system, chosen[:30]),
            )
        )
    return pictures


def _middle(items: Sequence[MixtureItem]) -> MixtureItem:
    return items[len(items) // 2]


def _at_model_rate(system: EmbeddingSeparator, item: MixtureItem) -> tuple[Tensor, Tensor]:
    """Mixture ``(1, samples)`` and sources ``(1, sources, samples)`` at the system's rate."""
    mixture, sources, rate = read_item(item)
    return tuple(
        torch.from_numpy(np.ascontiguousarray(resample(audio, rate, system.sample_rate))).unsqueeze(0)
        for audio in (mixture, sources)
    )  # type: ignore[return-value]


def principal_components(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean ``(dim,)``, directions ``(dim, count)`` and the share of the variance each explains ``(count,)``."""
    mean = points.mean(axis=0)
    _, scales, directions = np.linalg.svd(points - mean, full_matrices=False)
    shares = np.square(scales) / max(float(np.square(scales).sum()), 1e-30)
    return mean, directions[:count].T, shares[:count]


@torch.no_grad()
def _embeddings(system: EmbeddingSeparator, item: MixtureItem) -> str:
    mixture, sources = _at_model_rate(system, item)
    spectra, embedding = system.embed(mixture)
    weight = system.weight(spectra)
    speakers = system.formed_attractors(sources.shape[1])
    formed = system.attractors(embedding, weight, speakers, sources)
    true = system.oracle_attractors(
        MixtureBatch(mixture, sources, torch.ones(1, sources.shape[1], dtype=torch.bool))
    )
    louder = system.frontend.stft.analyse(sources)[0].abs().argmax(dim=0)
    counted = weight[0] > 0
    points, owners = embedding[0][counted].numpy(), louder[counted].numpy()
    picked = np.random.default_rng(0).permutation(len(points))[:_POINTS]
    points, owners = points[picked], owners[picked]
    mean, directions, shares = principal_components(points, 3)
    figure, axes = new_figure(9.0, 4.0, 1, 2)
    quiet = embedding[0][~counted].numpy()
    quiet = quiet[np.random.default_rng(0).permutation(len(quiet))[:_POINTS]]
    anchors, chosen = _anchors(system, embedding, weight, speakers)
    for axis, (first, second) in zip(axes[0], ((0, 1), (0, 2)), strict=True):
        plane = directions[:, [first, second]]
        flat = (points - mean) @ plane
        axis.scatter(*((quiet - mean) @ plane).T, c="#c5ccd6", s=2, alpha=0.35, linewidths=0)
        axis.scatter(
            *flat.T, c=[COLOURS[owner % len(COLOURS)] for owner in owners], s=2, alpha=0.35, linewidths=0
        )
        axis.scatter(*((anchors - mean) @ plane).T, marker="x", c="#1c2430", s=30, linewidths=0.8)
        used = (anchors[chosen] - mean) @ plane
        axis.scatter(*used.T, marker="x", c="#1c2430", s=60, linewidths=2.5, zorder=4)
        marks = (formed.points[0].numpy() - mean) @ plane
        axis.scatter(*marks.T, s=90, facecolors="white", edgecolors="#1c2430", linewidths=1.5, zorder=3)
        stars = (true[0].numpy() - mean) @ plane
        axis.scatter(*stars.T, s=70, marker="*", c="#facc15", edgecolors="#1c2430", linewidths=0.8, zorder=5)
        # Unused anchors may be far away. The axes do not include them, so that the bins stay readable.
        low, high = np.quantile(np.concatenate([flat, marks, stars, used]), [0.0, 1.0], axis=0)
        margin = 0.15 * (high - low)
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
        axis.set_xlabel(f"component {first + 1} ({shares[first]:.0%} of variance)", fontsize=8)
        axis.set_ylabel(f"component {second + 1} ({shares[second]:.0%})", fontsize=8)
    return figure_uri(figure)


def _anchors(
    system: EmbeddingSeparator, embedding: Tensor, weight: Tensor, speakers: int
) -> tuple[np.ndarray, np.ndarray]:
    """All anchors ``(anchors, dim)`` and the indices of those chosen for a mixture; none if it has no anchors."""
    if not isinstance(system.formation, AnchoredAttractors):
        return np.zeros((0, embedding.shape[-1]), dtype=np.float32), np.zeros(0, dtype=np.int64)
    chosen = system.formation.choose_subset(embedding, weight, speakers)[0]
    return system.formation.anchors.detach().numpy(), chosen.numpy()


@torch.no_grad()
def _many_attractors(system: EmbeddingSeparator, items: Sequence[MixtureItem]) -> str:
    sets = []
    for item in items:
        mixture, sources = _at_model_rate(system, item)
        spectra, embedding = system.embed(mixture)
        formed = system.attractors(embedding, system.weight(spectra), sources.shape[1], sources)
        sets.append(formed.points[0].numpy())
    together = np.concatenate(sets)
    mean, directions, shares = principal_components(together, 2)
    figure, axes = new_figure(5.0, 4.0)
    axis = axes[0, 0]
    for points in sets:
        flat = (points - mean) @ directions
        axis.plot(*np.concatenate([flat, flat[:1]]).T, color="#c5ccd6", linewidth=0.4, zorder=1)
    axis.scatter(*((together - mean) @ directions).T, s=12, color=COLOURS[0], linewidths=0, zorder=2)
    axis.set_xlabel(f"component 1 ({shares[0]:.0%} of variance)", fontsize=8)
    axis.set_ylabel(f"component 2 ({shares[1]:.0%})" if len(shares) > 1 else "", fontsize=8)
    return figure_uri(figure)


@torch.no_grad()
def _spike_triggered(system: EmbeddingSeparator, items: Sequence[MixtureItem]) -> str:
    features, activity = [], []
    network: Any = system.network
    for item in items:
        spectra = system.frontend(_at_model_rate(system, item)[0])
        features.append(spectra.features[0].numpy())
        activity.append(layer_activity(network, spectra.features)[0].numpy())
    averages = spike_triggered_averages(features, activity)
    order = np.argsort(-np.square(averages).mean(axis=(1, 2)))[:_UNITS]
    figure, axes = new_figure(10.0, 4.2, 2, _UNITS // 2)
    largest = float(np.abs(averages[order]).max(initial=1e-6))
    for axis, unit in zip(axes.flat, order, strict=False):
        axis.imshow(
            averages[unit].T,
            origin="lower",
            aspect="auto",
            cmap="RdBu_r",
            vmin=-largest,
            vmax=largest,
            extent=(-_AROUND, _AROUND, 0, system.sample_rate / 2000),
        )
        axis.set_xlabel("frames", fontsize=7)
        axis.set_ylabel("kHz", fontsize=7)
        axis.set_title(f"unit {unit}", fontsize=8)
        axis.tick_params(labelsize=7)
    return figure_uri(figure)


def layer_activity(network: Blstm, features: Tensor) -> Tensor:
    """The output ``(batch, frames, units)`` of BLSTM layer :data:`_LAYER`, or of the last, on features."""
    outputs: list[Tensor] = []
    layer = network.layers[min(_LAYER, len(network.layers)) - 1]
    hook = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    try:
        network.run_layers(features)
    finally:
        hook.remove()
    return outputs[0]


def spike_triggered_averages(features: Sequence[np.ndarray], activity: Sequence[np.ndarray]) -> np.ndarray:
    """Mean features around the spikes of each unit, minus the mean of all frames: ``(units, frames, freqs)``.

    A unit spikes where its activity is at least 80 % of its maximum.

    Args:
        features: ``(frames, freqs)`` of each mixture.
        activity: ``(frames, units)`` of each mixture.
    """
    window = 2 * _AROUND + 1
    # Windows must lie within their mixture.
    inside = [(x, a) for x, a in zip(features, activity, strict=True) if len(x) > window]
    if not inside:
        return np.zeros((activity[0].shape[1], window, features[0].shape[1]), dtype=np.float32)
    largest = np.concatenate([a for _, a in inside]).max(axis=0)
    # A unit that is never positive has no spikes.
    limits = np.where(largest > 0, _SPIKES * largest, np.inf)
    total = np.zeros((len(limits), window, inside[0][0].shape[1]))
    counts = np.zeros(len(limits))
    for x, a in inside:
        spikes = (a[_AROUND : len(a) - _AROUND] >= limits).astype(np.float64)
        counts += spikes.sum(axis=0)
        for offset in range(window):
            total[:, offset] += spikes.T @ x[offset : offset + len(spikes)]
    mean = np.concatenate([x for x, _ in inside]).mean(axis=0)
    averages: np.ndarray = total / np.maximum(counts, 1)[:, None, None] - mean
    averages[counts == 0] = 0
    return averages
