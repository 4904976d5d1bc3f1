"""The interface of attractor formations, centroids, dot products, and oracle attractors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from unmingle.errors import UnmingleError


@dataclass
class Attractors:
    """Attractors, and the assignments from which they are formed."""

    points: Tensor
    """``(batch, sources, dim)``."""
    assignments: Tensor
    """``(batch, sources, frames, freqs)``: the assignments Y."""
    path: Tensor | None = None
    """``(batch, frames, sources, dim)``: attractors of every frame; None if they do not move."""

    def logits(self, embedding: Tensor) -> Tensor:
        """Dot product of every embedding with every attractor (Eq. 10): ``(batch, sources, frames, freqs)``."""
        if self.path is None:
            return mask_logits(embedding, self.points)
        return path_logits(embedding, self.path)


class FormationSizes(Protocol):
    """Sizes of formations. The config of an embedding separator has all of them."""

    @property
    def speakers(self) -> int:
        """Maximum number of speakers of the system."""

    @property
    def dimension(self) -> int:
        """K, the dimension of the embedding."""

    @property
    def anchors(self) -> int:
        """N, the number of anchors."""

    @property
    def hardness(self) -> float:
        """Alpha of soft k-means."""

    @property
    def unfolded_steps(self) -> int:
        """Steps of soft k-means."""

    @property
    def running_frames(self) -> int:
        """Tau of running attractors, in frames."""

    @property
    def start_frames(self) -> int:
        """Number of frames from which running k-means forms the first attractors."""


class AttractorFormation(nn.Module):
    """The interface. Systems and recipes read the attributes, which state the properties of a formation."""

    needs_assignment: ClassVar[bool] = False
    """It needs the ideal assignment."""
    trained: ClassVar[bool] = False
    """It has trained parameters."""
    collected: ClassVar[bool] = False
    """Its points are collected from a trained system, so it cannot be used in training."""
    gradient_through_assignments: ClassVar[bool] = True
    """Its assignments have a gradient and can be masks in training. Ideal ones and those of k-means have none."""
    counts_by_spread: ClassVar[bool] = False
    """It clusters the bins, so it needs the number of speakers. The spread of the embeddings gives this number."""
    working_copies: ClassVar[int] = 2
    """Number of arrays of the embedding's size in memory while it forms attractors, with the embedding itself. The
    memory estimate uses it."""

    @classmethod
    @abstractmethod
    def build(cls, sizes: FormationSizes) -> AttractorFormation:
        """A new formation."""

    @classmethod
    def check(cls, sizes: FormationSizes) -> None:
        """Check the sizes.

        Raises:
            ValueError: a size is not possible for this formation.
        """

    @property
    def products(self) -> int:
        """Number of dot products with each embedding to form attractors, for the count of operations."""
        return 0

    def most_speakers(self) -> int | None:
        """Maximum number of speakers; None for no limit."""
        return None

    @abstractmethod
    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        """Form attractors.

        Args:
            embedding: ``(batch, frames, freqs, dim)``.
            weight: ``(batch, frames, freqs)``.
            speakers: number of speakers.
            assignment: the ideal one, ``(batch, speakers, frames, freqs)``, if the formation needs it.
        """


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


def path_logits(embedding: Tensor, path: Tensor) -> Tensor:
    """As :func:`mask_logits`, of attractors that move: ``path`` is ``(batch, frames, sources, dim)``."""
    return (path @ embedding.transpose(2, 3)).transpose(1, 2)


def similarity(attractors: Tensor) -> Tensor:
    """``S = A A^T`` of ``(..., sources, dim)``: ``(..., sources, sources)``."""
    return attractors @ attractors.transpose(-1, -2)


def largest_similarity(attractors: Tensor) -> Tensor:
    """Largest off-diagonal element of ``A A^T`` (the inner maximum of Eq. 15): ``(...)``.

    The diagonal is left out by minus infinity, not by zero: similarities may be negative.
    One attractor alone has none to be similar to and gives minus infinity.
    """
    products = similarity(attractors)
    diagonal = torch.eye(products.shape[-1], device=products.device).bool()
    return products.masked_fill(diagonal, -torch.inf).amax(dim=(-2, -1))


class OracleAttractors(AttractorFormation):
    """Centroids of the ideal assignment: DANet's training, and the "ideal" rows of its tables."""

    needs_assignment = True
    gradient_through_assignments = False

    @classmethod
    def build(cls, sizes: FormationSizes) -> OracleAttractors:
        return cls()

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        if assignment is None:
            raise UnmingleError(
                "Oracle attractors need the true sources; choose k-means or anchors to separate a recording."
            )
        points = centroids(embedding, assignment, weight)
        return Attractors(points, assignment)
