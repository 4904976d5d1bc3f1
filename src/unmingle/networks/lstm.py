"""Unidirectional LSTMs, which depend only on the past and can run frame by frame."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from unmingle.config import Config
from unmingle.networks.bands import Bands
from unmingle.networks.prepared import PreparedWeights
from unmingle.padding import within

LstmState = tuple[Tensor, Tensor]
"""h and c of all layers, each ``(layers, batch, hidden_size)``."""

_FEW_FRAMES = 8


class LstmConfig(Config):
    """Sizes of an LSTM; Sivaraman & Kim 2020 go up to 3 layers of 1024."""

    tiny_sizes: ClassVar[dict[str, int]] = {"hidden_size": 8}
    layers: int = Field(2, ge=1, le=32)
    hidden_size: int = Field(512, ge=1, le=8192)


class Lstm(nn.Module):
    """LSTM layers and one dense layer: ``(batch, frames, inputs)`` to ``(batch, frames, outputs)``.

    Args:
        inputs: values in each frame of the input.
        outputs: values in each frame of the output.
        config: sizes.
        bands: if given, inputs and outputs are bins, and the layers work on these bands.
    """

    lag_frames: int | None = 0
    """An output does not depend on later frames."""
    context_frames: int | None = None
    """An output depends on all earlier frames."""

    def __init__(self, inputs: int, outputs: int, config: LstmConfig, bands: Bands | None = None) -> None:
        super().__init__()
        self.bands, self._outputs = bands, outputs
        if bands is not None:
            inputs = outputs = bands.count
        self.layers = nn.LSTM(inputs, config.hidden_size, config.layers, batch_first=True)
        self.linear = nn.Linear(config.hidden_size, outputs)
        # Looked up once, because look-up by name takes a tenth of the time of a frame.
        recurrent = cast(list[list[Tensor]], self.layers.all_weights)
        self._prepared = PreparedWeights([*recurrent, [self.linear.weight, self.linear.bias]])

    def forward(self, features: Tensor) -> Tensor:
        """Process all frames at once. Padding at the end does not change earlier outputs."""
        outputs: Tensor = self.linear(self.layers(self._pooled(features))[0])
        return self._spread(outputs)

    def initial_state(self, batch: int) -> LstmState:
        """State before the first frame, for ``batch`` parallel streams."""
        zeros = self.linear.weight.new_zeros(self.layers.num_layers, batch, self.layers.hidden_size)
        return zeros, zeros

    def step(self, features: Tensor, state: LstmState) -> tuple[Tensor, LstmState]:
        """Push frames; returns their outputs and the new state. All steps together equal :meth:`forward`."""
        if not features.shape[1]:
            return features.new_zeros(*features.shape[:2], self._outputs), state
        values = self._pooled(features)
        if features.shape[1] <= _FEW_FRAMES and not torch.is_grad_enabled():
            values, state = self._few(values, state)
        else:
            hidden, state = self.layers(values, state)
            values = self.linear(hidden)
        return self._spread(values), state

    def _pooled(self, features: Tensor) -> Tensor:
        return features if self.bands is None else self.bands.pool(features)

    def _spread(self, values: Tensor) -> Tensor:
        return values if self.bands is None else self.bands.spread(values)

    def _few(self, features: Tensor, state: LstmState) -> tuple[Tensor, LstmState]:
        """:meth:`step` for few frames, without the copy of all weights that ``self.layers`` makes on every call."""
        *layers, dense = (self._prepared[number] for number in range(len(self._prepared)))
        h, c = (list(part.unbind()) for part in state)
        hidden = []
        for values in features.unbind(dim=1):
            for number, layer in enumerate(layers):
                h[number], c[number] = torch.lstm_cell(values, (h[number], c[number]), *layer)
                values = h[number]
            hidden.append(values)
        return linear(torch.stack(hidden, dim=1), *dense), (torch.stack(h), torch.stack(c))

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        return frames * sum(p.numel() for name, p in self.named_parameters() if "weight" in name)


def mean_over_time(values: Tensor, frames: Tensor | None = None) -> Tensor:
    """Mean ``(batch, values)`` of ``(batch, frames, values)`` over the frames that are not padding.

    ``frames`` ``(batch,)`` counts them, if any are padding.
    """
    if frames is None:
        return values.mean(dim=1)
    inside = within(frames, values.shape[1], values.device).unsqueeze(-1)
    return (values * inside).sum(dim=1) / inside.sum(dim=1)
