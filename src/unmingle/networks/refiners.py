"""Networks that refine estimates: from the mixture and first estimates of its sources they compute masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmingle.networks.blstm import BlstmConfig, BlstmMasks
from unmingle.padding import within


class EnhancementNetwork(nn.Module):
    """One network shared by all sources; the masks are a softmax over sources (Isik et al. 2016).

    The input for each source is [mixture, estimate of the source], normalized by the mean and the deviation of the
    sequence. The masks have the order of the estimates. Any number of sources is possible.

    Args:
        freqs: number of frequencies.
        config: of the BLSTM.
    """

    def __init__(self, freqs: int, config: BlstmConfig) -> None:
        super().__init__()
        self.network = BlstmMasks(2 * freqs, freqs, 1, config)

    def forward(self, mixture: Tensor, estimates: Tensor, frames: Tensor | None = None) -> Tensor:
        """Magnitudes ``(batch, frames, freqs)`` and ``(batch, sources, frames, freqs)`` to masks."""
        sources = estimates.shape[1]
        pairs = torch.cat([mixture.unsqueeze(1).expand_as(estimates), estimates], dim=-1).flatten(0, 1)
        lengths = None if frames is None else frames.repeat_interleave(sources)
        values = self.network(_normalize(pairs, lengths), lengths)
        return torch.softmax(values.reshape(estimates.shape).float(), dim=1)

    def multiply_accumulates(self, frames: int, sources: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames of a mixture of ``sources``."""
        return sources * self.network.multiply_accumulates(frames)


class SecondStageNetwork(nn.Module):
    """One network that takes all estimates at once and computes all masks (uPIT-ST; Kolbaek et al. 2017).

    Args:
        freqs: number of frequencies.
        sources: the fixed number of sources.
        config: of the BLSTM.
    """

    def __init__(self, freqs: int, sources: int, config: BlstmConfig) -> None:
        super().__init__()
        self.network = BlstmMasks((1 + sources) * freqs, freqs, sources, config)

    def forward(self, mixture: Tensor, estimates: Tensor, frames: Tensor | None = None) -> Tensor:
        """Magnitudes ``(batch, frames, freqs)`` and ``(batch, sources, frames, freqs)`` to masks."""
        joined = torch.cat([mixture.unsqueeze(1), estimates], dim=1).movedim(1, 2).flatten(2)
        return torch.relu(self.network(_normalize(joined, frames), frames).float())

    def multiply_accumulates(self, frames: int, sources: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames; ``sources`` is the network's fixed number."""
        return self.network.multiply_accumulates(frames)


def _normalize(values: Tensor, frames: Tensor | None) -> Tensor:
    """Mean 0 and deviation 1 over each sequence of ``(batch, frames, values)``, without padding."""
    if frames is None:
        inside = torch.ones(values.shape[:2], device=values.device)
    else:
        inside = within(frames, values.shape[1], values.device).to(values.dtype)
    weight = inside.unsqueeze(-1) / (inside.sum(dim=1)[:, None, None] * values.shape[-1])
    mean = (values * weight).sum(dim=(1, 2), keepdim=True)
    variance = ((values - mean).square() * weight).sum(dim=(1, 2), keepdim=True)
    # The square root has no gradient at zero.
    return (values - mean) / variance.clamp_min(1e-16).sqrt()
