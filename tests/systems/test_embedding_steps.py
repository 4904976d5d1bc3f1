"""Systems that step: together the masks of the whole, whatever the blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import CAUSAL, TINY_BLSTM, TINY_CNN, tiny_system
from unmingle.systems import EmbeddingSeparator

KINDS: dict[str, dict[str, object]] = {
    "lstm": CAUSAL,
    "lstm from k-means": CAUSAL | {"formation": "running_kmeans", "start_frames": 9},
    "dilated cnn": CAUSAL
    | {
        "network": TINY_CNN,
        "unit_norm": True,
        "training_formation": "oracle",
        "formation": "running_kmeans",
        "evaluation_mask": "hard",
    },
    "rest": CAUSAL | {"mask": "softmax_with_rest", "learned_scale": True},
}


def _system(kind: str) -> EmbeddingSeparator:
    return tiny_system(**KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=6)
@given(blocks=st.lists(st.integers(0, 60), min_size=1, max_size=8), silent=st.integers(0, 3000))
@example(blocks=[5, 38, 20, 26], silent=1676)
def test_steps_give_the_masks_of_the_whole(kind: str, blocks: list[int], silent: int) -> None:
    system = _system(kind)
    torch.manual_seed(1)
    mixture = torch.randn(1, 128 * sum(blocks) + 1)
    mixture[:, :silent] = 0
    with torch.no_grad():
        spectra, whole = system.mask(mixture, 2)
    steps = system.steps(2)
    assert steps is not None
    parts, start = [], 0
    for size in blocks:
        parts.append(steps.push(spectra.magnitude[:, start : start + size], ended=False))
        start += size
        assert start - sum(part.shape[1] for part in parts) <= steps.lag_frames
    parts.append(steps.push(spectra.magnitude[:, start:], ended=True))
    found = torch.cat(parts, dim=1)
    if "running_kmeans" not in KINDS[kind].values():
        assert _different(kind, found, whole[0]) == 0
    # Where two starts of k-means are nearly as good, rounding decides. Noise of that size must then give them, too.
    elif _different(kind, found, whole[0]):
        assert any(
            _different(kind, found, nearly, tolerance=0.05) == 0 for nearly in _rounded(system, mixture)
        )


@torch.no_grad()
def _rounded(system: EmbeddingSeparator, mixture: Tensor) -> Iterator[Tensor]:
    """Masks of a mixture with noise of the size of rounding errors, many times."""
    for _ in range(100):
        yield system.mask(mixture * (1 + 2e-7 * torch.randn(mixture.shape)), 2)[1][0]


def _different(kind: str, found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> float:
    """Share of the bins of masks ``(2, frames, freqs)`` that differ by more than ``tolerance``.

    The order of speakers, which k-means chooses, does not count. Neither do hard masks of bins that are as near to
    one attractor as to the other. Rounding decides both.
    """
    orders = [found, found.flip(0)] if "running_kmeans" in KINDS[kind].values() else [found]
    different = min(float(((each - expected).abs() > tolerance).float().mean()) for each in orders)
    return 0 if "hard" in KINDS[kind].values() and different <= 1e-3 else different


def test_steps_lag_by_the_network_and_the_start() -> None:
    lags = {}
    for kind in KINDS:
        steps = _system(kind).steps(2)
        assert steps is not None
        lags[kind] = steps.lag_frames
    assert lags == {"lstm": 0, "lstm from k-means": 8, "dilated cnn": 127 + 19, "rest": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"network": TINY_BLSTM},
        {"training_formation": "anchored", "formation": "anchored"},
        {"stft": {"hop": 128}},
        {"weight": {"rule": "loudest"}},
        {"evaluation_mask": "assignment"},
    ],
    ids=str,
)
def test_what_needs_the_whole_mixture_does_not_step(change: dict[str, object]) -> None:
    assert tiny_system(**(CAUSAL | change)).steps(2) is None


def test_nothing_of_the_future_reaches_a_mask() -> None:
    system = _system("lstm")
    torch.manual_seed(1)
    mixture = torch.randn(1, 8000)
    changed = mixture.clone()
    changed[:, 4000:] = 10 * torch.randn(1, 4000)
    with torch.no_grad():
        before, after = (system.mask(each, 2)[1] for each in (mixture, changed))
    # Frame t sees the samples up to t * hop + half a window.
    known = (4000 - 128) // 128
    assert torch.equal(before[:, :, :known], after[:, :, :known])
    assert not torch.allclose(before[:, :, known + 2 :], after[:, :, known + 2 :])
