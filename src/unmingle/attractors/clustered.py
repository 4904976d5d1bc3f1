"""Attractors from clusters of embeddings: k-means, spherical k-means, and unfolded soft k-means."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    FormationSizes,
    centroids,
)
from unmingle.clustering import kmeans, plus_plus_centres, soft_kmeans


class KMeansAttractors(AttractorFormation):
    """Centroids of k-means clusters on the weighted bins (DANet at test time)."""

    gradient_through_assignments = False
    counts_by_spread = True
    # Clustering copies the bins with weight, normalizes them, and weights them.
    working_copies = 5
    spherical: ClassVar[bool] = False
    """Whether the directions of embeddings are clustered."""

    @classmethod
    def build(cls, sizes: FormationSizes) -> KMeansAttractors:
        return cls()

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        with torch.no_grad():
            labels = torch.stack(
                [
                    kmeans(
                        points.flatten(0, 1),
                        weights.flatten(),
                        speakers,
                        spherical=self.spherical,
                        generator=_same_start(),
                    )[0]
                    for points, weights in zip(embedding, weight, strict=True)
                ]
            )
        assignments = torch.nn.functional.one_hot(labels, speakers).movedim(-1, 1).to(embedding.dtype)
        assignments = assignments.reshape(*assignments.shape[:2], *embedding.shape[1:3])
        points = centroids(embedding, assignments, weight)
        return Attractors(points, assignments)


class SphericalKMeansAttractors(KMeansAttractors):
    """Like :class:`KMeansAttractors`, but with clusters of directions. Attractors are centroids of the embeddings."""

    spherical = True


class SoftKMeansAttractors(AttractorFormation):
    """Unfolded soft weighted k-means: layers without parameters, with gradients (Isik et al. 2016).

    Args:
        hardness: the paper's alpha.
        steps: layers of the unfolding.
    """

    counts_by_spread = True
    working_copies = 5

    @classmethod
    def build(cls, sizes: FormationSizes) -> SoftKMeansAttractors:
        return cls(sizes.hardness, sizes.unfolded_steps)

    def __init__(self, hardness: float, steps: int) -> None:
        super().__init__()
        self.hardness, self.steps = hardness, steps

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        points, weights = embedding.flatten(1, 2), weight.flatten(1)
        with torch.no_grad():
            starts = torch.stack(
                [
                    plus_plus_centres(each, its_weights, speakers, _same_start())
                    for each, its_weights in zip(points, weights, strict=True)
                ]
            )
        shares, centres = soft_kmeans(points, weights, starts, hardness=self.hardness, steps=self.steps)
        return Attractors(centres, shares.reshape(*shares.shape[:2], *embedding.shape[1:3]))


def _same_start() -> torch.Generator:
    """One generator per mixture, so that a result does not depend on the other mixtures of the batch."""
    return torch.Generator().manual_seed(0)
