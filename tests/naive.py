"""The papers' equations in plain NumPy, for one mixture at a time: what tests hold the systems against.

Nothing here calls the package. Shapes: audio ``(samples,)``, sources ``(sources, samples)``, spectrograms
``(frames, freqs)``, masks ``(sources, frames, freqs)``, embeddings ``(frames, freqs, dim)``.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

FLOOR = 1e-4
"""Of magnitudes relative to the level, before the logarithm."""


# Spectrograms and features


def window(length: int, root: bool = True) -> Array:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return np.sqrt(hann) if root else hann


def stft(audio: Array, length: int, hop: int, root: bool = True) -> Complex:
    """Frame t is centred on sample t * hop."""
    padded = np.pad(audio, (length // 2, length // 2))
    frames = len(audio) // hop + 1
    return np.stack(
        [np.fft.rfft(padded[t * hop : t * hop + length] * window(length, root)) for t in range(frames)]
    )


def istft(spectrum: Complex, length: int, hop: int, samples: int, root: bool = True) -> Array:
    """Weighted overlap-add: the least squares inverse of :func:`stft`."""
    total = np.zeros(length + hop * len(spectrum) + samples)
    envelope = np.zeros_like(total)
    for t, frame in enumerate(spectrum):
        place = slice(t * hop, t * hop + length)
        total[place] += np.fft.irfft(frame, length) * window(length, root)
        envelope[place] += window(length, root) ** 2
    inside = slice(length // 2, length // 2 + samples)
    return total[inside] / np.maximum(envelope[inside], 1e-11)


def level(magnitude: Array) -> float:
    """``sqrt(sum p^2 / sum p)`` over the powers p of the frames."""
    power = (magnitude**2).sum(axis=1)
    return float(np.sqrt((power**2).sum() / power.sum()))


def running_level(magnitude: Array, half_life: int = 250) -> Array:
    """:func:`level` of every frame and those before, their sums fading by half in ``half_life`` frames."""
    fade, levels, first, second = 0.5 ** (1 / half_life), [], 0.0, 0.0
    for frame in magnitude:
        power = float((frame**2).sum())
        first, second = fade * first + power, fade * second + power**2
        levels.append(np.sqrt(second / first))
    return np.array(levels)[:, None]


def log_features(magnitude: Array, levels: Array | float, mean: Array, deviation: Array) -> Array:
    return (np.log(np.maximum(magnitude / levels, FLOOR)) - mean) / deviation


def plain_features(magnitude: Array, levels: Array | float, mean: Array, deviation: Array) -> Array:
    return (magnitude / levels - mean) / deviation


# Weights W of the bins


def loudest(magnitude: Array, share: float) -> Array:
    """The loudest ``share`` of all bins (Luo et al. 2018)."""
    order = np.argsort(magnitude.ravel())
    weights = np.ones(magnitude.size)
    weights[order[: round((1 - share) * magnitude.size)]] = 0
    return weights.reshape(magnitude.shape)


def near_loudest(magnitude: Array, decibels: float) -> Array:
    """Bins at most so far below the loudest one (Isik et al. 2016)."""
    return (20 * np.log10(np.maximum(magnitude, 1e-30) / magnitude.max()) >= -decibels).astype(float)


def log_range(magnitude: Array, share: float) -> Array:
    """Log magnitudes of at least ``min + share (max - min)`` (the code of Mobin et al. 2018)."""
    values = np.log(np.maximum(magnitude, FLOOR * level(magnitude)))
    return (values >= values.min() + share * (values.max() - values.min())).astype(float)


# Ideal masks


def binary(sources: Complex) -> Array:
    winner = np.abs(sources).argmax(axis=0)
    return np.stack([(winner == c).astype(float) for c in range(len(sources))])


def ratio(sources: Complex) -> Array:
    return np.abs(sources) / np.abs(sources).sum(axis=0)


def wiener(sources: Complex) -> Array:
    return np.abs(sources) ** 2 / (np.abs(sources) ** 2).sum(axis=0)


# Attractors and masks


def unit(embedding: Array) -> Array:
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def centroids(embedding: Array, assignment: Array, weight: Array) -> Array:
    """Luo et al. 2018, Eq. 9; the zero vector for a source without bins."""
    points = []
    for share in assignment:
        used = share * weight
        points.append((used[..., None] * embedding).sum(axis=(0, 1)) / max(used.sum(), 1e-8))
    return np.stack(points)


def dots(embedding: Array, attractors: Array) -> Array:
    """Luo et al. 2018, Eq. 10."""
    return np.einsum("tfk,ck->ctf", embedding, attractors)


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=0))
    return powers / powers.sum(axis=0)


def softmax_with_rest(values: Array) -> Array:
    powers = np.exp(values)
    return powers / (powers.sum(axis=0) + 1.0)


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def hard(values: Array) -> Array:
    return np.stack([(values.argmax(axis=0) == c).astype(float) for c in range(len(values))])


def anchored(embedding: Array, weight: Array, anchors: Array, speakers: int) -> tuple[Array, Array]:
    """Attractors and assignment of the best subset (Luo et al. 2018, Eq. 14 and 15)."""
    found, least = None, np.inf
    for subset in combinations(range(len(anchors)), speakers):
        assignment = softmax(dots(embedding, anchors[list(subset)]))
        points = centroids(embedding, assignment, weight)
        alike = max(float(points[i] @ points[j]) for i, j in permutations(range(speakers), 2))
        if alike < least:
            found, least = (points, assignment), alike
    assert found is not None
    return found


def kmeans(embedding: Array, weight: Array, clusters: int, spherical: bool = False) -> Array:
    """Assignment of all bins by the cheapest of ten runs of Lloyd's algorithm on the bins that count."""
    rng = np.random.default_rng(0)
    points = unit(embedding) if spherical else embedding
    used, best, cheapest = points[weight > 0], None, np.inf
    for _ in range(10):
        centres = used[rng.choice(len(used), clusters, replace=False)]
        for _ in range(100):
            labels = ((used[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
            centres = np.stack(
                [
                    used[labels == c].mean(axis=0) if (labels == c).any() else centres[c]
                    for c in range(clusters)
                ]
            )
            centres = unit(centres) if spherical else centres
        cost = ((used[:, None] - centres) ** 2).sum(axis=-1).min(axis=1).sum()
        if cost < cheapest:
            best, cheapest = centres, cost
    assert best is not None
    nearest = ((points[:, :, None] - best) ** 2).sum(axis=-1).argmin(axis=-1)
    return np.stack([(nearest == c).astype(float) for c in range(clusters)])


def soft_kmeans(embedding: Array, weight: Array, hardness: float, starts: Array) -> tuple[Array, Array]:
    """Centres and responsibilities where they rest (Isik et al. 2016, Eq. 2)."""
    centres = starts
    for step in range(101):
        squared = ((embedding[None] - centres[:, None, None]) ** 2).sum(axis=-1)
        shares = softmax(-hardness * squared)
        if step < 100:
            centres = centroids(embedding, shares, weight)
    return centres, shares


# Losses


def affinity(embedding: Array, assignment: Array, weight: Array) -> float:
    """``|W^1/2 (V V^T - Y Y^T) W^1/2|_F^2`` over the squared sum of W, pair by pair (Isik et al. 2016, Eq. 1)."""
    bins = weight.ravel() > 0
    points = embedding.reshape(-1, embedding.shape[-1])[bins]
    labels = assignment.reshape(len(assignment), -1).T[bins]
    return float(((points @ points.T - labels @ labels.T) ** 2).sum() / bins.sum() ** 2)


def least_over_orders(error: Array) -> float:
    """The least mean over all orders of estimates; ``error[i, j]``: of source i, estimated by j."""
    count = len(error)
    return min(
        float(np.mean([error[i, order[i]] for i in range(count)])) for order in permutations(range(count))
    )


def mask_errors(mixture: Complex, masks: Array, sources: Complex) -> Array:
    """Luo et al. 2018, Eq. 13, with the targets of Eq. 5."""
    wanted = wiener(sources)
    return np.array([[((np.abs(mixture) * (w - m)) ** 2).mean() for m in masks] for w in wanted])


def magnitude_errors(mixture: Complex, masks: Array, sources: Complex) -> Array:
    """Mobin et al. 2018, Eq. 9."""
    return np.array([[((np.abs(s) - m * np.abs(mixture)) ** 2).mean() for m in masks] for s in sources])


def phase_sensitive_errors(mixture: Complex, masks: Array, sources: Complex) -> Array:
    """Kolbaek et al. 2017: the target is ``|S| max(0, cos(angle X - angle S))``."""
    wanted = [np.abs(s) * np.maximum(0, np.cos(np.angle(mixture) - np.angle(s))) for s in sources]
    return np.array([[((w - m * np.abs(mixture)) ** 2).mean() for m in masks] for w in wanted])


def compressed_spectrum_errors(estimates: Array, sources: Array, mixture: Array, length: int) -> Array:
    """Mean square of the difference of magnitudes to the power 0.3, relative to the mixture's level."""
    level, errors = 0.0, np.zeros((len(sources), len(estimates)))
    mixed = stft(mixture, length, length // 2)
    for frame in mixed:
        for value in frame:
            level += abs(value) ** 2 / mixed.size
    for i, source in enumerate(sources):
        for j, estimate in enumerate(estimates):
            pair = (stft(audio, length, length // 2) for audio in (source, estimate))
            for wanted, found in zip(*pair, strict=True):
                for s, e in zip(wanted, found, strict=True):
                    power = [(abs(value) ** 2 / level + 1e-6) ** 0.15 for value in (s, e)]
                    errors[i, j] += (power[0] - power[1]) ** 2 / mixed.size
    return errors


def waveform_errors(estimates: Array, sources: Array, mixture: Array, scale_invariant: bool) -> Array:
    """Negative SI-SDR or SNR in dB with a floor of -30 dB; -20 dB for a source that is silent."""
    errors = np.empty((len(sources), len(estimates)))
    for i, s in enumerate(sources):
        for j, e in enumerate(estimates):
            if not s.any():
                errors[i, j] = 10 * np.log10((e**2).sum() / (mixture**2).sum() + 1e-2)
                continue
            scaled = (e @ s) / (s @ s) * s if scale_invariant else s
            errors[i, j] = 10 * np.log10(((scaled - e) ** 2).sum() / (scaled**2).sum() + 1e-3)
    return errors
