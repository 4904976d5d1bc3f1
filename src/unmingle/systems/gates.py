"""A gate of local experts without a network of its own: one of the specialists tells the SNR (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from unmingle.config import Config

_SPREAD = 4.0
"""Decibels by which a fresh gate takes the ratio to miss the SNR."""


class SpecialistGateConfig(Config):
    """Which specialist hears how much of an utterance."""

    specialist: int = Field(0, ge=0)
    """Which one; the one for the lowest SNR lets the least noise pass, and so errs least."""
    seconds: float = Field(2.0, gt=0.0, le=60.0)
    """It hears the loudest stretch of so many seconds; in a stream, the last ones before each choice, which
    are two seconds apart."""


class SpecialistGate(nn.Module):
    """Scores specialists by the ratio of what the mask of one of them keeps to what it removes.

    A specialist has learned from every bin what speech is, where a gate has one label an utterance: with
    noise of kinds that neither was trained with, its ratio tells more of the SNR. Each score is a linear
    function of the ratio in dB; nothing else is learned.

    Args:
        levels: the SNR in dB that each specialist is for, K of them.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, len(levels))
        # Classes of equal spread around their levels: the discriminant of Gaussians.
        centres = torch.tensor(levels)
        self.linear.weight.data.copy_(centres[:, None] / _SPREAD**2)
        self.linear.bias.data.copy_(-centres.square() / (2 * _SPREAD**2))

    def forward(self, evidence: Tensor) -> Tensor:
        """Energies kept and removed ``(batch, 2)`` to scores before the softmax ``(batch, K)``."""
        # Silence has the ratio of one; nothing kept, or nothing removed, counts as 90 dB.
        kept, removed = (evidence + 1e-9 * evidence.sum(dim=-1, keepdim=True) + 1e-30).unbind(dim=-1)
        ratio = 10 * (kept / removed).log10().unsqueeze(-1)
        # Not by nn.Linear: in training it would round the scores to bfloat16.
        scores: Tensor = ratio * self.linear.weight[:, 0] + self.linear.bias
        return scores


def energies(mask: Tensor, magnitude: Tensor) -> Tensor:
    """The mask's share of each frame's energy, and the rest: ``(batch, frames, 2)``.

    Args:
        mask: ``(batch, frames, freqs)``; a bin's energy is divided as a Wiener filter would.
        magnitude: of the mixture, of the same shape.
    """
    power = magnitude.square()
    kept = (mask * power).sum(dim=-1)
    return torch.stack([kept, power.sum(dim=-1) - kept], dim=-1)


def loudest_stretch(magnitude: Tensor, length: int, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where each of ``(batch, frames, freqs)`` has the most energy in ``length`` frames in a row.

    Args:
        magnitude: of the mixtures.
        length: of the stretch, at most the number of frames.
        frames: ``(batch,)``, the number of frames that are not padding; all, if not given.

    Returns:
        The stretch's frames ``(batch, length)``, and which of them are no padding, of the same shape.
    """
    power = magnitude.square().sum(dim=-1)
    batch, total = power.shape
    count = torch.full((batch,), total, device=power.device) if frames is None else frames.to(power.device)
    time = torch.arange(total, device=power.device)
    power = power * (time < count[:, None])
    sums = torch.nn.functional.pad(power.cumsum(dim=1), (1, 0))
    of_stretch = sums[:, length:] - sums[:, :-length]
    possible = time[: total - length + 1] <= (count[:, None] - length).clamp_min(0)
    start = of_stretch.masked_fill(~possible, -torch.inf).argmax(dim=1)
    stretch = start[:, None] + torch.arange(length, device=power.device)
    return stretch, stretch < count[:, None]
