"""The mean of the largest cluster of attractor sets, against a slow reference with the same random numbers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from unmingle.attractors.fixed import mean_of_largest_cluster

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _nearest_order(members: Array, centre: Array) -> tuple[float, Array]:
    """The least squared distance over the orders of the members, and the members in that order."""
    return min(
        ((float(((members[list(order)] - centre) ** 2).sum()), members[list(order)])
         for order in permutations(range(len(members)))),
        key=lambda pair: pair[0],
    )  # fmt: skip


def _slowly(sets: Array, clusters: int, steps: int, seed: int) -> Array:
    generator = torch.Generator().manual_seed(seed)
    centres = [sets[int(torch.randint(len(sets), (1,), generator=generator))]]
    while len(centres) < clusters:
        chances = [max(min(_nearest_order(one, c)[0] for c in centres), 1e-12) for one in sets]
        drawn = torch.multinomial(torch.tensor(chances, dtype=torch.float64), 1, generator=generator)
        centres.append(sets[int(drawn)])
    labels: list[int] = []
    for _ in range(steps):
        before = labels
        labels = [min(range(clusters), key=lambda k: _nearest_order(one, centres[k])[0]) for one in sets]
        if labels == before:
            break
        for k in range(clusters):
            own = [
                _nearest_order(one, centres[k])[1]
                for one, label in zip(sets, labels, strict=True)
                if label == k
            ]
            if own:
                centres[k] = np.mean(own, axis=0)
    return centres[max(range(clusters), key=labels.count)]


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_largest_cluster_of_sets_agrees_with_a_slow_reference(sources: int, steps: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sets = rng.standard_normal((15, sources, 4)) * rng.uniform(0.3, 2.0, (15, 1, 1))
        found = mean_of_largest_cluster(
            torch.from_numpy(sets), 3, steps=steps, generator=torch.Generator().manual_seed(seed)
        )
        np.testing.assert_allclose(found, _slowly(sets, 3, steps, seed), atol=1e-12)


def test_clusters_without_sets_keep_their_centre() -> None:
    one = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_of_largest_cluster(torch.stack([one, one.flip(0), one]), 3)
    assert found.isfinite().all()
    assert min(float((found - order).abs().max()) for order in (one, one.flip(0))) < 1e-12
