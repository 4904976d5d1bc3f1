"""Embeddings by LSTMs along time and along frequency (dual-path)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unmingle.networks.embedding import EmbeddingNetwork, EmbeddingNetworkConfig


class DualPathConfig(EmbeddingNetworkConfig):
    """Sizes of a dual-path network. Ours, not in the papers."""

    tiny_sizes: ClassVar[dict[str, int]] = {"blocks": 1, "channels": 4, "hidden_size": 4}
    kind: Literal["dual_path"] = "dual_path"
    blocks: int = Field(4, ge=1, le=32)
    channels: int = Field(64, ge=1, le=1024)
    """Values of every band in every frame."""
    hidden_size: int = Field(64, ge=1, le=1024)
    """Units of each direction of an LSTM."""

    def build(self, freqs: int, dimension: int) -> DualPathEmbedding:
        return DualPathEmbedding(freqs, dimension, self)


class DualPathEmbedding(EmbeddingNetwork):
    """Dual-path blocks (Luo et al. 2020, with bands instead of chunks) that embed every bin.

    Neighbouring bins are one band. The features of a band in a frame become one vector. Every block has an LSTM along
    time, the same for all bands, and one along the bands, the same for all frames.

    Args:
        freqs: number of frequencies of the input.
        dimension: K, the dimension of the embedding.
        config: sizes.
    """

    lag_frames: int | None = None
    context_frames: int | None = None

    def __init__(self, freqs: int, dimension: int, config: DualPathConfig) -> None:
        super().__init__()
        self.freqs, self.dimension = freqs, dimension
        self.widths, channels, hidden = band_widths(freqs), config.channels, config.hidden_size
        # Blocks keep several arrays of their channels and units for every band and frame.
        self.working_channels = -(-len(self.widths) * 4 * (channels + hidden) // freqs) + dimension
        self.inputs = nn.ModuleList(nn.Linear(width, channels) for width in self.widths)
        self.blocks = nn.ModuleList(_Block(channels, hidden) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(channels)
        self.outputs = nn.ModuleList(nn.Linear(channels, width * dimension) for width in self.widths)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``."""
        parts = features.split(self.widths, dim=2)
        hidden = torch.stack([layer(part) for layer, part in zip(self.inputs, parts, strict=True)], dim=2)
        for block in self.blocks:
            hidden = block(hidden, frames)
        hidden = self.norm(hidden)
        # Reshaped, because a traced `unflatten` keeps the number of frames of its example.
        bins = [
            layer(hidden[:, :, band]).reshape(*hidden.shape[:2], width, self.dimension)
            for band, (layer, width) in enumerate(zip(self.outputs, self.widths, strict=True))
        ]
        return torch.cat(bins, dim=2)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        ends = sum(
            p.numel() for part in (self.inputs, self.outputs) for p in part.parameters() if p.ndim == 2
        )
        blocks = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        return frames * (ends + len(self.widths) * blocks)


class _Block(nn.Module):
    """One LSTM along time and one along the bands."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.along_time = _Path(channels, hidden)
        self.along_bands = _Path(channels, hidden)

    def forward(self, hidden: Tensor, frames: Tensor | None) -> Tensor:
        """``(batch, frames, bands, channels)`` to the same shape; ``frames`` ``(batch,)`` are not padding."""
        batch, count, bands, channels = hidden.shape
        rows = hidden.transpose(1, 2).reshape(-1, count, channels)
        rows = self.along_time(rows, None if frames is None else frames.repeat_interleave(bands))
        hidden = rows.reshape(batch, bands, count, channels).transpose(1, 2)
        found: Tensor = self.along_bands(hidden.reshape(-1, bands, channels))
        return found.reshape(batch, count, bands, channels)


class _Path(nn.Module):
    """A bidirectional LSTM with layer norm before, a linear layer after, and its input added to its output."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.lstm = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, channels)

    def forward(self, rows: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(rows, steps, channels)`` to the same shape; ``lengths`` ``(rows,)`` counts steps, without padding."""
        inputs = self.norm(rows)
        if lengths is None:
            output = self.lstm(inputs)[0]
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed = self.lstm(packed)[0]
            output = pad_packed_sequence(packed, batch_first=True, total_length=rows.shape[1])[0]
        changed: Tensor = rows + self.linear(output)
        return changed


def band_widths(freqs: int) -> list[int]:
    """Numbers of bins of about 32 bands, which double at a quarter and at half of the frequencies."""
    unit = max(1, freqs // 64)
    widths: list[int] = []
    while (left := freqs - sum(widths)) > 0:
        done = freqs - left
        width = unit if 4 * done < freqs - 1 else 2 * unit if 2 * done < freqs - 1 else 4 * unit
        widths.append(width if left - width >= unit else left)
    return widths
