"""Gates of local experts: networks that hear a mixture and score the specialists, once for an utterance.

What a gate says of single frames, its evidence, is averaged over time; from the mean come the scores.
So a stream can go on averaging, and an utterance of any length has one choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from unmingle.masks import wiener_filter_mask
from unmingle.networks import Lstm, LstmConfig

_SPREAD = 4.0
"""Decibels by which a fresh gate takes its ratio to miss the SNR."""


class GateConfig(LstmConfig):
    """Sizes of a gate, and what its LSTM gives for every frame."""

    output: Literal["scores", "mask"] = "scores"
    """``scores`` of the specialists, as in the paper; or (ours) a ``mask``, and the specialists are
    scored by the ratio of what it keeps of the mixture to what it removes."""


class Gate(Lstm):
    """The gate of Sivaraman & Kim 2020: an LSTM scores every specialist at every frame.

    Args:
        freqs: of the features.
        choices: K, the number of specialists.
        config: sizes.
    """

    def __init__(self, freqs: int, choices: int, config: GateConfig) -> None:
        super().__init__(freqs, choices, config)

    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        """What to average over time ``(batch, frames, values)``.

        Args:
            outputs: of the LSTM, ``(batch, frames, outputs)``.
            magnitude: of the mixture relative to its level, ``(batch, frames, freqs)``.
        """
        return outputs.float()

    def scores(self, evidence: Tensor) -> Tensor:
        """Mean evidence ``(batch, values)`` to scores before the softmax ``(batch, K)``."""
        return evidence

    def error(self, outputs: Tensor, magnitude: Tensor, spectrum: Tensor, sources: Tensor) -> Tensor:
        """What the outputs themselves are trained for beside the choice: ``(batch,)``.

        Args:
            outputs: of the LSTM, ``(batch, frames, outputs)``.
            magnitude: of the mixture relative to its level, ``(batch, frames, freqs)``.
            spectrum: of the mixture, of the same shape, complex.
            sources: the talker's spectrogram, of the same shape, complex.
        """
        return outputs.new_zeros(len(outputs))


class MaskGate(Gate):
    """A gate that masks the noise itself, and scores by the SNR that it finds so (ours).

    Every bin of the mask is taught (WFM, cross-entropy weighted by power), where scores have one label
    an utterance; all that is left of an utterance is one ratio in dB, of which each specialist's score
    is a linear function. Such a gate is right more often in noise of kinds it was not trained with.
    """

    def __init__(self, freqs: int, levels: Sequence[float], config: GateConfig) -> None:
        Lstm.__init__(self, freqs, freqs, config)
        self.choice = nn.Linear(1, len(levels))
        # Classes of equal spread around their levels: the discriminant of Gaussians.
        centres = torch.tensor(levels)
        self.choice.weight.data.copy_(centres[:, None] / _SPREAD**2)
        self.choice.bias.data.copy_(-centres.square() / (2 * _SPREAD**2))

    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        power = magnitude.square()
        kept = (torch.sigmoid(outputs.float()) * power).sum(dim=-1)
        return torch.stack([kept, power.sum(dim=-1) - kept], dim=-1)

    def scores(self, evidence: Tensor) -> Tensor:
        kept, removed = evidence.clamp_min(1e-9).unbind(dim=-1)
        scores: Tensor = self.choice(10 * (kept / removed).log10().unsqueeze(-1))
        return scores

    def error(self, outputs: Tensor, magnitude: Tensor, spectrum: Tensor, sources: Tensor) -> Tensor:
        target = wiener_filter_mask(torch.stack([sources, spectrum - sources], dim=1))[:, 0]
        power = magnitude.square()
        errors = binary_cross_entropy_with_logits(outputs.float(), target, reduction="none")
        return (errors * power).sum(dim=(1, 2)) / power.sum(dim=(1, 2)).clamp_min(1e-9)
