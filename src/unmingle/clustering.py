"""Weighted k-means on embeddings: standard, spherical and soft."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(
    points: Tensor,
    weights: Tensor,
    clusters: int,
    *,
    spherical: bool = False,
    steps: int = 30,
    restarts: int = 3,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm with k-means++ initialization; the best of several restarts.

    Args:
        points: ``(bins, dim)``.
        weights: ``(bins,)``, at least one of them positive.
        clusters: number of clusters.
        spherical: cluster directions instead of positions: points and centres have unit length.
        steps: maximum number of iterations.
        restarts: number of starts; the result with the least weighted squared distance is returned.
        generator: the only source of randomness.

    Returns:
        Labels ``(bins,)`` of all points, weighted or not, and centres ``(clusters, dim)``.
    """
    if spherical:
        points = torch.nn.functional.normalize(points, dim=-1)
    weights = _some_weight(weights)
    used = points[weights > 0]
    used_weights = weights[weights > 0]
    best_cost = float("inf")
    best_centres = used[:1].expand(clusters, -1)
    for _ in range(restarts):
        centres = _plus_plus(used, used_weights, clusters, generator)
        for _ in range(steps):
            updated = _centroids(used, used_weights, _nearest(used, centres), centres)
            if spherical:
                updated = torch.nn.functional.normalize(updated, dim=-1)
            moved = (updated - centres).abs().max()
            centres = updated
            if moved < 1e-5:
                break
        cost = float((_squared_distances(used, centres).min(dim=-1).values * used_weights).sum())
        if cost < best_cost:
            best_cost, best_centres = cost, centres
    return _nearest(points, best_centres), best_centres


def soft_kmeans(
    points: Tensor, weights: Tensor, centres: Tensor, *, hardness: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Soft weighted k-means with a fixed number of differentiable steps (Isik et al. 2016, Eq. 2).

    Responsibilities are the softmax over centres of ``-hardness * |v - mu|^2``; centres are the means
    of the points weighted by responsibility and weight. Gradients flow through all steps.

    Args:
        points: ``(batch, bins, dim)``.
        weights: ``(batch, bins)``; in the paper 0 or 1.
        centres: initial centres, ``(batch, clusters, dim)``.
        hardness: the paper's alpha.
        steps: number of updates of responsibilities and centres.

    Returns:
        Responsibilities ``(batch, clusters, bins)`` for the last centres, and the centres ``(batch, clusters, dim)``.
    """
    for _ in range(steps):
        shares = _responsibilities(points, centres, hardness) * weights.unsqueeze(1)
        centres = torch.bmm(shares, points) / shares.sum(dim=-1, keepdim=True).clamp_min(1e-8)
    return _responsibilities(points, centres, hardness), centres


def plus_plus_centres(
    points: Tensor, weights: Tensor, clusters: int, generator: torch.Generator | None = None
) -> Tensor:
    """Initial centres ``(clusters, dim)`` from the weighted points ``(bins, dim)``, by k-means++."""
    weights = _some_weight(weights)
    return _plus_plus(points[weights > 0], weights[weights > 0], clusters, generator)


def _some_weight(weights: Tensor) -> Tensor:
    """The weights, or equal ones if all are 0: in silence the clusters do not matter, but there must be some."""
    return weights if bool((weights > 0).any()) else torch.ones_like(weights)


def _responsibilities(points: Tensor, centres: Tensor, hardness: float) -> Tensor:
    # |v|^2 is the same for every centre, so it cancels in the softmax.
    closeness = 2 * torch.bmm(centres, points.transpose(1, 2)) - centres.square().sum(dim=-1, keepdim=True)
    return torch.softmax(hardness * closeness, dim=1)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """``(bins, clusters)``, by the binomial formula: one matrix product, no large intermediate."""
    squares = points.square().sum(dim=-1, keepdim=True) + centres.square().sum(dim=-1)
    return (squares - 2 * points @ centres.T).clamp_min(0)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return _squared_distances(points, centres).argmin(dim=-1)


def _centroids(points: Tensor, weights: Tensor, labels: Tensor, previous: Tensor) -> Tensor:
    sums = torch.zeros_like(previous).index_add_(0, labels, points * weights[:, None])
    mass = torch.zeros_like(previous[:, 0]).index_add_(0, labels, weights)
    # A cluster without points keeps its centre.
    return torch.where(mass[:, None] > 0, sums / mass.clamp_min(1e-12)[:, None], previous)


def _plus_plus(points: Tensor, weights: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007): distant points are more likely initial centres."""
    chosen = [_draw(points, weights, generator)]
    for _ in range(clusters - 1):
        distances = _squared_distances(points, torch.stack(chosen)).min(dim=-1).values
        chosen.append(_draw(points, weights * distances, generator))
    return torch.stack(chosen)


def _draw(points: Tensor, chances: Tensor, generator: torch.Generator | None) -> Tensor:
    cumulated = chances.double().cumsum(0)
    dart = torch.rand(1, generator=generator, dtype=torch.float64, device="cpu").to(points.device)
    index = torch.searchsorted(cumulated, dart * cumulated[-1]).clamp_max(len(points) - 1)
    return points[int(index)]
