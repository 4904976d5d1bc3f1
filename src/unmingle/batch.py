"""A batch of mixtures with their sources and labels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

GENDERS = ("F", "M", "unknown")


@dataclass
class MixtureBatch:
    """Mixtures with their sources and labels. A mixture may contain noise beside its sources."""

    mixture: Tensor
    """``(batch, samples)``."""
    sources: Tensor
    """``(batch, sources, samples)``: the targets."""
    active: Tensor
    """``(batch, sources)`` bool: false where the target is silence and no speaker."""
    lengths: Tensor | None = None
    """``(batch,)``: samples that are not padding; None if none are padding."""
    snr: Tensor | None = None
    """``(batch,)``: active level of the speakers over the level of the noise in dB; None without noise."""
    gender: Tensor | None = None
    """``(batch,)``: of the first speaker, an index into :data:`GENDERS`; None if it is not known for the batch."""

    def to(self, device: torch.device) -> MixtureBatch:
        """Copy all tensors to a device."""
        moved: dict[str, Any] = {
            field.name: None if getattr(self, field.name) is None else getattr(self, field.name).to(device)
            for field in fields(self)
        }
        return MixtureBatch(**moved)
