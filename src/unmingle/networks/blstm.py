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
    """

    lag_frames: int | None = None
    """None: the first output needs the last input, so this network cannot stream."""
    context_frames: int | None = None
    """None: every output sees the whole utterance."""

    def __init__(self, freqs: int, layers: int, hidden_size: int, dimension: int, dropout: float) -> None:
        super().__init__()
        self.freqs = freqs
        self.dimension = dimension
        self.input_dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(
            freqs,
            hidden_size,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.linear = nn.Linear(2 * hidden_size, freqs * dimension)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``.

        ``frames`` ``(batch,)`` counts the frames that are not padding, if any are padding.
        """
        inputs = self.input_dropout(features)
        if frames is None:
            hidden, _ = self.lstm(inputs)
        else:
            packed = pack_padded_sequence(inputs, frames.cpu(), batch_first=True, enforce_sorted=False)
            packed_hidden, _ = self.lstm(packed)
            hidden, _ = pad_packed_sequence(packed_hidden, batch_first=True, total_length=features.shape[1])
        embedding: Tensor = self.linear(hidden)
        return embedding.reshape(*embedding.shape[:-1], self.freqs, self.dimension)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, LSTM included."""
        weights = sum(p.numel() for name, p in self.lstm.named_parameters() if name.startswith("weight"))
        return frames * (weights + self.linear.weight.numel())
