"""The unidirectional LSTM that embeds time-frequency bins without look-ahead (Han, Luo, Mesgarani 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from unmingle.networks.embedding import EmbeddingNetworkConfig, SteppingNetwork
from unmingle.networks.prepared import PreparedWeights

_FEW_FRAMES = 8


class LstmEmbeddingConfig(EmbeddingNetworkConfig):
    """Sizes of an LSTM; with the default it has as many units as the BLSTM of Luo et al. 2018."""

    tiny_sizes: ClassVar[dict[str, int]] = {"hidden_size": 8}
    kind: Literal["lstm"] = "lstm"
    layers: int = Field(4, ge=1, le=32)
    hidden_size: int = Field(600, ge=1, le=8192)
    residual: bool = False
    """Add the input of every layer but the first to its output; see :class:`~unmingle.networks.BlstmConfig`."""

    def build(self, freqs: int, dimension: int) -> LstmEmbedding:
        return LstmEmbedding(freqs, dimension, self)


@dataclass
class LstmEmbeddingState:
    """What an LSTM remembers of the frames it has seen."""

    h: list[Tensor]
    """Of every layer, ``(batch, hidden_size)``."""
    c: list[Tensor]
    """The same."""


class LstmEmbedding(SteppingNetwork):
    """LSTM layers and one linear layer.

    Args:
        freqs: number of frequencies of the input.
        dimension: K, the dimension of the embedding.
        config: sizes.
    """

    lag_frames: int = 0
    """An output needs no frame after its own."""
    context_frames: int | None = None
    """It remembers all frames before."""
    working_channels = 0

    def __init__(self, freqs: int, dimension: int, config: LstmEmbeddingConfig) -> None:
        super().__init__()
        self.freqs, self.dimension, self.residual = freqs, dimension, config.residual
        self.layers = nn.ModuleList(
            nn.LSTM(config.hidden_size if layer else freqs, config.hidden_size, batch_first=True)
            for layer in range(config.layers)
        )
        self.linear = nn.Linear(config.hidden_size, freqs * dimension)
        weights = [cast(list[list[Tensor]], layer.all_weights)[0] for layer in self.layers]
        self._prepared = PreparedWeights([*weights, [self.linear.weight, self.linear.bias]])

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``.

        Padding after the last frame changes nothing before it, so ``frames`` is not needed.
        """
        hidden = features
        for number, layer in enumerate(self.layers):
            hidden = self._joined(number, hidden, layer(hidden)[0])
        return self._shaped(self.linear(hidden))

    def initial_state(self, batch: int) -> LstmEmbeddingState:
        """The state before the first frame, for ``batch`` streams side by side."""
        zeros = self.linear.weight.new_zeros(batch, self.linear.in_features)
        return LstmEmbeddingState([zeros] * len(self.layers), [zeros] * len(self.layers))

    def step(self, features: Tensor, state: LstmEmbeddingState, *, ended: bool = False) -> Tensor:
        """Push frames ``(batch, frames, freqs)``: their embeddings. ``state`` is updated in place."""
        if not features.shape[1]:
            return features.new_zeros(len(features), 0, self.freqs, self.dimension)
        if features.shape[1] <= _FEW_FRAMES and not torch.is_grad_enabled():
            frames = [self._frame(values, state) for values in features.unbind(dim=1)]
            return self._shaped(linear(torch.stack(frames, dim=1), *self._prepared[len(self.layers)]))
        hidden = features
        for number, layer in enumerate(self.layers):
            output, (h, c) = layer(hidden, (state.h[number][None], state.c[number][None]))
            state.h[number], state.c[number] = h[0], c[0]
            hidden = self._joined(number, hidden, output)
        return self._shaped(self.linear(hidden))

    def _frame(self, values: Tensor, state: LstmEmbeddingState) -> Tensor:
        """One frame ``(batch, freqs)`` through all layers: ``(batch, hidden_size)``."""
        for number in range(len(self.layers)):
            before = state.h[number], state.c[number]
            state.h[number], state.c[number] = torch.lstm_cell(values, before, *self._prepared[number])
            values = self._joined(number, values, state.h[number])
        return values

    def _joined(self, number: int, inputs: Tensor, output: Tensor) -> Tensor:
        return inputs + output if self.residual and number > 0 else output

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self.freqs, self.dimension)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        return frames * sum(p.numel() for name, p in self.named_parameters() if "weight" in name)
