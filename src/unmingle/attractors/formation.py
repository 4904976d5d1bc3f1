"""What all attractor formations share: the one call, centroids, dot products; and oracle attractors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmingle.errors import UnmingleError


@dataclass
class Attractors:
    """Attractors and how they came about."""

    points: Tensor
    """``(batch, sources, dim)``."""
    assignments: Tensor
    """``(batch, sources, frames, freqs)``: the Y that formed them."""
    similarity: Tensor
    """``(batch, sources, sources)``: dot products of the points."""


class AttractorFormation(nn.Module):
    """The common interface; some formations have trainable or stored state."""

    needs_assignment = False
    """True if the formation works from the ideal assignment only."""

    def most_speakers(self) -> int | None:
        """The largest number of speakers it can form attractors for; None for any."""
        return None

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        """Form ``speakers`` attractors; ``assignment`` holds the ideal one where a formation needs it."""
        raise NotImplementedError


def centroids(embedding: Tensor, assignments: Tensor, weight: Tensor) -> Tensor:
    """Attractors ``A_i = sum(Y_i W V) / sum(Y_i W)`` (Luo et al. 2018, Eq. 9): ``(batch, sources, dim)``.

    A source without any bin gets the zero vector.
    """
    weighted = (assignments * weight.unsqueeze(1)).flatten(2)
    mass = weighted.sum(dim=-1, keepdim=True).clamp_min(1e-8)
    return torch.bmm(weighted, embedding.flatten(1, 2)) / mass


def mask_logits(embedding: Tensor, attractors: Tensor) -> Tensor:
    """Dot product of every embedding with every attractor (Eq. 10): ``(batch, sources, frames, freqs)``."""
    products = torch.bmm(attractors, embedding.flatten(1, 2).transpose(1, 2))
    return products.reshape(*products.shape[:2], *embedding.shape[1:3])


def similarity(attractors: Tensor) -> Tensor:
    """``S = A A^T`` of ``(..., sources, dim)``: ``(..., sources, sources)``."""
    return attractors @ attractors.transpose(-1, -2)


def largest_similarity(attractors: Tensor) -> Tensor:
    """Largest off-diagonal element of ``A A^T`` (the inner maximum of Eq. 15): ``(...)``.

    The diagonal is left out by minus infinity, not by zero: similarities may be negative.
    One attractor alone has none to be similar to and gives minus infinity.
    """
    products = similarity(attractors)
    diagonal = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return products.masked_fill(diagonal, -torch.inf).amax(dim=(-2, -1))


class OracleAttractors(AttractorFormation):
    """Centroids of the ideal assignment: DANet's training, and the "ideal" rows of its tables."""

    needs_assignment = True

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        if assignment is None:
            raise UnmingleError(
                "Oracle attractors need the true sources; choose k-means or anchors to separate a recording."
            )
        points = centroids(embedding, assignment, weight)
        return Attractors(points, assignment, similarity(points))
