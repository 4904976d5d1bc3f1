"""Networks, compared with PyTorch's layers, with slow loops, and with the lag and context they declare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmingle.networks import (
    EMBEDDING_NETWORKS,
    BlstmConfig,
    BlstmEmbedding,
    DilatedCnnConfig,
    DilatedCnnEmbedding,
    DualPathConfig,
    DualPathEmbedding,
    EmbeddingNetworkConfig,
    EnhancementNetwork,
    LstmEmbedding,
    LstmEmbeddingConfig,
    SecondStageNetwork,
    SteppingNetwork,
    unit_norm,
)
from unmingle.networks.dual_path import band_widths
from unmingle.training.recipe import tiny


def _blstm(layers: int, **changes: object) -> BlstmEmbedding:
    config = BlstmConfig.model_validate({"layers": layers, "hidden_size": 5} | changes)
    return BlstmEmbedding(9, 2, config)


def _dual_path() -> DualPathEmbedding:
    torch.manual_seed(0)
    return DualPathEmbedding(9, 2, DualPathConfig(blocks=2, channels=4, hidden_size=3))


def _cnn() -> DilatedCnnEmbedding:
    """Small, in evaluation mode, with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = DilatedCnnEmbedding(9, 3, DilatedCnnConfig(channels=4)).eval()
    for norm in network.norms:
        assert isinstance(norm, torch.nn.BatchNorm2d)
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        norm.bias.data.normal_()
    return network


@pytest.mark.parametrize("kind", EMBEDDING_NETWORKS)
@torch.no_grad()
def test_every_network_embeds_bins_and_keeps_what_it_declares(kind: type[EmbeddingNetworkConfig]) -> None:
    torch.manual_seed(0)
    config = tiny(kind.model_validate({}))
    assert isinstance(config, EmbeddingNetworkConfig)
    assert config.kind == kind.model_fields["kind"].default
    network = config.build(9, 3).eval()
    assert sum(p.numel() for p in network.parameters()) < 20_000
    assert network.working_channels >= 0
    assert network.multiply_accumulates(14) == 2 * network.multiply_accumulates(7)
    features = torch.randn(2, 300, 9)
    embedding = network(features)
    assert embedding.shape == (2, 300, 9, 3)
    # Padding after a mixture does not change its embeddings.
    padded = network(torch.cat([features, torch.randn(2, 9, 9)], dim=1), torch.tensor([300, 300]))
    torch.testing.assert_close(padded[:, :300], embedding, atol=1e-5, rtol=1e-4)
    # Frames further away than declared do not reach it.
    changed = features.clone()
    changed[:, 150] += 1.0
    reached = (network(changed) - embedding).abs().amax(dim=(0, 2, 3)) > 0
    first = 0 if network.lag_frames is None else 150 - network.lag_frames
    last = 299 if network.context_frames is None else 150 + network.context_frames
    assert reached[150]
    assert not reached[:first].any()
    assert not reached[last + 1 :].any()


def test_multiply_accumulates_match_the_closed_form() -> None:
    network = BlstmEmbedding(129, 20, BlstmConfig())
    per_frame = 2 * 4 * 300 * (129 + 300) + 3 * 2 * 4 * 300 * (600 + 300) + 600 * 129 * 20
    assert network.multiply_accumulates(7) == 7 * per_frame
    lstm = LstmEmbedding(129, 20, LstmEmbeddingConfig())
    per_frame = 4 * 512 * (129 + 512) + 3 * 4 * 512 * (512 + 512) + 512 * 129 * 20
    assert lstm.multiply_accumulates(7) == 7 * per_frame
    cnn = DilatedCnnEmbedding(129, 20, DilatedCnnConfig())
    per_bin = 9 * (128 + 11 * 128 * 128 + 128 * 20)
    assert cnn.multiply_accumulates(7) == 7 * 129 * per_bin
    dual = DualPathEmbedding(129, 20, DualPathConfig(channels=48))
    blocks = 32 * 4 * 2 * (2 * 4 * 64 * (48 + 64) + 2 * 64 * 48)
    assert dual.multiply_accumulates(7) == 7 * (129 * 48 + 48 * 129 * 20 + blocks)
    # 125 frames a second at 8 kHz and a hop of 8 ms: 26.5 GMAC a second, as FIDELITY has it.
    assert cnn.multiply_accumulates(125) / 1e9 == pytest.approx(26.5, abs=0.1)


def test_layers_equal_a_stacked_lstm() -> None:
    network = _blstm(3)
    stacked = torch.nn.LSTM(9, 5, 3, batch_first=True, bidirectional=True)
    for number, layer in enumerate(network.layers):
        for name, value in layer.named_parameters():
            stacked.get_parameter(name.replace("l0", f"l{number}")).data.copy_(value)
    features = torch.randn(2, 11, 9)
    expected = network.linear(stacked(features)[0]).reshape(2, 11, 9, 2)
    torch.testing.assert_close(network(features), expected)


def test_residual_layers_add_their_input_except_the_first() -> None:
    network = _blstm(3, residual=True)
    features = torch.randn(2, 11, 9)
    first = network.layers[0](features)[0]
    second = first + network.layers[1](first)[0]
    third = second + network.layers[2](second)[0]
    torch.testing.assert_close(network(features), network.linear(third).reshape(2, 11, 9, 2))


@pytest.mark.parametrize("residual", [False, True])
def test_padding_changes_nothing_in_a_blstm(residual: bool) -> None:
    network = _blstm(2, residual=residual)
    features = torch.randn(2, 11, 9)
    alone = network(features[1:, :6])
    padded = network(features, torch.tensor([11, 6]))
    torch.testing.assert_close(padded[1, :6], alone[0])


# --- dual path


def test_bands_are_wider_at_higher_frequencies() -> None:
    assert band_widths(129) == 16 * [2] + 8 * [4] + 7 * [8] + [9]
    assert band_widths(257) == 16 * [4] + 8 * [8] + 7 * [16] + [17]
    assert all(sum(band_widths(freqs)) == freqs for freqs in range(9, 600))


@torch.no_grad()
def test_dual_path_blocks_follow_a_slow_reading() -> None:
    """Band by band along time, then frame by frame along the bands, one sequence at a time."""
    network = _dual_path()
    features = torch.randn(2, 5, 9)
    expected = torch.zeros(2, 5, 9, 2)
    ends = np.cumsum(network.widths)
    bands = [slice(int(end) - width, int(end)) for end, width in zip(ends, network.widths, strict=True)]
    for example in range(2):
        hidden = torch.zeros(5, len(bands), 4)
        for frame in range(5):
            for number, band in enumerate(bands):
                hidden[frame, number] = network.inputs[number](features[example, frame, band])
        for block in network.blocks:
            for number in range(len(bands)):
                hidden[:, number] = block.along_time(hidden[None, :, number])[0]  # type: ignore[union-attr, operator]
            for frame in range(5):
                hidden[frame] = block.along_bands(hidden[None, frame])[0]  # type: ignore[union-attr, operator]
        for frame in range(5):
            for number, band in enumerate(bands):
                given = network.outputs[number](network.norm(hidden[frame, number]))
                expected[example, frame, band] = given.reshape(-1, 2)
    torch.testing.assert_close(network(features), expected)


@torch.no_grad()
def test_padding_changes_nothing_in_a_dual_path_network() -> None:
    network = _dual_path()
    features = torch.randn(2, 11, 9)
    padded = network(features, torch.tensor([11, 5]))
    torch.testing.assert_close(padded[1, :5], network(features[1:, :5])[0])


# --- dilated CNN


def test_the_papers_size() -> None:
    network = DilatedCnnEmbedding(129, 20, DilatedCnnConfig())
    assert sum(p.numel() for p in network.parameters()) == 1_650_836


def test_the_lag_is_exactly_127_frames() -> None:
    network = _cnn().double()
    features = torch.randn(1, 400, 9, dtype=torch.float64)
    middle = 200
    assert network.lag_frames == network.context_frames == 127
    expected = network(features)[:, middle]
    for shift, reaches in ((127, True), (128, False), (-127, True), (-128, False)):
        changed = features.clone()
        changed[:, middle + shift] += 100.0
        assert torch.equal(network(changed)[:, middle], expected) != reaches, shift


def test_residual_layers_follow_a_slow_reading() -> None:
    """Layers 4, 6, 8, 10, 12 add the residual layer before, layer 2 nothing; the last is linear."""
    network = _cnn()
    hidden = torch.randn(1, 1, 20, 9)
    features = hidden[:, 0]
    skip = None
    for number in range(1, 14):
        layer = network.convolutions[number - 1]
        assert isinstance(layer, torch.nn.Conv2d)
        hidden = torch.nn.functional.conv2d(
            hidden, layer.weight, layer.bias, padding=layer.dilation, dilation=layer.dilation
        )
        if number < 13:
            hidden = network.norms[number - 1](hidden)
            if number in (4, 6, 8, 10, 12):
                hidden = hidden + skip
            hidden = hidden.clamp_min(0)
            if number % 2 == 0:
                skip = hidden
    torch.testing.assert_close(network(features), hidden.permute(0, 2, 3, 1))


def test_padding_changes_nothing_in_a_dilated_cnn() -> None:
    network = _cnn()
    features = torch.randn(2, 50, 9)
    alone = network(features[1:, :30])
    padded = network(features, torch.tensor([50, 30]))
    torch.testing.assert_close(padded[1, :30], alone[0], atol=1e-5, rtol=1e-4)


# --- frame by frame


def _lstm(layers: int = 3, residual: bool = True) -> LstmEmbedding:
    torch.manual_seed(0)
    return LstmEmbedding(9, 3, LstmEmbeddingConfig(layers=layers, hidden_size=5, residual=residual)).eval()


@pytest.mark.parametrize("build", [_cnn, _lstm])
@settings(deadline=None, max_examples=12)
@given(blocks=st.lists(st.integers(0, 90), min_size=1, max_size=6))
def test_a_stream_of_any_blocks_equals_the_whole(
    build: Callable[[], SteppingNetwork], blocks: list[int]
) -> None:
    network = build()
    features = torch.randn(2, sum(blocks) + 1, 9)
    state = network.initial_state(2)
    parts, start = [], 0
    with torch.no_grad():
        for size in blocks:
            parts.append(network.step(features[:, start : start + size], state))
            start += size
        assert sum(part.shape[1] for part in parts) == max(0, start - network.lag_frames)
        parts.append(network.step(features[:, start:], state, ended=True))
        torch.testing.assert_close(torch.cat(parts, dim=1), network(features), atol=1e-5, rtol=1e-4)


def test_an_lstm_without_residuals_is_a_stacked_lstm() -> None:
    network = _lstm(3, residual=False)
    stacked = torch.nn.LSTM(9, 5, 3, batch_first=True)
    for number, layer in enumerate(network.layers):
        for name, value in layer.named_parameters():
            stacked.get_parameter(name.replace("l0", f"l{number}")).data.copy_(value)
    features = torch.randn(2, 11, 9)
    expected = network.linear(stacked(features)[0]).reshape(2, 11, 9, 3)
    torch.testing.assert_close(network(features), expected)


def test_residuals_add_the_input_of_every_layer_but_the_first() -> None:
    network = _lstm(2)
    features = torch.randn(2, 11, 9)
    first = network.layers[0](features)[0]
    expected = network.linear(first + network.layers[1](first)[0]).reshape(2, 11, 9, 3)
    torch.testing.assert_close(network(features), expected)


# --- refiners


def test_the_enhancement_network_is_permutation_equivariant() -> None:
    network = EnhancementNetwork(9, BlstmConfig(layers=2, hidden_size=5))
    mixture, estimates = torch.rand(2, 11, 9), torch.rand(2, 3, 11, 9)
    order = torch.tensor([2, 0, 1])
    masks = network(mixture, estimates)
    torch.testing.assert_close(network(mixture, estimates[:, order]), masks[:, order])
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 11, 9))
    assert not torch.allclose(masks[:, 0], masks[:, 1])


@pytest.mark.parametrize("kind", [EnhancementNetwork, SecondStageNetwork])
def test_refiners_do_not_see_padding_or_gain(kind: type) -> None:
    config = BlstmConfig(layers=1, hidden_size=5)
    network = kind(9, config) if kind is EnhancementNetwork else kind(9, 2, config)
    mixture, estimates = torch.rand(2, 11, 9), torch.rand(2, 2, 11, 9)
    alone = network(mixture[1:, :6], estimates[1:, :, :6])
    padded = network(mixture, estimates, torch.tensor([11, 6]))
    torch.testing.assert_close(padded[1, :, :6], alone[0])
    torch.testing.assert_close(network(1e-3 * mixture, 1e-3 * estimates), network(mixture, estimates))


# --- unit norm


def test_unit_norm_is_the_normalization_of_pytorch() -> None:
    values = torch.randn(3, 4, 5, requires_grad=True)
    direction = torch.randn(3, 4, 5)
    expected = torch.nn.functional.normalize(values, dim=-1)
    torch.testing.assert_close(unit_norm(values), expected)
    (slow,) = torch.autograd.grad((expected * direction).sum(), values)
    (fast,) = torch.autograd.grad((unit_norm(values) * direction).sum(), values)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    assert unit_norm(torch.zeros(2, 3)).abs().max() == 0
