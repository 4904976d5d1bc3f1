"""Padding: how many frames a length has, and what of a padded batch is real."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Count = TypeVar("Count", int, Tensor)


def frame_count(samples: Count, hop: int) -> Count:
    """Number of frames, one every ``hop`` samples, of a spectrogram of so many samples: a number or ``(batch,)``."""
    frames: Count = samples // hop + 1
    return frames


def frame_counts(lengths: Tensor | None, hop: int) -> Tensor | None:
    """:func:`frame_count` of a batch's lengths in samples ``(batch,)``; None where nothing is padded."""
    return None if lengths is None else frame_count(lengths, hop)


def within(lengths: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """Which positions of a padded batch are not padding: ``(batch, size)`` bool.

    Args:
        lengths: ``(batch,)``, in samples or in frames, as ``size`` is.
        size: of the padded dimension.
        device: of the result (default: that of ``lengths``).
    """
    device = device or lengths.device
    return torch.arange(size, device=device) < lengths.to(device)[:, None]
