"""Weighted k-means on embeddings, plain and spherical."""

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
    """Lloyd's algorithm from k-means++ starts; the best of several restarts.

    Args:
        points: ``(bins, dim)``.
        weights: ``(bins,)``, at least one of them positive.
        clusters: number of clusters.
        spherical: cluster directions instead of positions: points and centres have unit length.
        steps: at most so many iterations.
        restarts: starts, of which the one with the least weighted squared distance is kept.
        generator: the only source of randomness.

    Returns:
        Labels ``(bins,)`` of all points, weighted or not, and centres ``(clusters, dim)``.
    """
    if spherical:
        points = torch.nn.functional.normalize(points, dim=-1)
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


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """``(bins, clusters)``, by the binomial formula: one matrix product, no large intermediate."""
    squares = points.square().sum(dim=-1, keepdim=True) + centres.square().sum(dim=-1)
    return (squares - 2 * points @ centres.T).clamp_min(0)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return _squared_distances(points, centres).argmin(dim=-1)


def _centroids(points: Tensor, weights: Tensor, labels: Tensor, previous: Tensor) -> Tensor:
    sums = torch.zeros_like(previous).index_add_(0, labels, points * weights[:, None])
    mass = torch.zeros_like(previous[:, 0]).index_add_(0, labels, weights)
    # A cluster that lost all its points stays where it was.
    return torch.where(mass[:, None] > 0, sums / mass.clamp_min(1e-12)[:, None], previous)


def _plus_plus(points: Tensor, weights: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007): far points are likelier starts."""
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
