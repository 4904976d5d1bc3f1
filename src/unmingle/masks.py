"""Masks: ideal masks from the sources, masks from logits, and their application to a mixture.

Ideal masks take source spectrograms ``(batch, sources, frames, freqs)`` and return masks of the
same shape. IBM, IRM and WFM sum to one over sources.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def ideal_binary_mask(sources: Tensor) -> Tensor:
    """1 for the loudest source of each bin, 0 for the others; ties go to the first (IBM)."""
    return hard_masks(sources.abs())


def ideal_ratio_mask(sources: Tensor) -> Tensor:
    """``|S_i| / sum_j |S_j|`` (IRM; Luo et al. 2018)."""
    return _share(sources.abs())


def wiener_filter_mask(sources: Tensor) -> Tensor:
    """``|S_i|^2 / sum_j |S_j|^2`` (the Wiener-filter-like mask, WFM; Luo et al. 2018, Eq. 5)."""
    return _share(sources.abs().square())


def root_ideal_ratio_mask(sources: Tensor) -> Tensor:
    """``sqrt(|S_i|^2 / sum_j |S_j|^2)`` (the "IRM" of Sivaraman & Kim 2020): the square root of the WFM."""
    return wiener_filter_mask(sources).sqrt()


def phase_sensitive_mask(sources: Tensor, mixture: Tensor) -> Tensor:
    """``|S_i| / |X| cos(angle S_i - angle X)``, clipped to [0, 1] (Erdogan et al. 2015).

    Args:
        sources: ``(batch, sources, frames, freqs)`` complex.
        mixture: ``(batch, frames, freqs)`` complex.
    """
    mixture = mixture.unsqueeze(1)
    aligned = (sources * mixture.conj()).real / mixture.abs().square().clamp_min(1e-30)
    return aligned.clamp(0.0, 1.0)


def hard_masks(values: Tensor) -> Tensor:
    """1 for the largest of ``(batch, sources, frames, freqs)`` in each bin, 0 for the others."""
    return one_hot(values.argmax(dim=1), values.shape[1]).movedim(3, 1).to(torch.float32)


def _share(values: Tensor) -> Tensor:
    total = values.sum(dim=1, keepdim=True)
    even = torch.full_like(values, 1.0 / values.shape[1])
    return torch.where(total > 0, values / total.clamp_min(1e-30), even)


def softmax_masks(logits: Tensor) -> Tensor:
    """Masks that sum to one over sources (Luo et al. 2018, Eq. 11). ``(batch, sources, frames, freqs)``."""
    return torch.softmax(logits, dim=1)


def softmax_masks_with_rest(logits: Tensor) -> Tensor:
    """Softmax masks with one additional class of logit 0, the rest. They sum to at most one over sources.

    Ours: the rest takes noise and everything else that is not speech of a speaker. Bins whose embedding is far from
    every attractor have logits below 0 and masks near 0. ``(batch, sources, frames, freqs)``.
    """
    rest = torch.zeros_like(logits[:, :1])
    return torch.softmax(torch.cat([logits, rest], dim=1), dim=1)[:, :-1]


def sigmoid_masks(logits: Tensor) -> Tensor:
    """Independent masks ``1 / (1 + exp(-logits))`` (Luo et al. 2018, Eq. 12, whose printed sum is a misprint)."""
    return torch.sigmoid(logits)


def loudest_masks(masks: Tensor, magnitude: Tensor, count: int) -> Tensor:
    """The ``count`` masks that pass the most energy of ``magnitude`` ``(batch, frames, freqs)``."""
    return chosen_sources(masks, loudest_sources(masks, magnitude, count))


def loudest_sources(masks: Tensor, magnitude: Tensor, count: int) -> Tensor:
    """Indices ``(batch, count)`` of the masks that pass the most energy of ``(batch, frames, freqs)``."""
    energy = (masks * magnitude.unsqueeze(1)).square().sum(dim=(2, 3))
    return energy.argsort(dim=1, descending=True)[:, :count]


def chosen_sources(values: Tensor, chosen: Tensor) -> Tensor:
    """Select from ``(batch, sources, ...)`` the sources with the indices ``(batch, count)``, in that order."""
    index = chosen.reshape(*chosen.shape, *(1 for _ in values.shape[2:]))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def apply_masks(mixture: Tensor, masks: Tensor) -> Tensor:
    """Masked spectrograms ``(batch, sources, frames, freqs)`` of a mixture ``(batch, frames, freqs)``."""
    return mixture.unsqueeze(1) * masks
