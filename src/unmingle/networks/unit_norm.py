"""Normalize embeddings to unit length, with as few passes over their values as possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TINY = 1e-24


def unit_norm(embedding: Tensor) -> Tensor:
    """``v / |v|`` along the last dimension, in float32. The zero vector stays zero.

    The same as ``torch.nn.functional.normalize``, whose backward takes several times as long.
    """
    normalized: Tensor = _UnitNorm.apply(embedding)  # type: ignore[no-untyped-call]
    return normalized


class _UnitNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor) -> Tensor:
        values = embedding.float()
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = length.square().clamp_min(_TINY).rsqrt_()
        normalized: Tensor = values * scale
        ctx.save_for_backward(normalized, scale)
        ctx.dtype = embedding.dtype
        return normalized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        normalized, scale = ctx.saved_tensors
        (gradient,) = gradients
        # The component along v has no effect; the orthogonal component is scaled.
        along = torch.linalg.vecdot(gradient, normalized).unsqueeze(-1)
        across: Tensor = torch.addcmul(gradient, normalized, along, value=-1).mul_(scale)
        return across.to(ctx.dtype)
