"""Running attractors: the equations of ODANet against a slow loop, whole and frame by frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unmingle.attractors import (
    KMeansAttractors,
    RunningAnchoredAttractors,
    RunningAttractors,
    RunningKMeansAttractors,
    RunningState,
)

F, K, C = 5, 4, 2
Array = NDArray[np.float64]


def _formation(kind: str, frames: int = 4, start_frames: int = 3) -> RunningAttractors:
    torch.manual_seed(3)
    if kind == "kmeans":
        return RunningKMeansAttractors(frames, start_frames)
    return RunningAnchoredAttractors(C, K, frames)


def _recording(frames: int, silent: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and weights of one recording that begins with silence and has a pause."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(1, frames, F, K, generator=generator)
    weight = (torch.rand(1, frames, F, generator=generator) > 0.3).float()
    weight[:, :silent] = 0
    if silent < frames:
        weight[:, silent, 0] = 1
    weight[:, silent + 8 : silent + 14] = 0
    return embedding, weight


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    share: Array = powers / powers.sum(axis=-1, keepdims=True)
    return share


def _slow_path(embedding: Array, weight: Array, anchors: Array, tau: int) -> Array:
    """Eq. of Han et al. 2019, one frame, speaker and bin after the other: ``(frames, speakers, dim)``."""
    frames = len(embedding)
    path = np.zeros((frames, C, K))
    points: Array | None = None
    masses: list[Array] = []
    for t in range(frames):
        if weight[t].sum() == 0:
            path[t] = 0 if points is None else points
            continue
        assigning = anchors if points is None else points
        mass, sums = np.zeros(C), np.zeros((C, K))
        for f in range(F):
            shares = _softmax(assigning @ embedding[t, f])
            for c in range(C):
                mass[c] += shares[c] * weight[t, f]
                sums[c] += shares[c] * weight[t, f] * embedding[t, f]
        masses.append(mass)
        found = sums / mass[:, None]
        alpha = mass / np.sum(masses[-tau:], axis=0)
        points = found if points is None else (1 - alpha[:, None]) * points + alpha[:, None] * found
        path[t] = points
    return path


@pytest.mark.parametrize("tau", [1, 4, 100])
def test_a_batch_follows_the_equations_of_odanet(tau: int) -> None:
    formation = _formation("anchored", tau)
    pieces = [_recording(30, 0, 1), _recording(30, 5, 2), _recording(30, 29, 3), _recording(30, 30, 4)]
    embedding, weight = (torch.cat(each) for each in zip(*pieces, strict=True))
    formed = formation.form(embedding, weight, C)
    assert isinstance(formation, RunningAnchoredAttractors)
    assert formed.path is not None
    anchors = formation.first.anchors.detach().double().numpy()
    for index in range(len(pieces)):
        expected = _slow_path(embedding[index].double().numpy(), weight[index].double().numpy(), anchors, tau)
        np.testing.assert_allclose(formed.path[index].detach().numpy(), expected, atol=1e-5)
    torch.testing.assert_close(formed.points[:2], formed.path[:2, -1])


def test_each_frames_masks_come_from_its_own_attractors() -> None:
    embedding, weight = _recording(12)
    with torch.no_grad():
        formed = _formation("anchored").form(embedding, weight, C)
    assert formed.path is not None
    logits = formed.logits(embedding)
    for t in range(12):
        for c in range(C):
            for f in range(F):
                dot = float(formed.path[0, t, c] @ embedding[0, t, f])
                assert float(logits[0, c, t, f]) == pytest.approx(dot, abs=1e-5)
    for t in range(1, 12):
        shares = _softmax((embedding[0, t] @ formed.path[0, t - 1].T).numpy())
        np.testing.assert_allclose(formed.assignments[0, :, t].numpy().T, shares, atol=1e-5)


def test_kmeans_begins_on_the_start_buffer_and_then_follows_the_nearest_attractor() -> None:
    tau, start = 4, 3
    embedding, weight = _recording(20, 2)
    formed = _formation("kmeans", tau, start).form(embedding, weight, C)
    first = KMeansAttractors().form(embedding[:, 2:5], weight[:, 2:5], C)
    path = torch.zeros(20, C, K)
    path[2:5] = first.points[0]
    masses = list((first.assignments[0] * weight[0, 2:5]).sum(dim=2).T)
    for t in range(5, 20):
        points = path[t - 1].clone()
        if float(weight[0, t].sum()) > 0:
            nearest = torch.cdist(embedding[0, t], points).argmin(dim=1)
            mass = torch.stack([(weight[0, t] * (nearest == c)).sum() for c in range(C)])
            masses.append(mass)
            for c in range(C):
                if float(mass[c]) > 0:
                    chosen = weight[0, t] * (nearest == c)
                    found = (chosen[:, None] * embedding[0, t]).sum(dim=0) / mass[c]
                    alpha = mass[c] / torch.stack(masses[-tau:])[:, c].sum()
                    points[c] = (1 - alpha) * points[c] + alpha * found
        path[t] = points
    assert formed.path is not None
    torch.testing.assert_close(formed.path[0], path, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["anchored", "kmeans"])
def test_only_the_ratio_of_weights_counts(kind: str) -> None:
    embedding, weight = _recording(20, 2)
    formation = _formation(kind)
    whole, small = (formation.form(embedding, scale * weight, C) for scale in (1.0, 1e-3))
    assert whole.path is not None
    assert small.path is not None
    torch.testing.assert_close(small.path, whole.path, atol=1e-4, rtol=0)


def test_kmeans_assigns_every_bin_to_the_nearest_attractor() -> None:
    generator = torch.Generator().manual_seed(4)
    embedding, points = (
        torch.randn(2, 5, 9, 3, generator=generator),
        torch.randn(2, 4, 3, generator=generator),
    )
    shares = _formation("kmeans").assign(embedding, points)
    for b in range(2):
        for t in range(5):
            for f in range(9):
                distances = [float((embedding[b, t, f] - point).square().sum()) for point in points[b]]
                assert int(shares[b, :, t, f].argmax()) == distances.index(min(distances))
                assert float(shares[b, :, t, f].sum()) == 1.0


@pytest.mark.parametrize("kind", ["anchored", "kmeans"])
@settings(deadline=None, max_examples=25)
@given(blocks=st.lists(st.integers(0, 9), min_size=1, max_size=12), silent=st.integers(0, 15))
def test_blocks_of_any_size_equal_the_whole(kind: str, blocks: list[int], silent: int) -> None:
    formation = _formation(kind)
    frames = sum(blocks) + 1
    embedding, weight = _recording(frames, min(silent, frames))
    state, parts, start = RunningState(C), [], 0
    with torch.no_grad():
        for size in blocks:
            piece = slice(start, start + size)
            parts.append(formation.step(embedding[:, piece], weight[:, piece], state))
            start += size
            assert start - sum(part.shape[1] for part in parts) <= formation.lag_frames
        parts.append(formation.step(embedding[:, start:], weight[:, start:], state, ended=True))
        whole = formation.form(embedding, weight, C).path
    assert whole is not None
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_what_is_remembered_does_not_grow() -> None:
    formation, state = _formation("anchored", 7), RunningState(C)
    with torch.no_grad():
        for seed in range(5):
            formation.step(*_recording(20, seed=seed), state)
            assert len(state.masses) == 7


def test_a_long_pause_forgets_nobody() -> None:
    formation, state = _formation("anchored", 4), RunningState(C)
    embedding, weight = _recording(20)
    with torch.no_grad():
        formation.step(embedding, weight, state)
        assert state.points is not None
        before = state.points.clone()
        formation.step(embedding, torch.zeros_like(weight), state)
        torch.testing.assert_close(state.points, before)
        # And the next frame does not count for more than its share.
        formation.step(embedding[:, :1], weight[:, :1], state)
    moved = (state.points - before).norm() / before.norm()
    assert 0 < float(moved) < 0.9


def test_gradients_reach_anchors_and_every_embedding_that_weighs() -> None:
    formation = _formation("anchored").double()
    embedding, weight = _recording(10)
    embedding = embedding.double().requires_grad_()

    def squared(values: torch.Tensor) -> torch.Tensor:
        path = formation.form(values, weight.double(), C).path
        assert path is not None
        return path.square().sum()

    assert torch.autograd.gradcheck(squared, (embedding,))
    squared(embedding).backward()
    assert isinstance(formation, RunningAnchoredAttractors)
    assert formation.first.anchors.grad is not None
    assert math.isfinite(float(formation.first.anchors.grad.abs().sum()))
    assert float(formation.first.anchors.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["anchored", "kmeans"])
def test_after_silence_the_first_frame_is_assigned_to_the_first_attractors(kind: str) -> None:
    """The attractors of the silent frames before it are zero, and would share every bin out equally."""
    embedding, weight = _recording(30, silent=6)
    formation = _formation(kind)
    formed = formation.form(embedding, weight, C)
    alone = formation.form(embedding[:, 6:], weight[:, 6:], C)
    torch.testing.assert_close(formed.assignments[:, :, 6:], alone.assignments, atol=1e-5, rtol=1e-4)
    assert (formed.assignments[:, 0, 6] - 1 / C).abs().max() > 0.01
