"""The bidirectional LSTM that computes an embedding for every time-frequency bin."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unmingle.networks.embedding import EmbeddingNetwork, EmbeddingNetworkConfig
from unmingle.networks.recurrent_dropout import lstm_with_recurrent_dropout


class BlstmConfig(EmbeddingNetworkConfig):
    """Sizes and regularization of a BLSTM; the defaults are those of Luo et al. 2018."""

    tiny_sizes: ClassVar[dict[str, int]] = {"hidden_size": 8}
    kind: Literal["blstm"] = "blstm"
    layers: int = Field(4, ge=1, le=32)
    hidden_size: int = Field(300, ge=1, le=8192)
    """Units of each direction."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the inputs of every layer, including the first, that is dropped in training; every frame has a
    new mask. Whether the first layer's input is dropped, too, is our reading of the papers."""
    recurrent_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of h(t-1) that is dropped in training; one mask per sequence, the same for each gate
    (Isik et al. 2016)."""
    residual: bool = False
    """Add the input of every layer except the first to its output. Ours, not in the papers: four layers learn
    several times faster with it."""

    def build(self, freqs: int, dimension: int) -> BlstmEmbedding:
        return BlstmEmbedding(freqs, dimension, self)


class Blstm(nn.Module):
    """BLSTM layers: ``(batch, frames, inputs)`` to ``(batch, frames, outputs)``.

    Args:
        inputs: values in each frame.
        config: sizes and regularization.
    """

    lag_frames: int | None = None
    """None: the first output needs the last input, so this network cannot stream."""
    context_frames: int | None = None
    """None: every output sees the whole utterance."""

    def __init__(self, inputs: int, config: BlstmConfig) -> None:
        super().__init__()
        self.residual, self.recurrent_dropout = config.residual, config.recurrent_dropout
        self.outputs = 2 * config.hidden_size
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.LSTM(
                self.outputs if layer else inputs, config.hidden_size, batch_first=True, bidirectional=True
            )
            for layer in range(config.layers)
        )

    def run_layers(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, inputs)`` to ``(batch, frames, outputs)``.

        ``frames`` ``(batch,)`` counts the frames that are not padding, if any are padding.
        """
        hidden = features
        for number, layer in enumerate(self.layers):
            output = self.run_layer(cast(nn.LSTM, layer), self.dropout(hidden), frames)
            hidden = hidden + output if self.residual and number > 0 else output
        return hidden

    def run_layer(self, layer: nn.LSTM, inputs: Tensor, frames: Tensor | None) -> Tensor:
        """One of the layers: ``(batch, frames, inputs)`` to ``(batch, frames, outputs)``."""
        if self.training and self.recurrent_dropout:
            return lstm_with_recurrent_dropout(layer, inputs, self.recurrent_dropout, frames)
        if frames is None:
            output: Tensor = layer(inputs)[0]
            return output
        packed = pack_padded_sequence(inputs, frames.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        return frames * sum(p.numel() for name, p in self.named_parameters() if "weight" in name)


class BlstmEmbedding(Blstm, EmbeddingNetwork):
    """BLSTM layers and one linear layer (Hershey et al. 2016; Luo et al. 2018).

    Args:
        freqs: number of frequencies of the input.
        dimension: K, the dimension of the embedding.
        config: of the BLSTM.
    """

    working_channels = 0

    def __init__(self, freqs: int, dimension: int, config: BlstmConfig) -> None:
        super().__init__(freqs, config)
        self.freqs, self.dimension = freqs, dimension
        self.linear = nn.Linear(self.outputs, freqs * dimension)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``."""
        embedding: Tensor = self.linear(self.run_layers(features, frames))
        return embedding.reshape(*embedding.shape[:-1], self.freqs, self.dimension)


class BlstmMasks(Blstm):
    """BLSTM layers and one linear layer that gives values for ``masks`` masks in every frame.

    Args:
        inputs: values in each frame of the input.
        freqs: number of frequencies of each mask.
        masks: how many.
        config: of the BLSTM.
    """

    def __init__(self, inputs: int, freqs: int, masks: int, config: BlstmConfig) -> None:
        super().__init__(inputs, config)
        self.freqs, self.masks = freqs, masks
        self.linear = nn.Linear(self.outputs, freqs * masks)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, inputs)`` to values ``(batch, masks, frames, freqs)``."""
        values: Tensor = self.linear(self.run_layers(features, frames))
        return values.reshape(*values.shape[:-1], self.masks, self.freqs).movedim(2, 1)
