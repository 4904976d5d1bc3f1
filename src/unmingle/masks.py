"""Masks: ideal ones from the sources, and what masks do to a mixture.

Ideal masks take source spectrograms ``(batch, sources, frames, freqs)`` and give masks of the
same shape that sum to one over sources.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def ideal_binary_mask(sources: Tensor) -> Tensor:
    """1 for the loudest source of each bin, 0 for the others; ties go to the first (IBM)."""
    return one_hot(sources.abs().argmax(dim=1), sources.shape[1]).movedim(-1, 1).to(torch.float32)


def ideal_ratio_mask(sources: Tensor) -> Tensor:
    """``|S_i| / sum_j |S_j|`` (IRM; Luo et al. 2018, Eq. 5)."""
    return _share(sources.abs())


def wiener_filter_mask(sources: Tensor) -> Tensor:
    """``|S_i|^2 / sum_j |S_j|^2`` (the Wiener-filter-like mask, WFM; Luo et al. 2018, Eq. 6)."""
    return _share(sources.abs().square())


def _share(values: Tensor) -> Tensor:
    total = values.sum(dim=1, keepdim=True)
    even = torch.full_like(values, 1.0 / values.shape[1])
    return torch.where(total > 0, values / total.clamp_min(1e-30), even)


def softmax_masks(logits: Tensor) -> Tensor:
    """Masks that sum to one over sources (Luo et al. 2018, Eq. 11). ``(batch, sources, frames, freqs)``."""
    return torch.softmax(logits, dim=1)


def sigmoid_masks(logits: Tensor) -> Tensor:
    """Every mask on its own, ``1 / (1 + exp(-logits))`` (Eq. 12, whose printed sum is a misprint)."""
    return torch.sigmoid(logits)


def apply_masks(mixture: Tensor, masks: Tensor) -> Tensor:
    """Masked spectrograms ``(batch, sources, frames, freqs)`` of a mixture ``(batch, frames, freqs)``."""
    return mixture.unsqueeze(1) * masks
