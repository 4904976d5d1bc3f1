"""Losses: one value for each mixture of a batch; smaller is better."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.padding import frame_count, within
from unmingle.permutation import best_permutation
from unmingle.stft import Stft

_SPEAKER_FLOOR = 1e-3
"""Speakers better than 30 dB SI-SDR hardly pull any more."""
_SILENCE_FLOOR = 1e-2
"""Nor do silent outputs 20 dB below the mixture."""
_COMPRESSION = 0.3
_COMPRESSION_FLOOR = 1e-6
"""Of relative powers: bins 60 dB below the mixture's level are all alike, and have a finite gradient."""


def affinity_loss(embedding: Tensor, assignment: Tensor, weight: Tensor) -> Tensor:
    """``|W(V V^T - Y Y^T)W|_F^2`` over pairs of weighted bins, each pair's mean (Isik et al. 2016, Eq. 1).

    In its low-rank form ``|V^T V|^2 - 2 |V^T Y|^2 + |Y^T Y|^2``: nothing larger than dim x dim is
    made. Divided by the square of the summed weight, so that long and short mixtures weigh alike.

    Args:
        embedding: V, ``(batch, frames, freqs, dim)``.
        assignment: Y, ``(batch, sources, frames, freqs)``.
        weight: ``(batch, frames, freqs)``; with 0 and 1, the bins left out do not count at all.

    Returns:
        ``(batch,)``.
    """
    root = weight.flatten(1).sqrt().unsqueeze(-1)
    points = embedding.flatten(1, 2) * root
    targets = assignment.flatten(2).transpose(1, 2) * root

    def squared_norm(left: Tensor, right: Tensor) -> Tensor:
        return torch.bmm(left.transpose(1, 2), right).square().sum(dim=(1, 2))

    distance = (
        squared_norm(points, points) - 2 * squared_norm(points, targets) + squared_norm(targets, targets)
    )
    return distance / weight.sum(dim=(1, 2)).square().clamp_min(1e-8)


def mask_error(magnitude: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
    """Mean over bins and sources of ``|X (M_i - M^_i)|^2`` (Luo et al. 2018, Eq. 13): ``(batch,)``.

    Args:
        magnitude: of the mixture, ``(batch, frames, freqs)``.
        masks: estimated, ``(batch, sources, frames, freqs)``.
        targets: wanted, in the same order of sources.
    """
    return (magnitude.unsqueeze(1) * (masks - targets)).square().mean(dim=(1, 2, 3))


def pairwise_mask_error(magnitude: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
    """The error of Eq. 13 for every pair: ``(batch, targets, masks)``."""
    difference = masks.unsqueeze(1) - targets.unsqueeze(2)
    return (magnitude[:, None, None] * difference).square().mean(dim=(-2, -1))


def pairwise_magnitude_error(estimates: Tensor, targets: Tensor) -> Tensor:
    """Mean over bins of ``|M X - T|^2`` for every pair of magnitudes: ``(batch, targets, estimates)``.

    Args:
        estimates: masked magnitudes of the mixture, ``(batch, sources, frames, freqs)``.
        targets: magnitudes ``|S|`` (Mobin et al. 2018, Eq. 9; uPIT's amplitude), or those of
            :func:`phase_sensitive_target`.
    """
    # By products: no array of pairs times bins.
    flat, wanted = estimates.flatten(2), targets.flatten(2)
    squares = flat.square().sum(dim=-1).unsqueeze(1) + wanted.square().sum(dim=-1).unsqueeze(2)
    return (squares - 2 * torch.bmm(wanted, flat.transpose(1, 2))).clamp_min(0) / flat.shape[-1]


def phase_sensitive_target(sources: Tensor, mixture: Tensor) -> Tensor:
    """``|S| max(0, cos(angle X - angle S))`` (Kolbaek et al. 2017): ``(batch, sources, frames, freqs)``.

    Args:
        sources: ``(batch, sources, frames, freqs)`` complex.
        mixture: ``(batch, frames, freqs)`` complex.
    """
    mixture = mixture.unsqueeze(1)
    return ((sources * mixture.conj()).real / mixture.abs().clamp_min(1e-20)).clamp_min(0)


def pairwise_waveform_error(
    estimates: Tensor, sources: Tensor, active: Tensor, mixture: Tensor, *, scale_invariant: bool = True
) -> Tensor:
    """Error in dB of every pair of waveforms, the negative SI-SDR with a floor: ``(batch, sources, estimates)``.

    For a speaker: ``10 log10(|a s - e|^2 / |a s|^2 + tau)`` with ``a = <e, s> / <s, s>``, or, if not
    ``scale_invariant``, with ``a = 1``: the negative SNR, which fixes the level, too. For a source
    that is no speaker, the estimate should be silent: ``10 log10(|e|^2 / |x|^2 + tau)``. The floor tau
    keeps examples that are solved already from ruling the gradient (Wisdom et al. 2021, Eq. 3-5).
    Without the scale a, half of the mixture for everybody is a local optimum that anchors hardly leave.

    Args:
        estimates: ``(batch, sources, samples)``.
        sources: ``(batch, sources, samples)``.
        active: ``(batch, sources)``, true where a source is a speaker.
        mixture: ``(batch, samples)``.
    """
    tiny = 1e-12
    energy = sources.square().sum(dim=-1).unsqueeze(2)
    products = torch.bmm(sources, estimates.transpose(1, 2))
    estimate_energy = estimates.square().sum(dim=-1).unsqueeze(1)
    if scale_invariant:
        target = products.square() / energy.clamp_min(tiny)
        distortion = (estimate_energy - target).clamp_min(tiny)
    else:
        target = energy.expand_as(products)
        distortion = (energy - 2 * products + estimate_energy).clamp_min(tiny)
    mixture_energy = mixture.square().sum(dim=-1)[:, None, None]
    talking = active.unsqueeze(2)
    ratio = torch.where(talking, distortion, estimate_energy) / torch.where(
        talking, target, mixture_energy
    ).clamp_min(tiny)
    return 10 * torch.log10(ratio + torch.where(talking, _SPEAKER_FLOOR, _SILENCE_FLOOR))


def pairwise_compressed_spectrum_error(
    estimates: Tensor, sources: Tensor, mixture: Tensor, transform: Stft, lengths: Tensor | None = None
) -> Tensor:
    """Error of every pair of waveforms in compressed magnitudes: ``(batch, sources, estimates)``.

    The mean over bins of ``(|E|^0.3 - |S|^0.3)^2`` (Braun & Tashev 2021, without their term for phases), where
    magnitudes are relative to the root mean square of the mixture's, and 60 dB below it their floor. Quiet parts, of
    which SI-SDR hardly knows, count nearly as much as loud ones.

    Args:
        estimates: ``(batch, sources, samples)``.
        sources: ``(batch, sources, samples)``.
        mixture: ``(batch, samples)``.
        transform: whose magnitudes.
        lengths: ``(batch,)``, the number of samples that are not padding, which is silent; all, if not given.
    """
    mixed = transform.analyse(mixture).abs().square()
    inside, share = mixed.new_ones(mixed.shape[:2]), mixed.new_ones(len(mixed))
    if lengths is not None:
        own = frame_count(lengths, transform.hop).to(mixed.device)
        # Windows that begin in padding still reach back to the mixture's end.
        inside, share = within(own, mixed.shape[1]).to(mixed.dtype), own / mixed.shape[1]
    level = ((mixed * inside.unsqueeze(-1)).mean(dim=(1, 2)) / share).clamp_min(1e-20)

    def compressed(audio: Tensor) -> Tensor:
        power = torch.view_as_real(transform.analyse(audio)).square().sum(dim=-1)
        relative = power / level[:, None, None, None] + _COMPRESSION_FLOOR
        return relative ** (_COMPRESSION / 2) * inside[:, None, :, None]

    return pairwise_magnitude_error(compressed(estimates), compressed(sources)) / share[:, None, None]


def permutation_invariant(pairwise: Tensor) -> Tensor:
    """The least mean over all permutations of pairwise losses ``(batch, targets, estimates)``: ``(batch,)``."""
    best, _ = best_permutation(-pairwise)
    return -best
