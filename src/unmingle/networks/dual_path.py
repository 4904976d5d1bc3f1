"""Embeddings by LSTMs along time and along frequency (dual-path)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unmingle.networks.blstm import BlstmConfig, BlstmEmbedding
from unmingle.networks.embedding import EmbeddingNetwork, EmbeddingNetworkConfig
from unmingle.padding import within


class DualPathConfig(EmbeddingNetworkConfig):
    """Sizes of dual-path blocks, and of a BLSTM before them. Ours, not in the papers."""

    tiny_sizes: ClassVar[dict[str, int]] = {"blocks": 1, "channels": 4, "hidden_size": 4}
    kind: Literal["dual_path"] = "dual_path"
    first: BlstmConfig | None = None
    """A BLSTM that embeds first; the blocks correct its embeddings."""
    blocks: int = Field(4, ge=1, le=32)
    channels: int = Field(64, ge=1, le=1024)
    """Values of every band in every step."""
    hidden_size: int = Field(64, ge=1, le=1024)
    """Units of each direction of an LSTM."""
    frames_per_step: int = Field(1, ge=1, le=16)
    """Frames that are one step of the LSTMs along time."""

    def build(self, freqs: int, dimension: int) -> DualPathEmbedding:
        return DualPathEmbedding(freqs, dimension, self)


class DualPathEmbedding(EmbeddingNetwork):
    """Dual-path blocks (Luo et al. 2020, with bands instead of chunks) that embed every bin.

    Neighbouring bins are one band, and frames one step. Features of each band and step become one vector. Every block
    has an LSTM along time, the same for all bands, and one along the bands, the same for all steps.

    With a first BLSTM, the vectors also get its embeddings, and the blocks give a correction of them. At first the
    correction is zero.

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
        self.first = None if config.first is None else BlstmEmbedding(freqs, dimension, config.first)
        self.widths, self.frames_per_step = band_widths(freqs), config.frames_per_step
        channels, hidden, span = config.channels, config.hidden_size, config.frames_per_step
        # Blocks keep several arrays of their channels and units for every band and step.
        self.working_channels = -(-len(self.widths) * 4 * (channels + hidden) // (span * freqs)) + dimension
        values = 1 if self.first is None else 1 + dimension
        self.inputs = nn.ModuleList(nn.Linear(span * width * values, channels) for width in self.widths)
        self.blocks = nn.ModuleList(_Block(channels, hidden) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(channels)
        self.outputs = nn.ModuleList(nn.Linear(channels, span * width * dimension) for width in self.widths)
        if self.first is not None:
            for parameter in self.outputs.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``."""
        values, first = features.unsqueeze(-1), None
        if self.first is not None:
            first = self.first(features, frames)
            values = torch.cat([values.to(first.dtype), first], dim=-1)
        steps = None
        if frames is not None:
            values = values * within(frames, values.shape[1], values.device)[:, :, None, None]
            steps = (frames + self.frames_per_step - 1) // self.frames_per_step
        hidden = self._to_bands(values)
        for block in self.blocks:
            hidden = block(hidden, steps)
        embedding = self._from_bands(self.norm(hidden))[:, : features.shape[1]]
        return embedding if first is None else first + embedding

    def _to_bands(self, values: Tensor) -> Tensor:
        """Vectors ``(batch, steps, bands, channels)`` of values ``(batch, frames, freqs, n)``."""
        values = nn.functional.pad(values, (0, 0, 0, 0, 0, -values.shape[1] % self.frames_per_step))
        # Reshaped, because a traced `unflatten` keeps the number of frames of its example.
        values = values.reshape(values.shape[0], -1, self.frames_per_step, *values.shape[2:])
        parts = values.split(self.widths, dim=3)
        found = [layer(part.flatten(2)) for layer, part in zip(self.inputs, parts, strict=True)]
        return torch.stack(found, dim=2)

    def _from_bands(self, hidden: Tensor) -> Tensor:
        """Embeddings ``(batch, frames, freqs, dimension)`` of vectors ``(batch, steps, bands, channels)``."""
        parts = [
            layer(hidden[:, :, band]).reshape(*hidden.shape[:2], self.frames_per_step, width, self.dimension)
            for band, (layer, width) in enumerate(zip(self.outputs, self.widths, strict=True))
        ]
        return torch.cat(parts, dim=3).flatten(1, 2)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        ends = sum(
            p.numel() for part in (self.inputs, self.outputs) for p in part.parameters() if p.ndim == 2
        )
        per_step = ends + len(self.widths) * sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        first = 0 if self.first is None else self.first.multiply_accumulates(frames)
        return first + frames * per_step // self.frames_per_step


class _Block(nn.Module):
    """One LSTM along time and one along the bands."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.along_time = _Path(channels, hidden)
        self.along_bands = _Path(channels, hidden)

    def forward(self, hidden: Tensor, steps: Tensor | None) -> Tensor:
        """``(batch, steps, bands, channels)`` to the same shape; ``steps`` ``(batch,)`` that are no padding."""
        batch, count, bands, channels = hidden.shape
        rows = hidden.transpose(1, 2).reshape(-1, count, channels)
        rows = self.along_time(rows, None if steps is None else steps.repeat_interleave(bands))
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
        """``(rows, steps, channels)`` to the same shape; ``lengths`` ``(rows,)`` counts steps that are no padding."""
        inputs = self.norm(rows)
        if lengths is None:
            output = self.lstm(inputs)[0]
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            output = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=rows.shape[1])[
                0
            ]
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
