"""Attractors: points in embedding space that pull the bins of one talker (Luo et al. 2018).

Every way to form attractors answers one call, ``form(embedding, weight, talkers, *,
assignment=None, generator=None)``, so that any embedding network works with any of them.

Shapes: embedding ``(batch, frames, freqs, dim)``, weight ``(batch, frames, freqs)``, assignments
``(batch, sources, frames, freqs)``, attractors ``(batch, sources, dim)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from unmingle.clustering import kmeans
from unmingle.errors import UnmingleError

_SHARES_AT_ONCE = 1 << 21


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

    def most_talkers(self) -> int | None:
        """The largest number of talkers it can form attractors for; None for any."""
        return None

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        talkers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        """Form ``talkers`` attractors; ``assignment`` holds the ideal one where a formation needs it."""
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
        talkers: int,
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


class KMeansAttractors(AttractorFormation):
    """Centroids of k-means clusters on the weighted bins (DANet at test time).

    Args:
        spherical: cluster directions; the attractors are centroids of the embeddings all the same.
    """

    def __init__(self, spherical: bool = False) -> None:
        super().__init__()
        self.spherical = spherical

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        talkers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        generator = generator or torch.Generator().manual_seed(0)
        with torch.no_grad():
            labels = torch.stack(
                [
                    kmeans(
                        points.flatten(0, 1),
                        weights.flatten(),
                        talkers,
                        spherical=self.spherical,
                        generator=generator,
                    )[0]
                    for points, weights in zip(embedding, weight, strict=True)
                ]
            )
        assignments = torch.nn.functional.one_hot(labels, talkers).movedim(-1, 1).to(embedding.dtype)
        assignments = assignments.reshape(*assignments.shape[:2], *embedding.shape[1:3])
        points = centroids(embedding, assignments, weight)
        return Attractors(points, assignments, similarity(points))


class AnchoredAttractors(AttractorFormation):
    """ADANet: trainable anchors stand in for the unknown assignment (Luo et al. 2018, III.D).

    Args:
        anchors: N, the number of anchors; up to N talkers can be separated.
        dimension: K, the dimension of the embedding.
    """

    def __init__(self, anchors: int, dimension: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.randn(anchors, dimension))

    def most_talkers(self) -> int | None:
        return len(self.anchors)

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        talkers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        with torch.no_grad():
            subset = self.choose_subset(embedding, weight, talkers)
        # The choice is discrete, so gradients need only the chosen subset: a fifteenth of the work.
        chosen = self.anchors[subset]
        assignments = anchor_assignments(embedding, chosen)
        points = centroids(embedding, assignments, weight)
        return Attractors(points, assignments, similarity(points))

    def choose_subset(self, embedding: Tensor, weight: Tensor, talkers: int) -> Tensor:
        """Anchors of the subset whose attractors are least alike (Eq. 15): indices ``(batch, talkers)``."""
        subsets = torch.tensor(list(combinations(range(len(self.anchors)), talkers)), device=embedding.device)
        flat, flat_weight = embedding.flatten(1, 2), weight.flatten(1)
        sums = embedding.new_zeros(len(embedding), len(subsets) * talkers, embedding.shape[-1])
        masses = embedding.new_zeros(len(embedding), len(subsets) * talkers, 1)
        # In pieces, so that the shares of all subsets stay in the processor's cache.
        size = max(1, _SHARES_AT_ONCE // (len(embedding) * subsets.numel()))
        for piece, piece_weight in zip(
            torch.split(flat, size, dim=1), torch.split(flat_weight, size, dim=1), strict=True
        ):
            # The similarities to the anchors are computed once and shared by the subsets.
            products = self.anchors @ piece.transpose(1, 2)
            shares = torch.softmax(products[:, subsets], dim=2).flatten(1, 2) * piece_weight.unsqueeze(1)
            sums += torch.bmm(shares, piece)
            masses += shares.sum(dim=-1, keepdim=True)
        points = (sums / masses.clamp_min(1e-8)).reshape(len(embedding), *subsets.shape, -1)
        return subsets[largest_similarity(points).argmin(dim=1)]


def anchor_assignments(embedding: Tensor, anchors: Tensor) -> Tensor:
    """Softmax over anchors ``(batch, sources, dim)`` of their dot product with every embedding (Eq. 14)."""
    return torch.softmax(mask_logits(embedding, anchors), dim=1)
