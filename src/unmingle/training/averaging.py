"""An exponential average of the weights of a system or network. It scores better than those of a single step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_FIRST_STEPS = 10
"""At step n the average moves by at least ``1 / (1 + n / 10)``: it forgets random weights fast."""


class WeightAverage:
    """The average of the parameters of ``system`` over its training steps (Polyak & Juditsky 1992).

    Args:
        system: its parameters are averaged.
        keep: decay of the average per step, in (0, 1).
    """

    def __init__(self, system: nn.Module, keep: float) -> None:
        self._system, self._keep, self._steps = system, keep, 0
        self._average = {name: p.detach().clone() for name, p in system.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the weights after a step."""
        self._steps += 1
        move = max(1.0 - self._keep, 1.0 / (1.0 + self._steps / _FIRST_STEPS))
        names = list(self._average)
        current = dict(self._system.named_parameters())
        torch._foreach_lerp_([self._average[name] for name in names], [current[name] for name in names], move)

    def restart(self) -> None:
        """Restart the average from the current weights."""
        for name, parameter in self._system.named_parameters():
            self._average[name].copy_(parameter.detach())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the system has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._system.named_parameters():
            held = parameter.detach().clone()
            parameter.copy_(self._average[name])
            self._average[name] = held

    def state_dict(self) -> dict[str, Tensor | int]:
        """State for :meth:`load_state_dict`."""
        return {"steps": self._steps, **{f"weights.{name}": value for name, value in self._average.items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Continue from :meth:`state_dict`."""
        self._steps = int(state["steps"])
        for name, value in self._average.items():
            value.copy_(torch.as_tensor(state[f"weights.{name}"]))
