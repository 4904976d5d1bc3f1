"""Attractors from clusters of embeddings: k-means, spherical k-means, and unfolded soft k-means."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.attractors.formation import AttractorFormation, Attractors, centroids, similarity
from unmingle.clustering import kmeans, plus_plus_centres, soft_kmeans


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
        speakers: int,
        *,
        assignment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Attractors:
        with torch.no_grad():
            labels = torch.stack(
                [
                    kmeans(
                        points.flatten(0, 1),
                        weights.flatten(),
                        speakers,
                        spherical=self.spherical,
                        generator=generator or _same_start(),
                    )[0]
                    for points, weights in zip(embedding, weight, strict=True)
                ]
            )
        assignments = torch.nn.functional.one_hot(labels, speakers).movedim(-1, 1).to(embedding.dtype)
        assignments = assignments.reshape(*assignments.shape[:2], *embedding.shape[1:3])
        points = centroids(embedding, assignments, weight)
        return Attractors(points, assignments, similarity(points))


class SoftKMeansAttractors(AttractorFormation):
    """Unfolded soft weighted k-means: layers without parameters that gradients pass (Isik et al. 2016, 2.3).

    Args:
        hardness: the paper's alpha.
        steps: layers of the unfolding.
    """

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
        generator: torch.Generator | None = None,
    ) -> Attractors:
        points, weights = embedding.flatten(1, 2), weight.flatten(1)
        with torch.no_grad():
            starts = torch.stack(
                [
                    plus_plus_centres(each, its_weights, speakers, generator or _same_start())
                    for each, its_weights in zip(points, weights, strict=True)
                ]
            )
        shares, centres = soft_kmeans(points, weights, starts, hardness=self.hardness, steps=self.steps)
        return Attractors(
            centres, shares.reshape(*shares.shape[:2], *embedding.shape[1:3]), similarity(centres)
        )


def _same_start() -> torch.Generator:
    """One for every mixture: what is found in it does not depend on the others of its batch."""
    return torch.Generator().manual_seed(0)
