"""Recognize a speaker by the voice: a small network that maps speech to a speaker embedding.

Embeddings of one speaker are close to each other, those of two speakers are far apart, whatever is said. Attractors
are places of speakers, too, but they are trained to tell two voices apart that sound in the same recording. Speaker
embeddings are trained to tell each voice from all others.

The network is a small time-delay network with attentive statistics pooling, as in x-vectors (Snyder et al. 2018) and
ECAPA-TDNN (Desplanques et al. 2020).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from unmingle.config import Config
from unmingle.network_files import load_network, save_network

SPEAKER_ENCODER = Path(__file__).parent / "pretrained" / "speaker_encoder" / "speaker-8khz.safetensors"
"""The pretrained encoder in the package."""
_KIND = "speaker_encoder-1"
_ACTIVE_DB = 20.0
"""Frames within so many dB of the loudest one give the level."""
_FLOOR = 1e-4
"""Energy of the quietest features relative to the level: -40 dB."""


class SpeakerEncoderConfig(Config):
    """Settings of a speaker encoder."""

    sample_rate: int = Field(8000, ge=1000, le=192000)
    bands: int = Field(48, ge=1, le=256)
    """Number of mel bands."""
    channels: int = Field(256, ge=1, le=4096)
    dim: int = Field(128, ge=1, le=4096)
    """Length of a speaker embedding."""


class SpeakerEncoder(nn.Module):
    """Audio ``(batch, samples)`` to speaker embeddings ``(batch, dim)`` of unit length.

    :meth:`frames` computes features of frames, and :meth:`pool` the embedding of any weighted set of frames. So many
    overlapping pieces of a recording cost little more than one.
    """

    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, wide = config.channels, 2 * config.channels
        self.mel = _LogMel(config.sample_rate, config.bands)
        self.input = nn.Conv1d(config.bands, channels, 5, stride=2, padding=2)
        self.input_norm = nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList([_Block(channels, dilation) for dilation in (1, 2, 3, 4)])
        self.output = nn.Conv1d(channels, wide, 1)
        self.attention = nn.Sequential(nn.Conv1d(wide, 64, 1), nn.Tanh(), nn.Conv1d(64, wide, 1))
        self.pooled_norm = nn.BatchNorm1d(2 * wide)
        self.embedding = nn.Linear(2 * wide, config.dim)

    @property
    def hop(self) -> int:
        """Number of samples between two frames of :meth:`frames`: 40 ms."""
        return 2 * self.mel.hop

    def features(self, audio: Tensor) -> Tensor:
        """Log-mel energies ``(batch, features, bands)`` of audio ``(batch, samples)``, relative to its level."""
        found: Tensor = self.mel(audio)
        return found

    def frames(self, features: Tensor) -> Tensor:
        """Frame features ``(batch, channels, frames)``, from :meth:`features`."""
        hidden = functional.relu(self.input_norm(self.input(features.transpose(1, 2))))
        for block in self.blocks:
            hidden = block(hidden)
        return functional.relu(self.output(hidden))

    def pool(self, frames: Tensor, weights: Tensor | None = None) -> Tensor:
        """Speaker embeddings ``(batch, dim)`` of :meth:`frames`.

        Args:
            frames: ``(batch, channels, frames)``.
            weights: how much each frame counts, ``(batch, frames)``; None if all count alike.
        """
        scores = self.attention(frames)
        if weights is not None:
            scores = scores + weights.clamp_min(1e-6).log().unsqueeze(1)
        share = scores.softmax(dim=-1)
        mean = (share * frames).sum(dim=-1)
        deviation = ((share * frames.square()).sum(dim=-1) - mean.square()).clamp_min(1e-6).sqrt()
        pooled = self.pooled_norm(torch.cat([mean, deviation], dim=1))
        return functional.normalize(self.embedding(pooled), dim=1)

    def forward(self, audio: Tensor) -> Tensor:
        """Embeddings ``(batch, dim)`` of whole pieces of audio ``(batch, samples)``."""
        return self.pool(self.frames(self.features(audio)))


class _LogMel(nn.Module):
    """Log-mel energies every 20 ms, from windows of 32 ms."""

    def __init__(self, sample_rate: int, bands: int) -> None:
        super().__init__()
        self.window_length, self.hop = round(0.032 * sample_rate), round(0.02 * sample_rate)
        freqs = self.window_length // 2 + 1
        hertz = torch.linspace(0.0, sample_rate / 2, freqs)
        last = 2595 * torch.log10(torch.tensor(1 + 0.9875 * sample_rate / 2 / 700))
        first = 2595 * torch.log10(torch.tensor(1 + 60 / 700))
        edges = 700 * (10 ** (torch.linspace(float(first), float(last), bands + 2) / 2595) - 1)
        low, centre, high = edges[:-2], edges[1:-1], edges[2:]
        rising = (hertz[:, None] - low) / (centre - low)
        falling = (high - hertz[:, None]) / (high - centre)
        self.register_buffer("filters", torch.minimum(rising, falling).clamp_min(0.0), persistent=False)
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        assert isinstance(self.filters, Tensor)
        assert isinstance(self.window, Tensor)
        spectrum = torch.stft(
            audio,
            self.window_length,
            self.hop,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        energy = spectrum.abs().square().transpose(1, 2) @ self.filters
        total = energy.mean(dim=-1, keepdim=True)
        active = total > total.amax(dim=1, keepdim=True) * 10 ** (-_ACTIVE_DB / 10)
        level = (total * active).sum(dim=1, keepdim=True) / active.sum(dim=1, keepdim=True).clamp_min(1)
        return (energy / level.clamp_min(1e-12) + _FLOOR).log()


class _Block(nn.Module):
    """A residual layer of the time-delay network."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(channels, channels, 3, dilation=dilation, padding=dilation)
        self.wide_norm = nn.BatchNorm1d(channels)
        self.narrow = nn.Conv1d(channels, channels, 1)
        self.narrow_norm = nn.BatchNorm1d(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = functional.relu(self.wide_norm(self.wide(hidden)))
        outer: Tensor = self.narrow_norm(self.narrow(inner))
        return hidden + outer


def save_speaker_encoder(encoder: SpeakerEncoder, path: Path) -> None:
    """Write an encoder as safetensors, in half precision.

    Raises:
        UnmingleError: the file cannot be written.
    """
    save_network(encoder, encoder.config.model_dump_json(), _KIND, path)


def load_speaker_encoder(path: Path = SPEAKER_ENCODER) -> SpeakerEncoder:
    """The encoder of a file, ready to use.

    Raises:
        UnmingleError: the file is missing or damaged.
    """
    return load_network(_KIND, path, lambda **config: SpeakerEncoder(SpeakerEncoderConfig(**config)))


@cache
def pretrained_speaker_encoder() -> SpeakerEncoder:
    """The encoder in the package, loaded once."""
    return load_speaker_encoder()
