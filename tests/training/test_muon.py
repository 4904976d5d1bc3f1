"""The optimizer Muon against independent computations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unmingle.training import muon
from unmingle.training.muon import Muon, orthogonal


def _gradients(network: nn.Module) -> None:
    draw = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def test_singular_values_come_near_one_and_directions_stay() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 8), (3, 8, 20)):
        matrices = torch.randn(shape)
        found = orthogonal(matrices)
        assert found.shape == shape
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6
        assert values.max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        # The same singular vectors: U^T X V is diagonal.
        inner = left.mT @ found @ right.mT
        rest = inner - torch.diag_embed(torch.diagonal(inner, dim1=-2, dim2=-1))
        assert rest.abs().max() < 0.1


@pytest.mark.parametrize("native", [False, True])
def test_processors_without_bfloat16_compute_in_float32(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "has_fast_bfloat16", lambda device: native)
    torch.manual_seed(0)
    matrices = torch.randn(20, 8)
    exact = matrices.double() / matrices.double().norm()
    for _ in range(5):
        square = exact @ exact.mT
        exact = 3.4445 * exact + (-4.7750 * square + 2.0315 * square @ square) @ exact
    distance = float((orthogonal(matrices) - exact).abs().max())
    assert distance < 0.1
    assert (distance < 1e-4) == (not native)


def test_every_gate_moves_by_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(6, 5)
    before = copy.deepcopy(network)
    _gradients(network)
    gradient = network.weight_ih_l0.grad
    assert gradient is not None
    Muon(network.named_parameters(), lr=0.1).step()
    moved = (before.weight_ih_l0 - network.weight_ih_l0).detach()
    for gate in range(4):
        own = slice(5 * gate, 5 * gate + 5)
        step = moved[own] / (0.1 * 0.2 * 6**0.5)
        values = torch.linalg.svdvals(step)
        assert values.min() > 0.6
        assert values.max() < 1.3
        # In the direction of this gate's gradient, as far as an orthogonal matrix can.
        assert (step * gradient[own]).sum() > 0.8 * torch.linalg.svdvals(gradient[own]).sum()


def test_steps_follow_the_mean_gradient() -> None:
    """A gradient that turns round once does not turn the step round."""
    torch.manual_seed(0)
    network = nn.LSTM(6, 5, bias=False)
    optimizer = Muon(network.named_parameters(), lr=0.1)
    _gradients(network)
    for _ in range(40):
        optimizer.step()
    gradient = network.weight_hh_l0.grad
    assert gradient is not None
    before, usual = network.weight_hh_l0.detach().clone(), gradient.clone()
    gradient.neg_()
    optimizer.step()
    assert ((before - network.weight_hh_l0) * usual).sum() > 0


def test_other_parameters_are_those_of_adam_at_half_the_rate() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    other = copy.deepcopy(network)
    ours, adam = Muon(network.named_parameters(), lr=0.02), torch.optim.Adam(other.parameters(), lr=0.01)
    for step in range(5):
        for each, optimizer in ((network, ours), (other, adam)):
            _gradients(each)
            for parameter in each.parameters():
                assert parameter.grad is not None
                parameter.grad *= step + 1
            optimizer.step()
    for left, right in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(6, 5)
    optimizer = Muon(network.named_parameters(), lr=0.1)
    _gradients(network)
    optimizer.step()
    copied = copy.deepcopy(network)
    resumed = Muon(copied.named_parameters(), lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, one in ((network, optimizer), (copied, resumed)):
        _gradients(each)
        one.step()
    for left, right in zip(network.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
