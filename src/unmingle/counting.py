"""How many speakers: two rules, each with a confidence; and both over a long recording.

Systems with a fixed number of outputs (anchors, fixed attractors, mask inference) are trained to leave
an output silent where a speaker is missing: count the outputs that are not (:func:`count_by_energy`,
Luo et al. 2018, Table V). Clustering systems have no outputs before they know the number: count how many
directions the embeddings spread in (:func:`count_by_spread`, ours).

In a long recording a speaker may speak for a few minutes only: far less energy, and no less a speaker. So energies
are compared window by window (:func:`typical_levels`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

ENERGY_RANGE_DB = 20.0
"""An output so far below the loudest one is no speaker."""
SPREAD_SHARE = 0.04
"""A direction with less of the embeddings' energy is no speaker. The best share on validation mixtures of
one to three speakers, for deep clustering trained on as many."""
WINDOWS_SHARE = 0.1
"""Who speaks in fewer of a recording's windows than this share is no speaker of it."""
_AUDIBLE_SHARE = 0.01
"""Windows with less of the mean window's energy say nothing."""
_EMPTY_SHARE = 1e-12
_FRAMES_AT_ONCE = 1000


@dataclass
class Counted:
    """Numbers of speakers."""

    count: Tensor
    """``(batch,)``, at least 1."""
    confidence: Tensor
    """``(batch,)`` in [0.5, 1]: 0.5 where a value lies on the line between one number and the next,
    rising with the distance. It orders mixtures by trust; it is not a calibrated probability."""


def count_by_energy(estimates: Tensor) -> Counted:
    """Count the estimates ``(batch, sources, samples)`` within 20 dB of the loudest.

    The confidence rises with the distance of the nearest output from the line, 5 dB to 73 %.
    """
    energy = estimates.square().sum(dim=-1)
    return count_levels(_levels(energy))


def count_levels(levels: Tensor) -> Counted:
    """Count the sources by their levels ``(batch, sources)``, in dB against the loudest."""
    above = levels + ENERGY_RANGE_DB
    return Counted((above > 0).sum(dim=1).clamp_min(1), torch.sigmoid(above.abs() / 5).amin(dim=1))


def typical_levels(energy: Tensor) -> Tensor:
    """Levels ``(sources,)`` in dB, against the loudest source of the same window, where a source is loud.

    Each is reached in a tenth of the windows that are not silent, and in one at least. Of one window they are the
    levels that :func:`count_by_energy` compares.

    Args:
        energy: of every source in every window, ``(windows, sources)``.
    """
    loudest = energy.amax(dim=1)
    levels = _levels(energy)[loudest >= _AUDIBLE_SHARE * loudest.mean()]
    return levels.quantile(1 - WINDOWS_SHARE, dim=0, interpolation="higher")


def _levels(energy: Tensor) -> Tensor:
    """Energies ``(batch, sources)`` in dB against the largest of the same row."""
    loudest = energy.amax(dim=1, keepdim=True).clamp_min(1e-30)
    return 10 * torch.log10(energy / loudest + _EMPTY_SHARE)


def count_by_spread(embedding: Tensor, weight: Tensor, most: int) -> Counted:
    """Count speakers by the directions in which embeddings spread; no clustering is needed.

    The embeddings of C speakers lie near C points. C points in general position span C - 1
    directions around their mean, whether the points are orthogonal (deep clustering) or opposite
    (attractor networks). So: unit-length embeddings, their weighted covariance (its trace is at
    most 1), and one speaker more than it has eigenvalues above ``SPREAD_SHARE``.

    Args:
        embedding: ``(batch, frames, freqs, dim)``.
        weight: ``(batch, frames, freqs)``.
        most: the largest number to answer.
    """
    batch, dim = len(embedding), embedding.shape[-1]
    moments = embedding.new_zeros(batch, dim, dim, dtype=torch.float64)
    sums = embedding.new_zeros(batch, dim, 1, dtype=torch.float64)
    # In pieces: a long recording's embeddings need not be copied as a whole.
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
    # Ascending; beyond the dimension of the embedding there is nothing.
    values = torch.linalg.eigvalsh(covariance).flip(-1)[:, : most - 1].clamp_min(_EMPTY_SHARE)
    if values.shape[1] == 0:
        ones = torch.ones(len(embedding), device=embedding.device)
        return Counted(ones.long(), ones)
    ratio = torch.log(values / SPREAD_SHARE).float()
    return Counted(1 + (ratio > 0).sum(dim=1), torch.sigmoid(2 * ratio.abs()).amin(dim=1))
