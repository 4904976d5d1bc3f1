"""Who is active: a small network that tells, frame by frame, which speaker is heard alone, or whether several are.

A separator divides every frame among the speakers, even a frame in which one of them is heard alone. What it gives to
the others there is an error. The network compares a frame with the voices of the recording's speakers, as in
target-speaker voice activity detection (Medennikov et al. 2020). With its answer, a frame of one speaker goes to
that speaker as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from unmingle.config import Config
from unmingle.network_files import load_network, save_network
from unmingle.stft import Stft

SPEAKER_ACTIVITY = Path(__file__).parent / "pretrained" / "speaker_activity" / "activity-8khz.safetensors"
"""The pretrained network in the package."""
_KIND = "speaker_activity-2"
_LIKENESS = 4
"""Number of likenesses of voices in the input."""
_LOUD = 30.0
"""A frame whose energy, relative to the mean, is a thirtieth or more counts fully as speech."""
_FLOOR = 1e-4
"""Power of the quietest features relative to the mean: -40 dB."""


class SpeakerActivityConfig(Config):
    """Settings of a network."""

    sample_rate: int = Field(8000, ge=1000, le=192000)
    window_length: int = Field(256, ge=2)
    """Of the spectrograms, in samples."""
    hop: int = Field(128, ge=1)
    """Of the spectrograms, in samples."""
    voice: int = Field(128, ge=1, le=4096)
    """Length of a speaker embedding."""
    channels: int = Field(128, ge=1, le=4096)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1, 2, 4, 8, 16)
    """Of each layer's convolution over time. A frame of the network is two of the spectrogram."""


@dataclass(frozen=True)
class ActivityInputs:
    """Input of the network, for one recording or a batch."""

    power: Tensor
    """Of the mixture, relative to its mean, ``(batch, frames, freqs)``."""
    masks: Tensor
    """Of the speakers, ``(batch, speakers, frames, freqs)``."""
    nearest: Tensor
    """For each speaker, the mask of the estimate whose voice is nearest, ``(batch, speakers, frames, freqs)``."""
    likeness: Tensor
    """The cosine of that voice with the speaker's, and the largest with another speaker's; then the same of the
    mixture's voice: ``(batch, speakers, frames, 4)``."""
    voices: Tensor
    """Speaker embeddings ``(batch, speakers, voice)``."""


class SpeakerActivity(nn.Module):
    """:class:`ActivityInputs` to log-probabilities ``(batch, speakers + 1, steps)``.

    A step is two frames. Of each step, the probabilities are those of every speaker alone, and at last that of
    several speakers. Speakers may have any order and number: each has the same network, which hears the mean of
    the others after every second layer. If the window is twice as long as in training, the
    inputs are converted (:func:`with_half_the_window`).
    """

    def __init__(self, config: SpeakerActivityConfig) -> None:
        super().__init__()
        self.config = config
        channels, freqs = config.channels, config.window_length // 2 + 1
        self.input = nn.Linear(3 * 2 * freqs + _LIKENESS, channels)
        self.voice = nn.Linear(config.voice, 2 * channels)
        self.layers = nn.ModuleList([_Layer(channels, dilation) for dilation in config.dilations])
        self.others = nn.ModuleList([nn.Linear(channels, channels) for _ in config.dilations[1::2]])
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, 2)

    def knows(self, stft: Stft, sample_rate: int) -> bool:
        """Whether the network was trained for such spectrograms, or for those of half the window."""
        lengths = self.config.window_length, 2 * self.config.window_length
        known = self.config.sample_rate, self.config.hop
        return (sample_rate, stft.hop) == known and stft.window_length in lengths

    def forward(self, inputs: ActivityInputs) -> Tensor:
        if inputs.power.shape[-1] > self.config.window_length // 2 + 1:
            inputs = with_half_the_window(inputs)
        batch, speakers = inputs.masks.shape[:2]
        power = inputs.power.unsqueeze(1)
        parts = [
            _steps(_log(power)).expand(-1, speakers, -1, -1),
            _steps(_log(power * inputs.masks.square())),
            _steps(_log(power * inputs.nearest.square())),
            inputs.likeness[:, :, ::2],
        ]
        scale, shift = (
            self.voice(inputs.voices * inputs.voices.shape[-1] ** 0.5).unsqueeze(2).chunk(2, dim=-1)
        )
        hidden = functional.gelu(self.input(torch.cat(parts, dim=-1))) * (1 + scale) + shift
        hidden = hidden.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if number % 2:
                own = self.others[number // 2](hidden).unflatten(0, (batch, speakers))
                rest = (own.sum(dim=1, keepdim=True) - own) / max(1, speakers - 1)
                hidden = hidden + rest.flatten(0, 1)
        alone, several = self.output(self.norm(hidden)).unflatten(0, (batch, speakers)).unbind(-1)
        return torch.cat([alone, several.mean(dim=1, keepdim=True)], dim=1).log_softmax(dim=1)


class _Layer(nn.Module):
    """A residual layer: a convolution over time and a pointwise one, ``(batch, steps, channels)``."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.over_time = nn.Conv1d(channels, channels, 3, dilation=dilation, padding=dilation)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        found = self.over_time(self.norm(hidden).transpose(1, 2)).transpose(1, 2)
        outer: Tensor = self.pointwise(functional.gelu(found))
        return hidden + outer


def _log(power: Tensor) -> Tensor:
    return (power + _FLOOR).log() / 4 + 1


def _steps(frames: Tensor) -> Tensor:
    """Every two frames side by side: ``(..., frames, freqs)`` to ``(..., steps, 2 * freqs)``."""
    padded = functional.pad(frames, (0, 0, 0, frames.shape[-2] % 2))
    return padded.reshape(*padded.shape[:-2], -1, 2 * padded.shape[-1])


def speech_weight(energy: Tensor) -> Tensor:
    """Weight of each frame as speech, 0 to 1, from energies ``(..., frames)``."""
    return (_LOUD * energy / energy.mean(dim=-1, keepdim=True).clamp_min(1e-20)).clamp(0.0, 1.0)


def relative_power(magnitude: Tensor) -> Tensor:
    """Power relative to its mean, of magnitudes ``(..., frames, freqs)``."""
    power = magnitude.square()
    return power / power.mean(dim=(-2, -1), keepdim=True).clamp_min(1e-20)


def with_half_the_window(inputs: ActivityInputs) -> ActivityInputs:
    """Approximate the inputs for a window of half the length.

    Every second bin gets half the power of each of its neighbours.
    """
    power = _half_the_bins(inputs.power)
    freqs = inputs.power.shape[-1], power.shape[-1]

    def halved(masks: Tensor) -> Tensor:
        found = _half_the_bins(inputs.power.unsqueeze(1) * masks.square())
        return (found / power.unsqueeze(1).clamp_min(1e-20)).sqrt()

    return ActivityInputs(
        power * freqs[1] / freqs[0],
        halved(inputs.masks),
        halved(inputs.nearest),
        inputs.likeness,
        inputs.voices,
    )


def _half_the_bins(power: Tensor) -> Tensor:
    """Power ``(..., 2 * n + 1)`` in ``n + 1`` bins, ``(..., n + 1)``."""
    between = functional.pad(power[..., 1::2] / 2, (1, 1))
    return power[..., ::2] + between[..., :-1] + between[..., 1:]


def to_frames(steps: Tensor, frames: int) -> Tensor:
    """Values of steps ``(batch, channels, steps)`` at ``frames`` frames, interpolated. A step is two frames."""
    found = functional.interpolate(steps, size=2 * steps.shape[-1], mode="linear")
    return found[..., :frames]


def save_speaker_activity(network: SpeakerActivity, path: Path) -> None:
    """Write a network as safetensors, in half precision.

    Raises:
        UnmingleError: the file cannot be written.
    """
    save_network(network, network.config.model_dump_json(), _KIND, path)


def load_speaker_activity(path: Path = SPEAKER_ACTIVITY) -> SpeakerActivity:
    """The network of a file, ready to use.

    Raises:
        UnmingleError: the file is missing or damaged.
    """
    return load_network(_KIND, path, lambda **config: SpeakerActivity(SpeakerActivityConfig(**config)))


@cache
def pretrained_speaker_activity() -> SpeakerActivity:
    """The network in the package, loaded once."""
    return load_speaker_activity()
