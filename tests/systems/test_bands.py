"""Bands: which bins go together, what an LSTM does with them, and that streams and files agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmingle.denoising.stream import DenoisingStream
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.networks import Bands, Lstm, LstmConfig
from unmingle.systems import Denoiser, DenoiserConfig

SIZES = LstmConfig(layers=2, hidden_size=8)


def _width(bin_: int, alone: int) -> int:
    """Of the band that a bin lies in, octave by octave: 1 up to ``alone``, 2 up to twice that, and so on."""
    width = 1
    while bin_ > alone * width:
        width *= 2
    return width


def test_the_bands_of_the_pretrained_denoiser() -> None:
    bands = Bands(513, 48)  # 750 Hz of 16 kHz in windows of 1024.
    assert bands.count == 49 + 24 + 24 + 24 + 8
    assert bands.index[:49].tolist() == list(range(49))
    assert bands.index[49:53].tolist() == [49, 49, 50, 50]
    assert bands.index[-16:].tolist() == [128] * 16


@settings(deadline=None)
@given(freqs=st.integers(1, 200), alone=st.integers(1, 220), seed=st.integers(0, 99))
def test_every_bin_is_in_one_band_and_a_band_is_its_bins_mean(freqs: int, alone: int, seed: int) -> None:
    bands = Bands(freqs, alone)
    members: list[list[int]] = [[] for _ in range(bands.count)]
    for bin_, band in enumerate(bands.index.tolist()):
        members[band].append(bin_)
    assert sorted(b for group in members for b in group) == list(range(freqs))
    for group in members:
        assert group == list(range(group[0], group[0] + len(group)))
        assert len(group) <= _width(group[0], alone) == _width(group[-1], alone)
        # Only the last one of an octave is narrower.
        whole = len(group) == _width(group[0], alone)
        assert whole or group[-1] == freqs - 1 or _width(group[-1] + 1, alone) > _width(group[-1], alone)
    bins = torch.randn(2, 3, freqs, generator=torch.Generator().manual_seed(seed))
    slowly = torch.stack([bins[..., group].mean(dim=-1) for group in members], dim=-1)
    torch.testing.assert_close(bands.pool(bins), slowly, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bands.pool(bands.spread(slowly)), slowly, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("above", "window", "alone"), [(750.0, 1024, 48), (750.0, 512, 24), (1.0, 512, 1)])
def test_bins_up_to_a_frequency_are_bands_of_their_own(above: float, window: int, alone: int) -> None:
    stft = {"window_length": window, "hop": window // 4}
    values = {"stft": stft, "bands_above": above, "network": SIZES.model_dump()}
    system = Denoiser(DenoiserConfig.model_validate(values))
    expected = Bands(window // 2 + 1, alone)
    assert system.network.bands is not None
    assert torch.equal(system.network.bands.index, expected.index)
    assert system.most_speakers() == 1


def test_an_lstm_hears_and_says_bands_and_costs_no_more_than_they_do() -> None:
    torch.manual_seed(0)
    bands = Bands(65, 8)
    banded, inner = Lstm(65, 65, SIZES, bands), Lstm(bands.count, bands.count, SIZES)
    inner.load_state_dict(banded.state_dict())
    features = torch.randn(2, 5, 65)
    torch.testing.assert_close(banded(features), bands.spread(inner(bands.pool(features))))
    assert banded.multiply_accumulates(7) == inner.multiply_accumulates(7)
    assert banded.multiply_accumulates(7) < Lstm(65, 65, SIZES).multiply_accumulates(7)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 20])
def test_frame_by_frame_is_the_whole(size: int) -> None:
    torch.manual_seed(0)
    network = Lstm(65, 65, SIZES, Bands(65, 8)).eval()
    features, state, values = torch.randn(1, 20, 65), network.initial_state(1), []
    for part in features.split(size, dim=1):
        output, state = network.step(part, state)
        values.append(output)
    torch.testing.assert_close(torch.cat(values, dim=1), network(features), atol=1e-5, rtol=1e-4)
    nothing, after = network.step(features[:, :0], state)
    torch.testing.assert_close(after, state)
    torch.testing.assert_close(torch.cat([*values, nothing], dim=1), network(features), atol=1e-5, rtol=1e-4)


def test_a_banded_denoiser_streams_is_kept_and_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = Denoiser(DenoiserConfig(network=SIZES, bands_above=750)).eval()
    save_system(system, tmp_path / "banded.safetensors", ModelFacts(task="denoise"), half=False)
    loaded = load_system(tmp_path / "banded.safetensors")
    assert isinstance(loaded, Denoiser)
    mixture = torch.randn(1, 9000)
    whole = system.separate(mixture, 1).sources[0, 0]
    torch.testing.assert_close(loaded.separate(mixture, 1).sources[0, 0], whole)
    stream = DenoisingStream(system, 16000)
    parts = [stream.push(block) for block in np.array_split(mixture[0].numpy(), 7)]
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()]), whole.numpy(), atol=1e-4)
    _, masks = system.mask(mixture, 1)
    assert bool((masks[..., 497:] == masks[..., 512:]).all())  # One band.
    masks.sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in system.network.parameters())
