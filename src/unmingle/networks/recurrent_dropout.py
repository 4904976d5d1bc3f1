"""An LSTM layer with dropout on its recurrent connections, which ``nn.LSTM`` does not offer.

PyTorch's fused LSTM gives no access to h(t-1), and a loop over time under autograd keeps dozens of small
tensors per frame. Here forward and backward are explicit: both directions run in parallel, all products
with the input are one product, and so is the gradient of the recurrent weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from unmingle.padding import within


def lstm_with_recurrent_dropout(
    layer: nn.LSTM, inputs: Tensor, dropout: float, frames: Tensor | None = None
) -> Tensor:
    """Run a one-layer bidirectional LSTM with a share of h(t-1) dropped.

    There is one mask per sequence and direction, the same for all frames and gates (Isik et al. 2016; Gal &
    Ghahramani 2016). The kept values are scaled by ``1 / (1 - dropout)``.

    Args:
        layer: one layer, both directions, ``batch_first``; its weights are used.
        inputs: ``(batch, frames, inputs)``.
        dropout: share that is dropped, in [0, 1).
        frames: ``(batch,)``, frames that are not padding (default: all).

    Returns:
        ``(batch, frames, 2 * hidden_size)``; padding is zero.
    """
    batch, hidden = len(inputs), layer.hidden_size
    keep = torch.rand(2, batch, hidden, device=inputs.device) >= dropout
    mask = keep.to(torch.float32) / (1 - dropout)
    backwards = _reversal(inputs, frames)
    # If autocast is on, it sets the precision of the products here.
    projected = torch.stack(
        [
            linear(each, layer.get_parameter(f"weight_ih_l0{end}"), layer.get_parameter(f"bias_ih_l0{end}"))
            + layer.get_parameter(f"bias_hh_l0{end}")
            for each, end in ((inputs, ""), (_reorder(inputs, backwards), "_reverse"))
        ]
    )
    weight = torch.stack([layer.get_parameter("weight_hh_l0"), layer.get_parameter("weight_hh_l0_reverse")])
    device = inputs.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
    with torch.autocast(device, enabled=False):
        output: Tensor = _Recurrence.apply(  # type: ignore[no-untyped-call]
            projected.permute(2, 0, 1, 3).float(), weight, mask, product
        )
    forward, backward = output.permute(1, 2, 0, 3)
    joined = torch.cat([forward, _reorder(backward, backwards)], dim=-1)
    if frames is not None:
        joined = joined * within(frames, inputs.shape[1], inputs.device).unsqueeze(-1)
    return joined


def _reversal(inputs: Tensor, frames: Tensor | None) -> Tensor:
    """``(batch, frames)``: source index of frame t of the reversed sequence; padding stays at the end."""
    time = torch.arange(inputs.shape[1], device=inputs.device).expand(len(inputs), -1)
    if frames is None:
        return time.flip(1)
    last = frames.to(inputs.device)[:, None]
    return torch.where(time < last, last - 1 - time, time)


def _reorder(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


class _Recurrence(torch.autograd.Function):
    """h(t) from the input part of the gates; both directions run forwards here.

    Shapes: gates ``(frames, 2, batch, 4 * hidden)`` in PyTorch's order (input, forget, cell, output),
    weight ``(2, 4 * hidden, hidden)``, mask ``(2, batch, hidden)``.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, mask: Tensor, product: torch.dtype) -> Tensor:
        frames, hidden = len(gates), mask.shape[-1]
        states = gates.new_zeros(frames + 1, *mask.shape)
        cells = gates.new_zeros(frames + 1, *mask.shape)
        activations = torch.empty_like(gates)
        transposed = weight.transpose(1, 2).to(product)
        for t in range(frames):
            recurrent = torch.bmm((states[t] * mask).to(product), transposed)
            now = torch.add(gates[t], recurrent, out=activations[t])
            now[..., : 2 * hidden].sigmoid_()
            now[..., 2 * hidden : 3 * hidden].tanh_()
            now[..., 3 * hidden :].sigmoid_()
            into, forget, cell, out = now.chunk(4, dim=-1)
            torch.mul(forget, cells[t], out=cells[t + 1])
            cells[t + 1].addcmul_(into, cell)
            torch.mul(out, cells[t + 1].tanh(), out=states[t + 1])
        ctx.save_for_backward(activations, states, cells, weight, mask)
        ctx.product = product
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        activations, states, cells, weight, mask = ctx.saved_tensors
        (of_states,) = gradients
        frames, hidden = len(activations), mask.shape[-1]
        of_gates = torch.empty_like(activations)
        into, forget, cell, out = activations.chunk(4, dim=-1)
        # Terms that do not depend on later frames, for all frames at once.
        squashed = cells[1:].tanh()
        to_cell = out * (1 - squashed.square())
        to_out = squashed * out * (1 - out)
        to_into = cell * into * (1 - into)
        to_forget = cells[:-1] * forget * (1 - forget)
        to_new = into * (1 - cell.square())
        cast = weight.to(ctx.product)
        later_state = torch.zeros_like(mask)
        later_cell = torch.zeros_like(mask)
        for t in reversed(range(frames)):
            of_state = of_states[t] + later_state
            of_cell = torch.addcmul(later_cell, of_state, to_cell[t])
            now = of_gates[t]
            torch.mul(of_cell, to_into[t], out=now[..., :hidden])
            torch.mul(of_cell, to_forget[t], out=now[..., hidden : 2 * hidden])
            torch.mul(of_cell, to_new[t], out=now[..., 2 * hidden : 3 * hidden])
            torch.mul(of_state, to_out[t], out=now[..., 3 * hidden :])
            later_state = torch.bmm(now.to(ctx.product), cast).to(mask.dtype) * mask
            later_cell = of_cell * forget[t]
        before = (states[:-1] * mask).permute(1, 0, 2, 3).flatten(1, 2).to(ctx.product)
        flat = of_gates.permute(1, 0, 2, 3).flatten(1, 2).to(ctx.product)
        return of_gates, torch.bmm(flat.transpose(1, 2), before).to(weight.dtype), None, None
