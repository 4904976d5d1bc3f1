"""Fixed attractors: one set of points for all mixtures, collected from training data (Luo et al. 2018, IV-B)."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    FormationSizes,
    mask_logits,
)


class FixedAttractors(AttractorFormation):
    """Stored points. They do not depend on the mixture, so a single frame is enough.

    Args:
        speakers: number of points, which is the maximum number of speakers.
        dimension: K, the dimension of the embedding.
    """

    collected = True
    points: Tensor

    @classmethod
    def build(cls, sizes: FormationSizes) -> FixedAttractors:
        return cls(sizes.speakers, sizes.dimension)

    def __init__(self, speakers: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(speakers, dimension))

    def most_speakers(self) -> int | None:
        return len(self.points)

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        points = self.points[:speakers].expand(len(embedding), -1, -1)
        return Attractors(points, torch.softmax(mask_logits(embedding, points), dim=1))


def mean_of_largest_cluster(
    sets: Tensor, clusters: int = 2, *, steps: int = 50, generator: torch.Generator | None = None
) -> Tensor:
    """Cluster sets of attractors, and return the mean of the largest cluster. The order within a set does not count.

    This is k-means in which the distance of a set to a centre is the minimum over the orders of its members. In the
    paper there are two clusters, each a pair of opposite attractors (Fig. 5).

    Args:
        sets: ``(mixtures, sources, dim)``, one set per mixture.
        clusters: number of clusters, at most the number of sets.
        steps: maximum number of iterations.
        generator: draws the initial centres.

    Returns:
        ``(sources, dim)``.
    """
    orders = torch.tensor(list(permutations(range(sets.shape[1]))), device=sets.device)
    centres = _spread_starts(sets, orders, min(clusters, len(sets)), generator)
    labels = torch.full((len(sets),), -1, device=sets.device)
    for _ in range(steps):
        distances, order = _set_distances(sets, centres, orders)
        before, labels = labels, distances.argmin(dim=1)
        chosen = orders[order.gather(1, labels.unsqueeze(1)).squeeze(1)]
        aligned = sets.gather(1, chosen.unsqueeze(-1).expand_as(sets))
        if bool((labels == before).all()):
            break
        centres = torch.stack(
            [
                aligned[labels == k].mean(dim=0) if bool((labels == k).any()) else centres[k]
                for k in range(len(centres))
            ]
        )
    return centres[labels.bincount(minlength=len(centres)).argmax()]


def _set_distances(sets: Tensor, centres: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum squared distance to every centre, and the index of its order: both ``(mixtures, clusters)``."""
    arranged = sets[:, orders]  # (mixtures, orders, sources, dim)
    distances = (arranged.unsqueeze(2) - centres).square().sum(dim=(-2, -1))
    least, order = distances.min(dim=1)
    return least, order


def _spread_starts(sets: Tensor, orders: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """k-means++: sets far from the centres so far are more likely to be the next one."""
    first = int(torch.randint(len(sets), (1,), generator=generator))
    chosen = [sets[first]]
    for _ in range(clusters - 1):
        chances = _set_distances(sets, torch.stack(chosen), orders)[0].min(dim=1).values.clamp_min(1e-12)
        chosen.append(sets[int(torch.multinomial(chances, 1, generator=generator))])
    return torch.stack(chosen)
