"""Which estimate belongs to which reference: the permutation with the best score, for training and evaluation."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from unmingle.metrics import si_sdr


def best_permutation(pairwise: Tensor) -> tuple[Tensor, Tensor]:
    """The permutation with the largest mean score.

    Args:
        pairwise: ``(batch, references, estimates)``, the score of every pair; both numbers are equal.

    Returns:
        The mean score ``(batch,)``, and the permutation ``(batch, references)``: the estimate
        that goes with each reference.

    Raises:
        ValueError: the numbers of references and estimates differ.
    """
    count = pairwise.shape[-1]
    if pairwise.shape[-2] != count:
        raise ValueError(
            f"the numbers of estimates and references must be equal, got {tuple(pairwise.shape[-2:])}"
        )
    orders = torch.tensor(list(permutations(range(count))), device=pairwise.device)
    references = torch.arange(count, device=pairwise.device)
    scores = pairwise[:, references, orders].mean(dim=-1)
    best, index = scores.max(dim=-1)
    return best, orders[index]


def pairwise_si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """SI-SDR of every pair ``(batch, references, estimates)`` from two ``(batch, sources, samples)``."""
    return si_sdr(estimates.unsqueeze(1), references.unsqueeze(2))
