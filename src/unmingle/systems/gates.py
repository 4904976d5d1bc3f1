"""A gate of local experts without a network of its own: the mask of one of the specialists tells the SNR (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from unmingle.config import Config

_SPREAD = 4.0
"""Decibels by which a fresh gate takes what is kept relative to what is removed to miss the SNR."""
_USUAL_DOUBT = 10**-0.9
"""What is in doubt as a share of all, about the mean over noisy speech: learning starts from there."""


class SpecialistGateConfig(Config):
    """Which specialist hears how much of an utterance."""

    specialist: int = Field(0, ge=0)
    """Which one. Best the one that is chosen most: chosen, it only goes on."""
    seconds: float = Field(6.0, gt=0.0, le=60.0)
    """It begins each utterance and decides after so many seconds, or at the end of a shorter one; a live
    stream asks it every two seconds."""
    margin: float = Field(0.0, ge=0.0)
    """What a specialist for higher SNRs must be worth more, in the objective's unit (dB for SI-SDR), when the choice
    is learned: chosen wrongly it leaves noise, and what it gains on noises that it was trained with it may not gain
    on others."""


class SpecialistGate(nn.Module):
    """Scores specialists by what the mask of one of them keeps, what it removes, and how much it doubts.

    A specialist has learned from every bin what speech is, where a gate has one label an utterance: with
    noise of kinds that neither was trained with, its mask tells more of the SNR. Each score is a linear
    function of two figures in dB: what is kept relative to what is removed, and what is in doubt relative to
    all (little, where there is next to no noise; the first figure alone hardly tells 10 dB from 30).

    Args:
        levels: the SNR in dB that each specialist is for, K of them.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, len(levels))
        # Classes of equal spread around their levels: the discriminant of Gaussians. Doubt says nothing yet.
        centres = torch.tensor(levels)
        self.linear.weight.data.copy_(torch.stack([centres / _SPREAD**2, torch.zeros_like(centres)], dim=1))
        self.linear.bias.data.copy_(-centres.square() / (2 * _SPREAD**2))

    def forward(self, evidence: Tensor) -> Tensor:
        """Energies kept, in doubt and removed ``(batch, 3)`` to scores before the softmax ``(batch, K)``."""
        # No part counts as less than -90 dB of all; silence has the usual doubt, and as much kept as removed.
        total = evidence.sum(dim=-1, keepdim=True)
        evidence = evidence + 1e-9 * total + 1e-30 * evidence.new_tensor([1.0, _USUAL_DOUBT, 1.0])
        kept, doubt, removed = evidence.unbind(dim=-1)
        figures = (
            10 * torch.stack([kept / removed, doubt / (total[..., 0] + 1e-30) / _USUAL_DOUBT], dim=-1).log10()
        )
        # Not by nn.Linear: in training it would round the scores to bfloat16.
        scores: Tensor = (figures.unsqueeze(-2) * self.linear.weight).sum(dim=-1) + self.linear.bias
        return scores


def energies(mask: Tensor, magnitude: Tensor) -> Tensor:
    """Each frame's energy in three parts: kept, in doubt, removed, ``(batch, frames, 3)``.

    Of a bin's energy, m squared is kept by the mask m and the square of 1 - m removed; the rest is in doubt.

    Args:
        mask: ``(batch, frames, freqs)``.
        magnitude: of the mixture, of the same shape.
    """
    power = magnitude.square()
    kept, removed = (mask.square() * power).sum(dim=-1), ((1 - mask).square() * power).sum(dim=-1)
    doubt = (2 * mask * (1 - mask) * power).sum(dim=-1)
    return torch.stack([kept, doubt, removed], dim=-1)
