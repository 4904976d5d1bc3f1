from __future__ import annotations

import torch

from unmingle.clustering import kmeans


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


def test_more_clusters_than_different_points_is_no_crash() -> None:
    labels, centres = kmeans(torch.zeros(5, 3), torch.ones(5), 4, generator=torch.Generator().manual_seed(0))
    assert len(labels) == 5
    assert len(labels.unique()) == 1, "equal points belong together"
    assert centres.isfinite().all()
