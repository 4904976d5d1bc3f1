"""The dilated convolutional network that embeds time-frequency bins with a fixed lag (Mobin et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from unmingle.networks.embedding import EmbeddingNetworkConfig, SteppingNetwork
from unmingle.padding import within

_DILATIONS = (1, 2, 4, 8, 16, 32, 1, 2, 4, 8, 16, 32, 1)


class DilatedCnnConfig(EmbeddingNetworkConfig):
    """Size of a dilated CNN; the default is the paper's: 1,650,836 parameters with K = 20."""

    tiny_sizes: ClassVar[dict[str, int]] = {"channels": 4}
    kind: Literal["dilated_cnn"] = "dilated_cnn"
    channels: int = Field(128, ge=1, le=1024)

    def build(self, freqs: int, dimension: int) -> DilatedCnnEmbedding:
        return DilatedCnnEmbedding(freqs, dimension, self)


@dataclass
class StreamState:
    """State of a dilated CNN in a stream."""

    inputs: list[Tensor]
    """For every layer, the last ``2 * dilation`` frames of its input: ``(batch, channels, frames, freqs)``."""
    skips: list[Tensor]
    """For every residual sum, the frames of the skip connection that wait for the longer path."""
    seen: int = 0
    """Frames pushed."""


class DilatedCnnEmbedding(SteppingNetwork):
    """13 layers of 3 x 3 convolutions over (time, frequency), dilated in both.

    Batch norm and ReLU follow all layers but the last; layers 4, 6, 8, 10 and 12 add the output of the
    residual layer before (layer 2 adds nothing) before the ReLU.

    Args:
        freqs: number of frequencies.
        dimension: K, the dimension of the embedding.
        config: number of channels.
    """

    lag_frames: int = sum(_DILATIONS)
    """An output depends on up to 127 frames after its own."""
    context_frames: int | None = sum(_DILATIONS)
    """An output depends on up to 127 frames before its own."""

    def __init__(self, freqs: int, dimension: int, config: DilatedCnnConfig) -> None:
        super().__init__()
        self.freqs, self.dimension = freqs, dimension
        # A convolution needs its input, its output and their padding.
        self.working_channels = 6 * config.channels
        widths = [1] + [config.channels] * (len(_DILATIONS) - 1) + [dimension]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, dilation=dilation)
            for (before, after), dilation in zip(pairwise(widths), _DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(config.channels) for _ in _DILATIONS[:-1])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half a step's time

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``.

        ``frames`` ``(batch,)`` counts the frames that are not padding: to every layer, padding is zero.
        """
        inside: Tensor | None = None
        if frames is not None:
            inside = within(frames, features.shape[1], features.device)[:, None, :, None]
        hidden = features.unsqueeze(1)
        skip: Tensor | None = None
        for number, dilation in enumerate(_DILATIONS):
            if inside is not None:
                hidden = hidden * inside
            padded = nn.functional.pad(hidden, (dilation, dilation, dilation, dilation))
            hidden, skip = self._layer(number, padded, skip)
        return hidden.permute(0, 2, 3, 1)

    def _layer(self, number: int, padded: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Output of a layer, and the output that the next residual layer adds."""
        hidden: Tensor = self.convolutions[number](padded)
        if number == len(self.norms):
            return hidden, None
        hidden = self.norms[number](hidden)
        if number % 2 == 0:
            return torch.relu(hidden), skip
        hidden = torch.relu(hidden if skip is None else hidden + skip)
        return hidden, hidden

    def initial_state(self, batch: int) -> StreamState:
        """State before the first frame, for ``batch`` parallel streams."""
        parameter = next(self.parameters())
        inputs = [
            parameter.new_zeros(batch, cast(nn.Conv2d, layer).in_channels, 2 * dilation, self.freqs)
            for layer, dilation in zip(self.convolutions, _DILATIONS, strict=True)
        ]
        skips = [
            parameter.new_zeros(
                batch, cast(nn.Conv2d, self.convolutions[number]).out_channels, late, self.freqs
            )
            for number, late in self._skip_delays()
        ]
        return StreamState(inputs, skips)

    @staticmethod
    def _skip_delays() -> list[tuple[int, int]]:
        """Residual layers (from 0) after the first, and their delay in frames relative to the skip connection."""
        return [
            (number, _DILATIONS[number - 1] + _DILATIONS[number]) for number in range(3, len(_DILATIONS), 2)
        ]

    def step(self, features: Tensor, state: StreamState, *, ended: bool = False) -> Tensor:
        """Push frames ``(batch, frames, freqs)``; returns the embeddings that are ready.

        All steps together equal :meth:`forward` in evaluation mode. The first 127 frames return nothing, and
        ``ended=True`` returns the remaining embeddings. ``state`` is updated in place.
        """
        pushed = features.shape[1]
        if ended:
            features = nn.functional.pad(features, (0, 0, 0, sum(_DILATIONS)))
        if features.shape[1] == 0:
            return features.new_zeros(len(features), 0, self.freqs, self.dimension)
        end = state.seen + pushed if ended else None
        hidden = features.unsqueeze(1)
        first = state.seen  # time of the first frame of `hidden`
        waiting: Tensor | None = None
        skip_number = 0
        for number, dilation in enumerate(_DILATIONS):
            # Before and after the recording every layer gets zeros, like its padding.
            time = torch.arange(first, first + hidden.shape[2], device=hidden.device)
            known = (time >= 0) & (time < end if end is not None else True)
            hidden = hidden * known[:, None]
            joined = torch.cat([state.inputs[number], hidden], dim=2)
            state.inputs[number] = joined[:, :, joined.shape[2] - 2 * dilation :]
            skip = None
            if number % 2 == 1 and waiting is not None and number < len(self.norms):
                late = torch.cat([state.skips[skip_number], waiting], dim=2)
                skip, state.skips[skip_number] = (
                    late[:, :, : hidden.shape[2]],
                    late[:, :, hidden.shape[2] :],
                )
                skip_number += 1
            hidden, produced = self._layer(number, nn.functional.pad(joined, (dilation, dilation)), skip)
            waiting = produced if number % 2 == 1 else waiting
            first -= dilation
        state.seen += pushed
        known = torch.arange(first, first + hidden.shape[2], device=hidden.device) >= 0
        return hidden[:, :, known].permute(0, 2, 3, 1)

    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames, from the weights of all layers."""
        return frames * self.freqs * sum(cast(nn.Conv2d, layer).weight.numel() for layer in self.convolutions)
