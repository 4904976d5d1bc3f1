"""Streams of the separator: every sample once, within the lag, whatever the blocks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import LowAndHigh, _voices

from conftest import tiny_system
from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.metrics import si_sdr
from unmingle.separation.stream import SeparationStream

RATE = 8000


def _streamed(stream: SeparationStream, mixture: Samples, block: int) -> Samples:
    pieces = [stream.push(mixture[k : k + block]) for k in range(0, len(mixture), block)]
    return np.concatenate([*pieces, stream.flush()], axis=1)


@settings(max_examples=12, deadline=None)
@given(samples=st.integers(1, 20000), block=st.integers(1, 7000), rate=st.sampled_from([8000, 16000]))
def test_every_sample_comes_out_once_whatever_the_blocks(samples: int, block: int, rate: int) -> None:
    mixture = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    block = max(block, samples // 50)
    whole = _streamed(SeparationStream(tiny_system(), rate, 2, 0.5, 1.0), mixture, samples)
    pieces = _streamed(SeparationStream(tiny_system(), rate, 2, 0.5, 1.0), mixture, block)
    assert whole.shape == (2, samples)
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    np.testing.assert_allclose(whole.sum(axis=0), mixture, atol=1e-3)


def test_a_block_of_one_sample_is_a_block() -> None:
    mixture = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    whole = _streamed(SeparationStream(tiny_system(), RATE, 2, 0.3, 0.5), mixture, 3000)
    single = _streamed(SeparationStream(tiny_system(), RATE, 2, 0.3, 0.5), mixture, 1)
    np.testing.assert_allclose(single, whole, atol=1e-4)


@pytest.mark.parametrize(("rate", "lag"), [(8000, 0.3), (8000, 1.0), (44100, 0.5)])
def test_nothing_is_later_than_the_lag(rate: int, lag: float) -> None:
    stream = SeparationStream(tiny_system(), rate, 2, lag, 1.0)
    assert stream.lag_seconds <= lag
    noise = np.random.default_rng(0).standard_normal(4 * rate).astype(np.float32)
    pushed = given = 0
    block = rate // 100
    for start in range(0, len(noise), block):
        pushed += len(noise[start : start + block])
        given += stream.push(noise[start : start + block]).shape[1]
        assert pushed - given <= lag * rate + block


def test_speakers_keep_their_signal_whatever_order_windows_have() -> None:
    voices = _voices(12.0)
    estimates = _streamed(SeparationStream(LowAndHigh(), RATE, 2, 1.0, 2.0), voices.sum(axis=0), 800)
    scores = si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(voices)[:, None])
    assert float(scores.max(dim=1).values.min()) > 15.0
    assert sorted(scores.argmax(dim=1).tolist()) == [0, 1]


def test_a_silent_minute_does_not_swap_speakers() -> None:
    voices = _voices(20.0)
    voices[:, 6 * RATE : 14 * RATE] = 0.0
    estimates = _streamed(SeparationStream(LowAndHigh(), RATE, 2, 1.0, 2.0), voices.sum(axis=0), 800)
    for part in (slice(0, 6 * RATE), slice(14 * RATE, None)):
        pairs = si_sdr(torch.from_numpy(estimates[:, part])[None], torch.from_numpy(voices[:, part])[:, None])
        assert pairs.argmax(dim=1).tolist() in ([0, 1], [1, 0])


def test_a_stream_does_not_grow() -> None:
    stream = SeparationStream(tiny_system(), RATE, 2, 0.5, 1.0)
    sizes = []
    for _ in range(40):
        stream.push(np.zeros(RATE, dtype=np.float32))
        sizes.append(len(pickle.dumps(stream)))
    assert max(sizes[20:]) <= max(sizes[5:20])


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (np.zeros((2, 100), dtype=np.float32), "samples"),
        (np.zeros(100, dtype=np.int64), "floating point"),
        (np.full(100, 1e30, dtype=np.float32), "beyond 1e10"),
        (np.full(100, np.nan, dtype=np.float32), "NaN"),
    ],
)
def test_bad_blocks_are_refused(block: np.ndarray, word: str) -> None:
    stream = SeparationStream(tiny_system(), RATE, 2)
    with pytest.raises(UnmingleError, match=word):
        stream.push(block)
    assert stream.push(np.zeros(100, dtype=np.float32)).shape[0] == 2


@pytest.mark.parametrize("lag", [0.01, -1.0, 100.0, float("nan")])
def test_impossible_lags_are_refused(lag: float) -> None:
    with pytest.raises(UnmingleError, match="lag"):
        SeparationStream(tiny_system(), RATE, 2, lag)


def test_a_stream_ends_once() -> None:
    stream = SeparationStream(tiny_system(), RATE, 2)
    stream.flush()
    for call in (stream.flush, lambda: stream.push(np.zeros(1, dtype=np.float32))):
        with pytest.raises(UnmingleError, match="ended"):
            call()
