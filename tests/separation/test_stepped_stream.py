"""Streams of systems that run frame by frame: the offline computation of the same causal graph."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CAUSAL, TINY_CNN, tiny_system
from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.masks import apply_masks
from unmingle.models import ModelFacts, model_names, save_system
from unmingle.separation import load
from unmingle.separation.adding_up import RunningGains, add_residual
from unmingle.separation.offset import OffsetTracker
from unmingle.separation.stream import SeparationStream
from unmingle.systems import EmbeddingSeparator, EmbeddingSeparatorConfig

RATE = 8000
HOP = 128
# The start buffer of k-means is short, so that short recordings have more than it.
KINDS: dict[str, dict[str, object]] = {
    "lstm": CAUSAL,
    "dilated cnn": CAUSAL
    | {
        "network": TINY_CNN,
        "training_formation": "oracle",
        "formation": "running_kmeans",
        "start_frames": 5,
    },
}


def _mixture(samples: int, silent: int = 0) -> Samples:
    audio = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    audio[:silent] = 0
    return audio + np.float32(0.2)


def _offline(system: EmbeddingSeparator, mixture: Samples) -> Samples:
    """The causal graph on the whole recording at once."""
    offset = OffsetTracker(RATE).push(mixture)
    audio = mixture - offset
    with torch.no_grad():
        whole_hops = np.pad(audio, (0, -len(audio) % HOP))
        spectra, masks = system.mask(torch.from_numpy(whole_hops)[None], 2)
        masked = apply_masks(spectra.spectrum, masks)
        estimates = system.frontend.stft.synthesise(masked, len(audio))[0].numpy()
    upper = masked[0, :, :, system.frontend.stft.freqs // 2 :].abs().square().sum(dim=2).double().numpy()
    gains = RunningGains(2, HOP / RATE).push(upper)
    return add_residual(audio, estimates, gains, 0.0, 1 / HOP) + offset / np.float32(2)


def _streamed(stream: SeparationStream, mixture: Samples, blocks: list[int]) -> Samples:
    pieces, start = [], 0
    while start < len(mixture):
        for block in blocks:
            pieces.append(stream.push(mixture[start : start + block]))
            start += block
    return np.concatenate([*pieces, stream.flush()], axis=1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(
    samples=st.integers(1, 30000),
    blocks=st.lists(st.integers(1, 6000), min_size=1, max_size=4),
    silent=st.integers(0, 4000),
)
def test_a_stream_is_the_offline_computation_whatever_the_blocks(
    kind: str, samples: int, blocks: list[int], silent: int
) -> None:
    system, mixture = tiny_system(**KINDS[kind]), _mixture(samples, min(silent, samples))
    streamed = _streamed(SeparationStream(system, RATE, 2), mixture, [*blocks, samples // 20 + 1])
    assert streamed.shape == (2, samples)
    np.testing.assert_allclose(streamed, _offline(system, mixture), atol=1e-4)
    np.testing.assert_allclose(streamed.sum(axis=0), mixture, atol=1e-4)


@pytest.mark.parametrize(("kind", "samples"), [("lstm", 3000), ("dilated cnn", 600)])
def test_a_block_of_one_sample_is_a_block(kind: str, samples: int) -> None:
    system, mixture = tiny_system(**KINDS[kind]), _mixture(samples)
    streamed = _streamed(SeparationStream(system, RATE, 2), mixture, [1])
    np.testing.assert_allclose(streamed, _offline(system, mixture), atol=1e-4)


@pytest.mark.parametrize(("kind", "rate"), [("lstm", 8000), ("lstm", 44100), ("dilated cnn", 16000)])
def test_nothing_is_later_than_the_lag(kind: str, rate: int) -> None:
    stream = SeparationStream(tiny_system(**KINDS[kind]), rate, 2)
    if (kind, rate) == ("lstm", 8000):
        assert stream.lag_seconds == 256 / 8000  # One window.
    block = rate // 100
    pushed = given = 0
    for start in range(0, 4 * rate, block):
        pushed += block
        # A recording that begins with silence: the start buffer must not wait for it to end.
        audio = _mixture(block) if start > rate else np.zeros(block, dtype=np.float32)
        given += stream.push(audio).shape[1]
        assert pushed - given <= stream.lag_seconds * rate + block
    given += stream.flush().shape[1]
    assert given == pushed


def test_a_stream_does_not_grow() -> None:
    stream = SeparationStream(tiny_system(**CAUSAL, running_frames=60), RATE, 2)
    sizes = []
    for number in range(30):
        stream.push(_mixture(RATE + number)[:RATE])
        sizes.append(len(pickle.dumps(stream)))
    assert max(sizes[15:]) <= max(sizes[5:15]) + 200


def _saved(folder: Path, **changes: object) -> Path:
    path = folder / "model.safetensors"
    save_system(tiny_system(**changes), path, ModelFacts())
    return path


def test_a_model_that_steps_streams_at_its_own_lag(tmp_path: Path) -> None:
    model = load(_saved(tmp_path, **CAUSAL), "cpu")
    assert model.stream(RATE).lag_seconds == pytest.approx(0.032)
    assert model.stream(RATE, lag=2.0).lag_seconds == pytest.approx(0.032)
    with pytest.raises(UnmingleError, match=r"lag must lie between 0\.032 and 60"):
        model.stream(RATE, lag=0.02)


def test_a_model_of_whole_windows_streams_a_second_behind(tmp_path: Path) -> None:
    model = load(_saved(tmp_path), "cpu")
    assert 0.9 < model.stream(RATE).lag_seconds <= 1.0


def test_what_cannot_stream_says_so_and_names_what_can(tmp_path: Path) -> None:
    model = load(_saved(tmp_path, training_formation="oracle", formation="oracle"), "cpu")
    with pytest.raises(UnmingleError, match="cannot stream") as refused:
        model.stream(RATE)
    assert any(name in str(refused.value) for name in model_names())
    assert "denoiser" not in str(refused.value)


def test_a_config_of_a_running_system_survives_its_file(tmp_path: Path) -> None:
    config = load(_saved(tmp_path, **CAUSAL, running_frames=77), "cpu").system.config
    assert isinstance(config, EmbeddingSeparatorConfig)
    assert (config.running_frames, config.formation) == (77, "running_anchored")
