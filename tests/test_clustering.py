from __future__ import annotations

import numpy as np
import pytest
import torch

from unmingle.clustering import kmeans, plus_plus_centres, soft_kmeans


def _blobs(centres: list[list[float]], count: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    points = [torch.tensor(c) + spread * torch.randn(count, len(c), generator=generator) for c in centres]
    return torch.cat(points), torch.arange(len(centres)).repeat_interleave(count)


def _agrees(labels: torch.Tensor, truth: torch.Tensor) -> bool:
    return all(len(labels[truth == value].unique()) == 1 for value in truth.unique()) and len(
        labels.unique()
    ) == len(truth.unique())


def test_kmeans_finds_separate_blobs() -> None:
    points, truth = _blobs([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], 50, 0.3)
    labels, centres = kmeans(points, torch.ones(150), 3, generator=torch.Generator().manual_seed(0))
    assert _agrees(labels, truth)
    for value in range(3):
        torch.testing.assert_close(centres[value], points[labels == value].mean(dim=0), atol=1e-4, rtol=0)


Points = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _slow_kmeans(
    points: Points, weights: Points, clusters: int, *, spherical: bool, steps: int, restarts: int, seed: int
) -> tuple[list[int], Points]:
    """k-means++ and Lloyd's algorithm point by point, with the same random numbers."""
    generator = torch.Generator().manual_seed(seed)
    if spherical:
        points = np.array([point / np.sqrt(sum(point**2)) for point in points])
    used = [k for k in range(len(points)) if weights[k] > 0]

    def apart(k: int, centre: Points) -> float:
        return float(sum((points[k] - centre) ** 2))

    def nearest(k: int, centres: Points) -> int:
        return min(range(clusters), key=lambda number: apart(k, centres[number]))

    def drawn(chances: list[float]) -> Points:
        dart = float(torch.rand(1, generator=generator, dtype=torch.float64)) * sum(chances)
        return points[next(k for n, k in enumerate(used) if sum(chances[: n + 1]) >= dart)]

    found = []
    for _ in range(restarts):
        begun = [drawn([weights[k] for k in used])]
        while len(begun) < clusters:
            begun.append(drawn([weights[k] * min(apart(k, centre) for centre in begun) for k in used]))
        centres = np.array(begun)
        for _ in range(steps):
            before = centres.copy()
            for number in range(clusters):
                own = [k for k in used if nearest(k, before) == number]
                if own:
                    centres[number] = sum(weights[k] * points[k] for k in own) / sum(weights[k] for k in own)
                    if spherical:
                        centres[number] /= np.sqrt(sum(centres[number] ** 2))
            if np.abs(centres - before).max() < 1e-5:
                break
        cost = sum(weights[k] * apart(k, centres[nearest(k, centres)]) for k in used)
        found.append((cost, centres))
    centres = min(found, key=lambda pair: pair[0])[1]
    return [nearest(k, centres) for k in range(len(points))], centres


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("steps", [1, 30])
def test_kmeans_agrees_with_a_slow_reference(spherical: bool, steps: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        # Without clear clusters every start ends elsewhere. All weights of a cluster together are below 1.
        points = rng.standard_normal((24, 3)) * rng.uniform(0.2, 3.0, (24, 1)) + 0.3
        weights = rng.uniform(0.0, 0.05, 24) * (rng.random(24) > 0.2)
        expected = _slow_kmeans(points, weights, 4, spherical=spherical, steps=steps, restarts=3, seed=seed)
        labels, centres = kmeans(
            torch.from_numpy(points),
            torch.from_numpy(weights),
            4,
            spherical=spherical,
            steps=steps,
            restarts=3,
            generator=torch.Generator().manual_seed(seed),
        )
        assert labels.tolist() == expected[0]
        np.testing.assert_allclose(centres, expected[1], atol=1e-9)


def test_points_without_weight_do_not_pull_but_are_labelled() -> None:
    points, _ = _blobs([[0.0, 0.0], [5.0, 0.0]], 50, 0.3)
    outliers = torch.tensor([[500.0, 500.0]])
    weights = torch.cat([torch.ones(100), torch.zeros(1)])
    labels, centres = kmeans(
        torch.cat([points, outliers]), weights, 2, generator=torch.Generator().manual_seed(0)
    )
    assert centres.abs().max() < 10
    assert len(labels) == 101


def test_weights_act_as_repetition() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0]])
    _, centres = kmeans(points, torch.tensor([1.0, 3.0, 1.0]), 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(centres.sort(dim=0).values, torch.tensor([[0.75], [10.0]]))


def test_spherical_kmeans_clusters_directions_not_lengths() -> None:
    directions, truth = _blobs([[1.0, 0.0], [0.0, 1.0]], 40, 0.05)
    lengths = torch.rand(80, 1, generator=torch.Generator().manual_seed(1)) * 20 + 0.1
    labels, centres = kmeans(
        directions * lengths, torch.ones(80), 2, spherical=True, generator=torch.Generator().manual_seed(0)
    )
    assert _agrees(labels, truth)
    torch.testing.assert_close(centres.norm(dim=-1), torch.ones(2))


def test_more_clusters_than_different_points_does_not_crash() -> None:
    labels, centres = kmeans(torch.zeros(5, 3), torch.ones(5), 4, generator=torch.Generator().manual_seed(0))
    assert len(labels) == 5
    assert len(labels.unique()) == 1, "equal points belong together"
    assert centres.isfinite().all()


def test_soft_kmeans_follows_equation_2_step_by_step() -> None:
    """Isik et al. 2016, Eq. 2: the squared DISTANCE to the centre, weights on the centres only."""
    torch.manual_seed(0)
    points, weights, centres = torch.randn(2, 7, 3), (torch.rand(2, 7) > 0.3).float(), torch.randn(2, 2, 3)
    shares, found = soft_kmeans(points, weights, centres, hardness=2.0, steps=3)

    def responsibilities(v: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.stack([-2.0 * (v - m).square().sum() for m in mu]), dim=0)

    for b in range(2):
        mu = centres[b]
        for _ in range(3):
            gamma = torch.stack([responsibilities(v, mu) for v in points[b]])
            mu = torch.stack(
                [
                    torch.stack([weights[b, i] * gamma[i, c] * points[b, i] for i in range(7)]).sum(dim=0)
                    / torch.stack([weights[b, i] * gamma[i, c] for i in range(7)]).sum()
                    for c in range(2)
                ]
            )
        torch.testing.assert_close(found[b], mu)
        torch.testing.assert_close(shares[b].T, torch.stack([responsibilities(v, mu) for v in points[b]]))


def test_squaring_only_the_centre_gives_another_result() -> None:
    """The error of a public toolkit: with -alpha |mu|^2 all points have the same responsibilities."""
    points = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    shares, _ = soft_kmeans(points, torch.ones(1, 2), points.clone(), hardness=5.0, steps=1)
    assert shares[0, 0, 0] > 0.99
    assert shares[0, 0, 1] < 0.01


def test_gradients_flow_through_every_step_of_soft_kmeans() -> None:
    points = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    starts = torch.randn(1, 2, 2, dtype=torch.float64)
    weights = torch.rand(1, 6, dtype=torch.float64)
    for steps in (1, 4):
        assert torch.autograd.gradcheck(
            lambda v, steps=steps: soft_kmeans(v, weights, starts, hardness=1.5, steps=steps), (points,)
        )


def test_hard_enough_soft_kmeans_is_kmeans() -> None:
    points, truth = _blobs([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], 40, 0.3)
    starts = plus_plus_centres(points, torch.ones(120), 3, torch.Generator().manual_seed(0))
    shares, _ = soft_kmeans(
        points.unsqueeze(0), torch.ones(1, 120), starts.unsqueeze(0), hardness=50.0, steps=10
    )
    assert _agrees(shares[0].argmax(dim=0), truth)


def test_silence_has_clusters_too() -> None:
    points, weights = torch.randn(12, 3), torch.zeros(12)
    labels, centres = kmeans(points, weights, 2)
    assert set(labels.tolist()) <= {0, 1}
    assert torch.isfinite(centres).all()
    assert torch.isfinite(plus_plus_centres(points, weights, 2)).all()
    # As with equal weights, not as with the weight of some points.
    torch.testing.assert_close(
        kmeans(points, weights, 2, generator=torch.Generator().manual_seed(1))[1],
        kmeans(points, torch.ones(12), 2, generator=torch.Generator().manual_seed(1))[1],
    )
