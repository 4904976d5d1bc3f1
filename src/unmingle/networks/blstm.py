"""The bidirectional LSTM that gives every time-frequency bin an embedding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class BlstmEmbedding(nn.Module):
    """BLSTM layers and one linear layer (Luo et al. 2018, IV.B; Hershey et al. 2016).

    Args:
        freqs: number of frequencies of the input.
        layers: number of BLSTM layers.
        hidden_size: units of each direction.
        dimension: K, the dimension of the embedding.
        dropout: share of each BLSTM layer's inputs, the first layer's too, that is dropped in training.
        residual: add the input of every layer but the first to its output. Ours, not the papers':
            four layers learn several times faster with it.
    """

    lag_frames: int | None = None
    """None: the first output needs the last input, so this network cannot stream."""
    context_frames: int | None = None
    """None: every output sees the whole utterance."""

    def __init__(
        self, freqs: int, layers: int, hidden_size: int, dimension: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.freqs = freqs
        self.dimension = dimension
        self.residual = residual
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.LSTM(2 * hidden_size if layer else freqs, hidden_size, batch_first=True, bidirectional=True)
            for layer in range(layers)
        )
        self.linear = nn.Linear(2 * hidden_size, freqs * dimension)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``.

        ``frames`` ``(batch,)`` counts the frames that are not padding, if any are padding.
        """
        hidden = features
        for number, layer in enumerate(self.layers):
            output = _run(layer, self.dropout(hidden), frames)
            hidden = hidden + output if self.residual and number > 0 else output
        embedding: Tensor = self.linear(hidden)
        return embedding.reshape(*embedding.shape[:-1], self.freqs, self.dimension)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, LSTM included."""
        weights = sum(p.numel() for name, p in self.layers.named_parameters() if "weight" in name)
        return frames * (weights + self.linear.weight.numel())


def _run(layer: nn.Module, inputs: Tensor, frames: Tensor | None) -> Tensor:
    if frames is None:
        output: Tensor = layer(inputs)[0]
        return output
    packed = pack_padded_sequence(inputs, frames.cpu(), batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
