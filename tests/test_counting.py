from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unmingle.counting import (
    SPREAD_SHARE,
    count_by_energy,
    count_by_spread,
    count_levels,
    typical_levels,
    with_and_without_noise,
)


def _embedding(points: torch.Tensor, shares: list[float], noise: float = 0.1) -> torch.Tensor:
    """``(1, 40, 25, dim)``: bins near the points, in the given shares."""
    generator = torch.Generator().manual_seed(0)
    counts = [round(share * 1000) for share in shares]
    counts[0] += 1000 - sum(counts)
    rows = torch.cat([point.expand(count, -1) for point, count in zip(points, counts, strict=True)])
    rows = rows[torch.randperm(1000, generator=generator)]
    return (rows + noise * torch.randn(rows.shape, generator=generator)).reshape(1, 40, 25, -1)


def test_energy_rule_drops_outputs_20_db_below_the_loudest() -> None:
    loud, quiet = torch.randn(1, 1, 8000), torch.randn(1, 1, 8000)
    for decibels, expected in ((-19.0, 2), (-21.0, 1)):
        scaled = quiet * (loud.norm() / quiet.norm()) * 10 ** (decibels / 20)
        counted = count_by_energy(torch.cat([loud, scaled], dim=1))
        assert counted.count.tolist() == [expected]
        assert counted.confidence.item() == pytest.approx(0.193, abs=1e-3)


def test_confidence_by_energy_grows_with_the_distance_from_20_db() -> None:
    levels = torch.tensor([[0.0, -25.0], [0.0, -30.0], [0.0, -10.0], [0.0, -40.0], [0.0, 0.0]])
    counted = count_levels(levels)
    assert counted.count.tolist() == [1, 1, 2, 1, 2]
    assert counted.confidence.tolist() == pytest.approx([0.385, 0.675, 0.675, 0.958, 0.958], abs=1e-3)


def test_energy_rule_is_sure_of_clear_cases_and_counts_silence_as_one() -> None:
    voices = torch.randn(1, 3, 8000)
    assert count_by_energy(voices).count.tolist() == [3]
    assert count_by_energy(voices).confidence.item() > 0.9
    assert count_by_energy(torch.zeros(2, 3, 100)).count.tolist() == [1, 1]


def test_levels_over_one_window_are_those_of_the_energy_rule() -> None:
    voices = torch.randn(1, 3, 8000) * torch.tensor([1.0, 0.05, 0.2])[:, None]
    levels = typical_levels(voices.square().sum(dim=-1))
    whole, typical = count_by_energy(voices), count_levels(levels[None])
    assert whole.count.tolist() == typical.count.tolist() == [2]
    torch.testing.assert_close(typical.confidence, whole.confidence)


def test_who_speaks_in_a_tenth_of_the_windows_is_counted_however_little_energy_that_is() -> None:
    energy = torch.full((40, 4), 1e-4)
    energy[:, 0] = 1.0
    energy[::2, 1] = 0.5
    energy[:4, 2] = 0.3  # 24 dB below the first speaker in the whole recording, 5 dB in a tenth of it.
    energy[:3, 3] = 0.3
    levels = typical_levels(energy)
    assert count_levels(levels[None]).count.tolist() == [3]
    assert levels.tolist() == pytest.approx([0.0, -3.01, -5.23, -40.0], abs=0.01)


def test_silent_windows_count_nobody() -> None:
    energy = torch.tensor([[1.0, 1e-6]] * 8 + [[1e-6, 1e-6]] * 8)
    assert count_levels(typical_levels(energy)[None]).count.tolist() == [1]
    assert count_levels(typical_levels(torch.zeros(5, 3))[None]).count.tolist() == [1]


@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_spread_counts_orthogonal_speakers(speakers: int) -> None:
    """Deep clustering puts the bins of a speaker at one point, orthogonal to the points of the others."""
    points = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(1))).Q[:speakers]
    counted = count_by_spread(_embedding(points, [1 / speakers] * speakers, 0.03), torch.ones(1, 40, 25), 5)
    assert counted.count.tolist() == [speakers]
    assert counted.confidence.item() > 0.7


def test_spread_counts_opposite_speakers_as_two() -> None:
    """Attractor networks put two speakers opposite each other (Luo's Fig. 5)."""
    points = torch.tensor([[2.0, 0, 0, 0], [-2.0, 0, 0, 0]])
    assert count_by_spread(_embedding(points, [0.7, 0.3]), torch.ones(1, 40, 25), 3).count.tolist() == [2]


def test_spread_ignores_bins_without_weight_and_never_exceeds_the_maximum() -> None:
    points = torch.eye(5)[:3]
    embedding = _embedding(points, [0.4, 0.3, 0.3], 0.01)
    only_first = (embedding.argmax(dim=-1) == 0).float()
    assert count_by_spread(embedding, only_first, 3).count.tolist() == [1]
    everything = torch.ones(1, 40, 25)
    assert count_by_spread(embedding, everything, 3).count.tolist() == [3]
    assert count_by_spread(embedding, everything, 2).count.tolist() == [2]
    assert count_by_spread(embedding, everything, 1).count.tolist() == [1]


def test_spread_counts_a_small_speaker_down_to_the_stated_share() -> None:
    """Two orthogonal points in shares p and 1 - p spread 2 p (1 - p)."""
    points = torch.eye(6)[:2]
    for share in (0.2, 0.02):
        counted = count_by_spread(_embedding(points, [1 - share, share], 0.0), torch.ones(1, 40, 25), 3)
        assert (counted.count.item() == 2) == (2 * share * (1 - share) > SPREAD_SHARE)


@pytest.mark.parametrize(("removed", "threshold"), [(0, 11.5), (20, 11.5), (25, 16.75), (30, 22), (90, 22)])
def test_after_cleaning_the_threshold_follows_the_noise_and_the_confidence_its_own_curve(
    removed: float, threshold: float
) -> None:
    levels = torch.tensor([[0.0, -threshold - 1.0], [0.0, 0.5 - threshold], [0.0, -2.0 * threshold]])
    counted = count_levels(levels, removed)
    assert counted.count.tolist() == [1, 2, 1]
    expected = [1 / (1 + math.exp(-0.32 * distance)) for distance in (1.0, 0.5, threshold)]
    assert counted.confidence.tolist() == pytest.approx(expected, abs=1e-3)


def test_levels_with_and_without_noise_are_means_in_db() -> None:
    energy, cleaned = torch.tensor([1.0, 0.1, 1e-3]), torch.tensor([[10.0, 1e-2, 10.0], [1e2, 1e-3, 10.0]])
    levels = 10 * with_and_without_noise(energy, cleaned).log10()
    torch.testing.assert_close(levels, torch.tensor([10.0, -20.0, -10.0 / 3]))
    levels = 10 * with_and_without_noise(energy, cleaned[:1]).log10()
    torch.testing.assert_close(levels, torch.tensor([5.0, -15.0, -10.0]))
    # Nothing is left of a source of which nothing is left in one way.
    assert with_and_without_noise(torch.ones(2).double(), torch.tensor([[1.0, 0.0]]))[1] < 1e-30


def test_just_above_the_threshold_is_a_speaker_and_silence_is_surely_none() -> None:
    assert count_levels(torch.tensor([[0.0, -19.5]])).count.tolist() == [2]
    counted = count_by_energy(torch.cat([torch.ones(1, 1, 100), torch.zeros(1, 1, 100)], dim=1))
    assert counted.count.tolist() == [1]
    assert counted.confidence.item() == pytest.approx(1.0 / (1.0 + math.exp(1.67 - 0.24 * 20.0)), abs=1e-4)


@pytest.mark.parametrize(("quiet", "speakers"), [(0.006, 2), (0.004, 1)])
def test_windows_below_a_hundredth_of_the_mean_are_silent(quiet: float, speakers: int) -> None:
    energy = torch.tensor([[1.0, 1e-6]] * 10 + [[quiet, quiet]] * 10)
    assert count_levels(typical_levels(energy)[None]).count.tolist() == [speakers]


@pytest.mark.parametrize("share", [0.031, 0.2, 0.5])
def test_spread_is_the_eigenvalues_of_the_weighted_covariance(share: float) -> None:
    rng = np.random.default_rng(3)
    points = np.eye(6)[(rng.random(2400) < share).astype(int)] + 0.05 * rng.standard_normal((2400, 6))
    points *= rng.uniform(0.5, 2.0, (2400, 1))
    weights = rng.uniform(0.1, 1.0, 2400)
    unit = [point / np.sqrt(sum(point**2)) for point in points]
    mean = sum(w * u for w, u in zip(weights, unit, strict=True)) / sum(weights)
    spread = sum(w * np.outer(u - mean, u - mean) for w, u in zip(weights, unit, strict=True)) / sum(weights)
    values = sorted(np.linalg.eigvalsh(spread))[::-1][:3]
    ratios = [math.log(value / 0.04) for value in values]
    # More frames than are summed at once.
    embedding = torch.from_numpy(points).reshape(1, 1200, 2, 6)
    counted = count_by_spread(embedding, torch.from_numpy(weights).reshape(1, 1200, 2), 4)
    assert counted.count.item() == 1 + sum(ratio > 0 for ratio in ratios)
    least = min(1 / (1 + math.exp(-2 * abs(ratio))) for ratio in ratios)
    assert counted.confidence.item() == pytest.approx(least, abs=1e-5)
