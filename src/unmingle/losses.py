"""Losses: one value per mixture of a batch; smaller is better."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.padding import frame_count, within
from unmingle.permutation import best_permutation
from unmingle.stft import Stft

_SPEAKER_FLOOR = 1e-3
"""Speakers above 30 dB SI-SDR have almost no gradient."""
_SILENCE_FLOOR = 1e-2
"""Outputs that should be silent have almost no gradient if they are 20 dB below the mixture."""
_COMPRESSION = 0.3
_COMPRESSION_FLOOR = 1e-6
"""Floor of relative powers: the gradient stays finite, and bins 60 dB below the mixture's level do not differ."""


def affinity_loss(embedding: Tensor, assignment: Tensor, weight: Tensor) -> Tensor:
    """``|W(V V^T - Y Y^T)W|_F^2``, averaged over pairs of weighted bins (Isik et al. 2016, Eq. 1).

    Computed in its low-rank form ``|V^T V|^2 - 2 |V^T Y|^2 + |Y^T Y|^2``, which needs no array larger than dim x dim.
    The sum is divided by the squared sum of weights, so that long and short mixtures have the same weight.

    Args:
        embedding: V, ``(batch, frames, freqs, dim)``.
        assignment: Y, ``(batch, sources, frames, freqs)``.
        weight: ``(batch, frames, freqs)``; bins with weight 0 have no effect.

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
        targets: in the same order of sources.
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
    # Expanded into products, which avoids an array of pairs times bins.
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

    For a speaker the error is ``10 log10(|a s - e|^2 / |a s|^2 + tau)`` with ``a = <e, s> / <s, s>``. If
    ``scale_invariant`` is false, ``a = 1``: the negative SNR, which also fixes the level. A source that is not a
    speaker needs a silent estimate: ``10 log10(|e|^2 / |x|^2 + tau)``. The floor tau, which the papers' SI-SDR does
    not have, prevents solved examples from dominating the gradient (Wisdom et al. 2021, Eq. 3-5). With ``a = 1``,
    half of the mixture for every speaker is a local optimum, from which training with anchors rarely escapes.

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

    The mean over bins of ``(|E|^0.3 - |S|^0.3)^2`` (Braun & Tashev 2021, without their phase term). Magnitudes are
    relative to the root mean square magnitude of the mixture, with a floor 60 dB below it. Quiet parts, which have
    little influence on SI-SDR, count almost as much as loud ones.

    Args:
        estimates: ``(batch, sources, samples)``.
        sources: ``(batch, sources, samples)``.
        mixture: ``(batch, samples)``.
        transform: computes the magnitudes.
        lengths: ``(batch,)``, the number of samples that are not (silent) padding (default: all).
    """
    mixed = transform.analyse(mixture).abs().square()
    inside, share = mixed.new_ones(mixed.shape[:2]), mixed.new_ones(len(mixed))
    if lengths is not None:
        own = frame_count(lengths, transform.hop).to(mixed.device)
        # Windows centred in padding may still overlap the end of the mixture.
        inside, share = within(own, mixed.shape[1]).to(mixed.dtype), own / mixed.shape[1]
    level = ((mixed * inside.unsqueeze(-1)).mean(dim=(1, 2)) / share).clamp_min(1e-20)

    def compressed(audio: Tensor) -> Tensor:
        power = torch.view_as_real(transform.analyse(audio)).square().sum(dim=-1)
        relative = power / level[:, None, None, None] + _COMPRESSION_FLOOR
        return relative ** (_COMPRESSION / 2) * inside[:, None, :, None]

    return pairwise_magnitude_error(compressed(estimates), compressed(sources)) / share[:, None, None]


def permutation_invariant(pairwise: Tensor) -> Tensor:
    """Least mean loss over all permutations ``(batch,)``, from pairwise losses ``(batch, targets, estimates)``."""
    best, _ = best_permutation(-pairwise)
    return -best
