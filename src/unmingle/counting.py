"""Count the speakers: two rules, each with a confidence, for short and long recordings.

Systems with a fixed number of outputs (anchors, fixed attractors, mask inference) are trained to leave an output
silent if a speaker is missing. :func:`count_by_energy` counts the outputs that are not silent (Luo et al. 2018, Table
V). Clustering systems need the number before they have outputs. :func:`count_by_spread` (ours) counts the directions
in which the embeddings spread.

In a long recording a speaker may speak for only a few minutes and so have little energy. Energies are therefore
compared window by window (:func:`typical_levels`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

ENERGY_RANGE_DB = 20.0
"""An output that is more than this below the loudest one is not a speaker."""
_TRUST_AT_THRESHOLD, _TRUST_PER_DB = -1.67, 0.24
"""Logistic curve of the share of right counts over the distance of the outputs' levels from the threshold, fitted to
validation mixtures by benchmarks/counting_confidence.py."""
CLEANED_RANGE_DB = (11.5, 22.0)
"""In place of :data:`ENERGY_RANGE_DB` for the levels of :func:`with_and_without_noise`: the first where the noise is
loud, the second where there is hardly any. Loud noise, and what a denoiser leaves of it, is in the quieter estimates,
too."""
REMOVED_DB = (20.0, 30.0)
"""Levels of the mixture over the removed noise between which :func:`cleaned_range` rises."""
_CLEANED_TRUST_PER_DB = 0.32
"""Slope of the logistic curve for :data:`CLEANED_RANGE_DB`. All were chosen on validation mixtures by
benchmarks/cleaned_counting.py."""
SPREAD_SHARE = 0.04
"""A direction with a smaller share of the embeddings' energy is not a speaker. The value is the best one on
validation mixtures of one to three speakers, for deep clustering trained with one to three speakers."""
WINDOWS_SHARE = 0.1
"""A source that is active in a smaller share of a recording's windows is not counted as a speaker."""
_AUDIBLE_SHARE = 0.01
"""Windows with a smaller share of the mean window's energy are ignored as silent."""
_EMPTY_SHARE = 1e-12
_FRAMES_AT_ONCE = 1000


@dataclass
class Counted:
    """Numbers of speakers, with confidences."""

    count: Tensor
    """``(batch,)``, at least 1."""
    confidence: Tensor
    """``(batch,)`` in (0, 1]. It rises with the distance from the threshold between two counts. By energy, it
    estimates the chance that the count is right. By spread, it only ranks mixtures."""


def count_by_energy(estimates: Tensor) -> Counted:
    """Count the estimates ``(batch, sources, samples)`` within 20 dB of the loudest.

    The confidence rises with the distance of the nearest output from the threshold: 38 % at 5 dB, 67 % at 10 dB and
    96 % at 20 dB.
    """
    energy = estimates.square().sum(dim=-1)
    return count_levels(_levels(energy))


def count_levels(levels: Tensor, removed: float | None = None) -> Counted:
    """Count the sources by their levels in dB relative to the loudest.

    Args:
        levels: ``(batch, sources)``.
        removed: the levels are those of :func:`with_and_without_noise`, and this is the level in dB of the mixture
            over the noise that was removed.
    """
    if removed is None:
        above = levels + ENERGY_RANGE_DB
        trust = _TRUST_AT_THRESHOLD + _TRUST_PER_DB * above.abs().amin(dim=1)
    else:
        above = levels + cleaned_range(removed)
        trust = _CLEANED_TRUST_PER_DB * above.abs().amin(dim=1)
    return Counted((above > 0).sum(dim=1).clamp_min(1), torch.sigmoid(trust))


def with_and_without_noise(energy: Tensor, cleaned: Tensor) -> Tensor:
    """Energies whose levels in dB are means: of the sources as they are, and of those without noise.

    Noise raises the level of a source that is no speaker. A denoiser lowers that of a speaker whom it takes for
    noise.

    Args:
        energy: of the sources, ``(sources,)``.
        cleaned: the same after the noise was removed, in one or more ways, ``(ways, sources)``.
    """
    energies = torch.cat([energy[None], cleaned])
    return energies.clamp_min(1e-300).log().mean(dim=0).exp()


def cleaned_range(removed: float) -> float:
    """How many dB below the loudest a speaker may be, if the mixture was ``removed`` dB above the removed noise."""
    return float(np.interp(removed, REMOVED_DB, CLEANED_RANGE_DB))


def typical_levels(energy: Tensor) -> Tensor:
    """Levels ``(sources,)`` in dB that each source reaches in a tenth of the windows.

    The level in a window is relative to the window's loudest source. Silent windows are ignored, and a tenth is at
    least one window. For a single window the result is what :func:`count_by_energy` compares.

    Args:
        energy: of every source in every window, ``(windows, sources)``.
    """
    loudest = energy.amax(dim=1)
    levels = _levels(energy)[loudest >= _AUDIBLE_SHARE * loudest.mean()]
    return levels.quantile(1 - WINDOWS_SHARE, dim=0, interpolation="higher")


def _levels(energy: Tensor) -> Tensor:
    """Energies ``(batch, sources)`` in dB relative to the largest of the same row."""
    loudest = energy.amax(dim=1, keepdim=True).clamp_min(1e-30)
    return 10 * torch.log10(energy / loudest + _EMPTY_SHARE)


def count_by_spread(embedding: Tensor, weight: Tensor, most: int) -> Counted:
    """Count speakers by the directions in which the embeddings spread, without clustering.

    The embeddings of C speakers lie near C points. C points in general position span C - 1 directions around their
    mean, whether the points are orthogonal (deep clustering) or opposite (attractor networks). The method normalizes
    the embeddings to unit length and computes their weighted covariance (its trace is at most 1). The count is one
    more than the number of eigenvalues above ``SPREAD_SHARE``.

    Args:
        embedding: ``(batch, frames, freqs, dim)``.
        weight: ``(batch, frames, freqs)``.
        most: the largest possible count.
    """
    batch, dim = len(embedding), embedding.shape[-1]
    moments = embedding.new_zeros(batch, dim, dim, dtype=torch.float64)
    sums = embedding.new_zeros(batch, dim, 1, dtype=torch.float64)
    # In pieces, so that the embeddings of a long recording are not copied as a whole.
    for points, weights in zip(
        torch.split(embedding, _FRAMES_AT_ONCE, dim=1),
        torch.split(weight, _FRAMES_AT_ONCE, dim=1),
        strict=True,
    ):
        rows = normalize(points.flatten(1, 2), dim=-1)
        weighted = rows * weights.flatten(1).unsqueeze(-1)
        moments += torch.bmm(weighted.transpose(1, 2), rows)
        sums += weighted.sum(dim=1).unsqueeze(-1)
    mass = weight.double().sum(dim=(1, 2))[:, None, None].clamp_min(1e-8)
    mean = sums / mass
    covariance = moments / mass - mean @ mean.transpose(1, 2)
    # In ascending order; there are no more than the dimension of the embedding.
    values = torch.linalg.eigvalsh(covariance).flip(-1)[:, : most - 1].clamp_min(_EMPTY_SHARE)
    if values.shape[1] == 0:
        ones = torch.ones(len(embedding), device=embedding.device)
        return Counted(ones.long(), ones)
    ratio = torch.log(values / SPREAD_SHARE).float()
    return Counted(1 + (ratio > 0).sum(dim=1), torch.sigmoid(2 * ratio.abs()).amin(dim=1))
