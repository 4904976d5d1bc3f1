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

_FEW_FRAMES = 16


class LstmEmbeddingConfig(EmbeddingNetworkConfig):
    """Sizes of an LSTM. The default has as many parameters as the BLSTM of Luo et al. 2018."""

    tiny_sizes: ClassVar[dict[str, int]] = {"hidden_size": 8}
    kind: Literal["lstm"] = "lstm"
    layers: int = Field(4, ge=1, le=32)
    hidden_size: int = Field(512, ge=1, le=8192)
    residual: bool = False
    """Add the input of every layer except the first to its output; see :class:`~unmingle.networks.BlstmConfig`."""

    def build(self, freqs: int, dimension: int) -> LstmEmbedding:
        return LstmEmbedding(freqs, dimension, self)


@dataclass
class LstmEmbeddingState:
    """State of an LSTM in a stream."""

    h: list[Tensor]
    """Hidden state of every layer, ``(batch, hidden_size)``."""
    c: list[Tensor]
    """Cell state of every layer, ``(batch, hidden_size)``."""


class LstmEmbedding(SteppingNetwork):
    """LSTM layers and one linear layer.

    Args:
        freqs: number of frequencies of the input.
        dimension: K, the dimension of the embedding.
        config: sizes.
    """

    lag_frames: int = 0
    """An output does not depend on later frames."""
    context_frames: int | None = None
    """An output depends on all earlier frames."""
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

        Padding at the end does not change earlier outputs, so ``frames`` is not needed.
        """
        hidden = features
        for number, layer in enumerate(self.layers):
            hidden = self._joined(number, hidden, layer(hidden)[0])
        return self._shaped(self.linear(hidden))

    def initial_state(self, batch: int) -> LstmEmbeddingState:
        """State before the first frame, for ``batch`` parallel streams."""
        zeros = self.linear.weight.new_zeros(batch, self.linear.in_features)
        return LstmEmbeddingState([zeros] * len(self.layers), [zeros] * len(self.layers))

    def step(self, features: Tensor, state: LstmEmbeddingState, *, ended: bool = False) -> Tensor:
        """Push frames ``(batch, frames, freqs)``; returns their embeddings. ``state`` is updated in place."""
        if not features.shape[1]:
            return features.new_zeros(len(features), 0, self.freqs, self.dimension)
        few = features.shape[1] <= _FEW_FRAMES and not torch.is_grad_enabled()
        hidden = features
        for number, layer in enumerate(self.layers):
            if few:
                output = self._few(number, hidden, state)
            else:
                output, (h, c) = layer(hidden, (state.h[number][None], state.c[number][None]))
                state.h[number], state.c[number] = h[0], c[0]
            hidden = self._joined(number, hidden, output)
        return self._shaped(linear(hidden, *self._prepared[-1]) if few else self.linear(hidden))

    def _few(self, number: int, inputs: Tensor, state: LstmEmbeddingState) -> Tensor:
        """Run one layer on few frames: ``(batch, frames, inputs)`` to ``(batch, frames, hidden_size)``.

        Layers run one after the other, because the weights of one layer fit into the processor's cache and those of
        all layers do not.
        """
        from_input, from_hidden, input_bias, hidden_bias = self._prepared[number]
        h, c = state.h[number], state.c[number]
        outputs = []
        for values in linear(inputs, from_input, input_bias + hidden_bias).unbind(dim=1):
            gate_in, gate_forget, new, gate_out = torch.addmm(values, h, from_hidden.T).chunk(4, dim=1)
            c = torch.sigmoid(gate_forget) * c + torch.sigmoid(gate_in) * torch.tanh(new)
            h = torch.sigmoid(gate_out) * torch.tanh(c)
            outputs.append(h)
        state.h[number], state.c[number] = h, c
        return torch.stack(outputs, dim=1)

    def _joined(self, number: int, inputs: Tensor, output: Tensor) -> Tensor:
        return inputs + output if self.residual and number > 0 else output

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self.freqs, self.dimension)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        return frames * sum(p.numel() for name, p in self.named_parameters() if "weight" in name)
