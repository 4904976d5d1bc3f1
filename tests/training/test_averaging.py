"""The average of the weights: the recurrence, written slowly; and a run that goes on with it."""

from __future__ import annotations

import torch

from conftest import tiny_system
from unmingle.training.averaging import WeightAverage


def test_the_average_follows_its_recurrence_and_gives_the_weights_back() -> None:
    system = tiny_system()
    parameter = next(iter(system.parameters()))
    average = WeightAverage(system, 0.9)
    expected = parameter.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        average.update()
        move = max(0.1, 1 / (1 + step / 10))
        expected = (1 - move) * expected + move * parameter.detach()
    last = parameter.detach().clone()
    with average.applied():
        torch.testing.assert_close(parameter.detach(), expected)
    torch.testing.assert_close(parameter.detach(), last, rtol=0, atol=0)
    again = WeightAverage(system, 0.9)
    again.load_state_dict(average.state_dict())
    with again.applied():
        torch.testing.assert_close(parameter.detach(), expected)
