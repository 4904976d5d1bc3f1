"""Dropout of the networks' inputs and of their recurrent states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unmingle.networks import BlstmConfig, BlstmEmbedding
from unmingle.networks.recurrent_dropout import lstm_with_recurrent_dropout


@pytest.mark.parametrize("recurrent", [0.0, 0.2])
def test_dropout_is_on_the_input_of_every_layer_in_training_alone(recurrent: float) -> None:
    """Luo and Isik drop the features, too; every frame draws anew, and what is kept grows by 1 / (1 - p)."""
    torch.manual_seed(0)
    config = BlstmConfig(layers=3, hidden_size=40, dropout=0.4, recurrent_dropout=recurrent)
    network = BlstmEmbedding(129, 2, config)
    features, heard, given = 1 + torch.rand(2, 50, 129), [], []
    run = network.run_layer

    def listen(layer: nn.LSTM, inputs: Tensor, frames: Tensor | None) -> Tensor:
        heard.append(inputs.detach())
        given.append(run(layer, inputs, frames))
        return given[-1]

    network.run_layer = listen  # type: ignore[method-assign]
    network(features)
    for before, after in zip([features, *given[:-1]], heard, strict=True):
        dropped = after == 0
        assert float(dropped.float().mean()) == pytest.approx(0.4, abs=0.02)
        torch.testing.assert_close(after[~dropped], (before / 0.6)[~dropped].detach())
        assert not torch.equal(dropped[:, 0], dropped[:, 1])
    heard.clear()
    given.clear()
    network.eval()(features)
    for before, after in zip([features, *given[:-1]], heard, strict=True):
        torch.testing.assert_close(after, before.detach())


def _blstm(layers: int, **changes: object) -> BlstmEmbedding:
    config = BlstmConfig.model_validate({"layers": layers, "hidden_size": 5} | changes)
    return BlstmEmbedding(9, 2, config)


@pytest.mark.parametrize("frames", [None, torch.tensor([11, 4, 7])], ids=["whole", "padded"])
def test_without_dropout_it_is_the_lstm_of_pytorch(frames: torch.Tensor | None) -> None:
    """Values and gradients to 1e-5, both directions, through two layers."""
    torch.manual_seed(0)
    network = _blstm(2)
    features = torch.randn(3, 11, 9)

    def own() -> torch.Tensor:
        hidden = features
        for layer in network.layers:
            assert isinstance(layer, torch.nn.LSTM)
            hidden = lstm_with_recurrent_dropout(layer, hidden, 0.0, frames)
        return hidden

    direction = torch.randn(3, 11, 10)
    results = []
    for output in (network.run_layers(features, frames), own()):
        network.zero_grad()
        (output * direction).sum().backward()
        gradients = [p.grad.clone() for p in network.layers.parameters() if p.grad is not None]
        results.append((output, gradients))
    (expected, slow), (value, fast) = results
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
    assert len(slow) == len(fast) == 16
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_recurrent_dropout_follows_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mask for each sequence and direction, the same in every frame and for every gate."""
    layer = torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    inputs = torch.randn(2, 6, 3, requires_grad=True)
    drawn = torch.rand(2, 2, 4)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: drawn)
    output = lstm_with_recurrent_dropout(layer, inputs, 0.4)
    mask = (drawn >= 0.4) / 0.6
    expected = torch.zeros(2, 6, 8)
    for direction, end in enumerate(("", "_reverse")):
        w_in, w_rec = layer.get_parameter(f"weight_ih_l0{end}"), layer.get_parameter(f"weight_hh_l0{end}")
        bias = layer.get_parameter(f"bias_ih_l0{end}") + layer.get_parameter(f"bias_hh_l0{end}")
        for b in range(2):
            h, c = torch.zeros(4), torch.zeros(4)
            for t in range(6) if direction == 0 else reversed(range(6)):
                gates = w_in @ inputs[b, t] + w_rec @ (h * mask[direction, b]) + bias
                i, f, g, o = gates.chunk(4)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                expected[b, t, 4 * direction : 4 * direction + 4] = h
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)
    (slow,) = torch.autograd.grad(expected.square().sum(), inputs, retain_graph=True)
    (fast,) = torch.autograd.grad(output.square().sum(), inputs)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


def test_recurrent_dropout_is_for_training_only() -> None:
    network = _blstm(2, recurrent_dropout=0.5)
    features = torch.randn(1, 30, 9)
    assert not torch.equal(network(features), network(features))
    network.eval()
    assert torch.equal(network(features), network(features))
