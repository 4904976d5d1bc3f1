"""Muon: an optimizer for recurrent networks (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unmingle.device import has_fast_bfloat16

_MOMENTUM, _GATES = 0.95, 4
"""Decay of the mean gradient; number of matrices that lie one below the other in an LSTM's weights."""
_STEP = 0.2
"""Size of a step's elements relative to the learning rate, about that of Adam (Liu et al. 2025, Eq. 4)."""
_ADAM_SHARE, _ADAM_MOMENTUM, _ADAM_SCALE, _EPSILON = 0.5, 0.9, 0.999, 1e-8
"""Adam's share of the learning rate; decay of its mean gradient and mean square; and what is added to the root."""
_NEWTON_SCHULZ, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonal(matrices: Tensor) -> Tensor:
    """The matrices ``(..., rows, columns)`` with all singular values near 1, between 0.6 and 1.3.

    Five Newton-Schulz iterations of fifth order. In bfloat16, which is exact enough, where the processor has it:
    elsewhere a product in bfloat16 takes 30 times as long.
    """
    a, b, c = _NEWTON_SCHULZ
    found: Tensor = matrices.bfloat16() if has_fast_bfloat16(matrices.device.type) else matrices
    found = found / (found.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    upright = found.shape[-2] > found.shape[-1]
    if upright:
        found = found.mT
    for _ in range(_ITERATIONS):
        square = found @ found.mT
        found = a * found + (b * square + c * (square @ square)) @ found
    found = found.mT if upright else found
    return found.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of recurrent layers, Adam for all other parameters.

    A step of Muon turns the mean gradient of every gate into an orthogonal matrix, so that all directions are
    learned equally fast. The elements of a step are about as large as those of Adam.

    Args:
        named: parameters with their names.
        lr: learning rate of Muon; that of Adam is half as high.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float) -> None:
        gates: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in named:
            (gates if _is_recurrent(name) else rest).append(parameter)
        groups = [{"params": gates, "muon": True}, {"params": rest, "muon": False}]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            change = self._muon if group["muon"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change(parameter, parameter.grad, group["lr"])

    def _muon(self, parameter: nn.Parameter, gradient: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(state["mean"], _MOMENTUM)  # Nesterov
        step = orthogonal(ahead.unflatten(0, (_GATES, -1)))
        size = _STEP * max(step.shape[-2:]) ** 0.5
        parameter.sub_(step.flatten(0, 1), alpha=rate * size)

    def _adam(self, parameter: nn.Parameter, gradient: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["steps"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["steps"] += 1
        state["mean"].lerp_(gradient, 1 - _ADAM_MOMENTUM)
        state["square"].lerp_(gradient.square(), 1 - _ADAM_SCALE)
        steps = float(state["steps"])
        mean = state["mean"] / (1 - _ADAM_MOMENTUM**steps)
        root = (state["square"] / (1 - _ADAM_SCALE**steps)).sqrt()
        parameter.addcdiv_(mean, root + _EPSILON, value=-rate * _ADAM_SHARE)


def _is_recurrent(name: str) -> bool:
    return name.rpartition(".")[2].startswith(("weight_ih_", "weight_hh_"))
