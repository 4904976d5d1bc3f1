"""Tracking: which window's source is which speaker, on windows whose answer is known."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch

from unmingle.separation.tracking import WindowSources, assign_speakers, best_path, overlap_agreement, padded


def _windows(
    count: int,
    sources: int = 2,
    *,
    seed: int = 0,
    scatter: float = 0.1,
    agreement: float = 0.95,
    silent: tuple[int, int] = (0, 0),
) -> tuple[list[WindowSources], np.ndarray]:
    """Windows whose sources come in random order, and the true speaker of every source ``(windows, sources)``."""
    rng = np.random.default_rng(seed)
    points = 3 * rng.standard_normal((sources, 5))
    truth = np.stack([rng.permutation(sources) for _ in range(count)])
    windows = []
    for number, speakers in enumerate(truth):
        attractors = points[speakers] + scatter * rng.standard_normal((sources, 5))
        shared = None
        if number:
            same = truth[number - 1][:, None] == speakers[None, :]
            off = (1 - agreement) / max(1, sources - 1)
            shared = 100 * np.where(same, agreement, off)
            if silent[0] <= number < silent[1]:
                shared = 1e-7 * rng.random((sources, sources))
        windows.append(WindowSources(np.ones((sources, 50)), attractors, shared))
    return windows, truth


def _right(windows: list[WindowSources], truth: np.ndarray) -> bool:
    """Whether the assignment is the truth, up to one renaming of the speakers for all windows."""
    found = np.stack(assign_speakers(windows).speakers)
    renamed = {(int(t), int(f)) for t, f in zip(truth.flat, found.flat, strict=True)}
    return len(renamed) == truth.shape[1]


@pytest.mark.parametrize("sources", [2, 3])
def test_overlaps_alone_join_windows(sources: int) -> None:
    windows, truth = _windows(30, sources, agreement=0.8)
    blind = [WindowSources(window.power, None, window.agreement) for window in windows]
    assert _right(blind, truth)


def test_attractors_recognize_speakers_over_a_silence() -> None:
    outcomes = []
    for seed in range(8):
        windows, truth = _windows(30, scatter=0.5, silent=(14, 16), seed=seed)
        assert _right(windows, truth)
        blind = [WindowSources(window.power, None, window.agreement) for window in windows]
        outcomes.append(_right(blind, truth))
    # Without attractors nothing links both halves: by chance they fit on one of two seeds.
    assert not all(outcomes)


def test_overlaps_outvote_attractors_that_drift() -> None:
    """Attractors that change places in the middle do not make speakers change files."""
    windows, truth = _windows(20, scatter=0.1)
    for number in range(10, 20):
        window = windows[number]
        assert window.attractors is not None
        # Weak evidence: both attractors are nearly alike there.
        windows[number] = WindowSources(
            window.power,
            0.5 * window.attractors.mean(axis=0) + 0.01 * window.attractors[::-1],
            window.agreement,
        )
    assert _right(windows, truth)


def test_a_silent_source_has_no_say() -> None:
    windows, truth = _windows(20, seed=1)
    for number in (5, 6, 7):
        window = windows[number]
        assert window.attractors is not None
        power, attractors = window.power.copy(), window.attractors.copy()
        quiet = int(np.argmax(truth[number] == 1))
        power[quiet], attractors[quiet] = 1e-6, 100.0
        windows[number] = WindowSources(power, attractors, window.agreement)
    assert _right(windows, truth)


def test_two_sources_of_one_window_are_two_speakers() -> None:
    same = np.zeros((2, 5))
    windows = [WindowSources(np.ones((2, 9)), same, None if k == 0 else np.ones((2, 2))) for k in range(6)]
    for speakers in assign_speakers(windows).speakers:
        assert sorted(speakers.tolist()) == [0, 1]


def test_doubt_shows_in_the_confidence() -> None:
    sure, _ = _windows(20)
    assert assign_speakers(sure).confidence == 1.0
    same = np.zeros((2, 5))
    windows = [WindowSources(np.ones((2, 9)), same, None if k == 0 else np.ones((2, 2))) for k in range(6)]
    assert assign_speakers(windows).confidence == 0.0


def test_the_best_path_is_the_best_of_all_paths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        fits, links = rng.standard_normal((5, 3)), rng.standard_normal((4, 3, 3))
        scores = {
            path: sum(fits[k, state] for k, state in enumerate(path))
            + sum(links[k, path[k], path[k + 1]] for k in range(4))
            for path in product(range(3), repeat=5)
        }
        best = max(scores, key=lambda path: scores[path])
        states, margins = best_path(fits, links)
        assert tuple(states.tolist()) == best
        for k in range(5):
            others = max(score for path, score in scores.items() if path[k] != best[k])
            assert margins[k] == pytest.approx(scores[best] - others)


def test_agreement_counts_energy_of_pairs_of_sources() -> None:
    torch.manual_seed(0)
    before, after, magnitude = torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.rand(3, 4)
    found = overlap_agreement(before, after, magnitude)
    for i, j in permutations(range(2), 2):
        expected = sum(
            float(before[i, t, f] * after[j, t, f] * magnitude[t, f] ** 2) for t in range(3) for f in range(4)
        )
        assert found[i, j] == pytest.approx(expected, rel=1e-5)


def test_windows_of_fewer_sources_are_joined_to_those_of_more() -> None:
    """Of four speakers, two or three are heard in most windows."""
    windows, truth = _windows(40, 4, scatter=0.3)
    rng = np.random.default_rng(1)
    heard: list[Any] = []
    kept: list[Any] = []
    for number, window in enumerate(windows):
        count = 4 if number % 5 == 0 else int(rng.integers(1, 4))
        assert window.attractors is not None
        shared = window.agreement
        if shared is not None:
            shared = shared[: len(kept[-1]), :count]
        heard.append(WindowSources(window.power[:count], window.attractors[:count], shared))
        kept.append(truth[number][:count])
    assignment = assign_speakers([padded(window, 4) for window in heard])
    found = [speakers[: len(own)] for speakers, own in zip(assignment.speakers, kept, strict=True)]
    pairs = zip(np.concatenate(kept).tolist(), np.concatenate(found).tolist(), strict=True)
    assert len(set(pairs)) == 4
    assert assignment.confidence > 0.95
