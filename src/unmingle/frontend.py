"""From waveform to network input: spectrogram, level, log magnitude, and the weights of bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unmingle.config import Config
from unmingle.padding import within
from unmingle.stft import Stft, WindowName

_LOG_FLOOR = 1e-4
"""Lower limit of magnitudes relative to the level before the logarithm (-80 dB)."""
_LOUD = 10.0**-1.5
"""Frames at most 30 dB below the level count as loud. They show the frequency response of the microphone."""
_HALF_LIFE_FRAMES = 250
"""Half-life of the running level: four seconds at a hop of 16 ms."""
FADE = 0.5 ** (1 / _HALF_LIFE_FRAMES)
"""Decay of the running level's sums from one frame to the next."""


class Spectra:
    """Spectrogram, magnitude and features of a batch of mixtures, computed on first use."""

    def __init__(self, spectrum: Tensor, front_end: FrontEnd) -> None:
        self.spectrum = spectrum
        """``(batch, frames, freqs)`` complex, at the level of the input."""
        self._front_end = front_end

    @cached_property
    def magnitude(self) -> Tensor:
        """``(batch, frames, freqs)``, at the level of the input."""
        return self.spectrum.abs()

    @cached_property
    def relative(self) -> Tensor:
        """``(batch, frames, freqs)``: magnitude relative to the level."""
        return self._front_end.relative(self.magnitude)

    @cached_property
    def features(self) -> Tensor:
        """``(batch, frames, freqs)``: normalized (log) magnitude, the same for any gain of the input."""
        return self._front_end.features(self.relative)


class StftConfig(Config):
    """Spectrogram and features; the defaults are those of Luo and Isik at 8 kHz."""

    window_length: int = Field(256, ge=16, le=65536)
    hop: int = Field(64, ge=1)
    window: WindowName = "sqrt_hann"
    feature: Literal["log_magnitude", "magnitude"] = "log_magnitude"
    level: Literal["whole", "running"] = "whole"
    """Reference of magnitudes: the level of the whole mixture, or, for streaming systems, the level up to the
    current frame."""
    equalize: bool = False
    """Raise frequencies that are weaker in a recording than in the training data. Ours, see :class:`FrontEnd`."""

    @model_validator(mode="after")
    def _equalizes_wholes(self) -> StftConfig:
        if self.equalize and (self.feature, self.level) != ("log_magnitude", "whole"):
            raise ValueError("equalize needs the feature log_magnitude and the level whole")
        return self

    @model_validator(mode="after")
    def _overlaps(self) -> StftConfig:
        if self.window_length % 2:
            raise ValueError(f"window_length must be even, got {self.window_length}")
        if self.hop > self.window_length // 2:
            raise ValueError(
                f"hop must be at most half of window_length {self.window_length}, got {self.hop}"
            )
        return self


@dataclass
class LevelState:
    """State of a running level: exponentially decaying sums of frame power and of its square."""

    sums: Tensor
    """``(2, batch)``."""


class FrontEnd(nn.Module):
    """Features: magnitudes relative to the mixture's level, normalized by a stored mean and deviation per frequency.

    With ``equalize``, a frequency is raised if its mean feature over the loud frames is below zero, the mean of the
    training data, so that this mean becomes zero. Recordings of telephones or muffled microphones then look to the
    network like other recordings.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.stft = Stft(config.window_length, config.hop, config.window)
        self._logarithmic = config.feature == "log_magnitude"
        self._running = config.level == "running"
        self._equalize = config.equalize
        self.register_buffer("mean", torch.zeros(self.stft.freqs))
        self.register_buffer("deviation", torch.ones(self.stft.freqs))

    def forward(self, mixture: Tensor) -> Spectra:
        """Mixture ``(batch, samples)`` to its spectrogram and features."""
        return Spectra(self.stft.analyse(mixture), self)

    def relative(self, magnitude: Tensor, state: LevelState | None = None) -> Tensor:
        """Magnitudes of whole mixtures relative to their level, both ``(batch, frames, freqs)``.

        With the ``state`` of a running level, these are the next frames of a stream. It is updated in place.
        """
        if self._running:
            state = self.initial_state(len(magnitude)) if state is None else state
            return magnitude / running_level(magnitude, state).unsqueeze(-1)
        return magnitude / level(magnitude)[:, None, None]

    def features(self, relative: Tensor) -> Tensor:
        """Features of whole mixtures from relative magnitudes, both ``(batch, frames, freqs)``."""
        features = self._normalized(relative)
        return equalized(features, relative) if self._equalize else features

    def initial_state(self, batch: int) -> LevelState:
        """State of the running level before the first frame, for ``batch`` parallel streams."""
        return LevelState(self.mean.new_zeros(2, batch, dtype=torch.float64))

    def step(self, magnitude: Tensor, state: LevelState) -> Tensor:
        """Features of the next frames ``(batch, frames, freqs)``; ``state`` is updated in place.

        All steps together equal the features of the whole.
        """
        return self.features(self.relative(magnitude, state))

    def fit(self, mixtures: Tensor) -> None:
        """Store mean and deviation of the features of ``mixtures`` ``(batch, samples)``."""
        values = self._compressed(self.relative(self.stft.analyse(mixtures).abs())).flatten(0, 1)
        self.mean.copy_(values.mean(dim=0))
        self.deviation.copy_(values.std(dim=0).clamp_min(1e-3))

    def _compressed(self, relative: Tensor) -> Tensor:
        return relative.clamp_min(_LOG_FLOOR).log() if self._logarithmic else relative

    def _normalized(self, relative: Tensor) -> Tensor:
        return (self._compressed(relative) - self.mean) / self.deviation


def running_level(magnitude: Tensor, state: LevelState) -> Tensor:
    """Level at every frame ``(batch, frames)``, from this frame and those before; ``state`` is updated in place.

    The same formula as :func:`level`, with sums that decay with a half-life of :data:`_HALF_LIFE_FRAMES`. Frame power
    weights itself, so the level is stable in pauses and proportional to the gain.
    """
    # In double precision: a click of 1e9 in a float file must not make the sums infinite forever.
    power = magnitude.square().sum(dim=-1).double()
    sums = torch.stack([power, power.square()])
    sums[..., 0] += FADE * state.sums
    # Sums over 1, 2, 4 ... frames, each from the previous one, without a loop over time.
    reach, fade = 1, FADE
    while reach < sums.shape[-1] and fade > 1e-12:
        faded = nn.functional.pad(fade * sums, (reach, 0))[..., : sums.shape[-1]]
        sums, reach, fade = sums + faded, 2 * reach, fade * fade
    state.sums = sums[..., -1]
    return level_of_sums(sums).to(magnitude.dtype)


def level_of_sums(sums: Tensor) -> Tensor:
    """Level ``(batch, frames)`` of fading sums of frame power and of its square, ``(2, batch, frames)``."""
    return (sums[1] / sums[0].clamp_min(1e-30)).clamp_min(1e-20).sqrt()


def level(magnitude: Tensor) -> Tensor:
    """Level ``(batch,)`` of spectrograms ``(batch, frames, freqs)``: frame power weighted by itself.

    ``sqrt(sum p^2 / sum p)`` over the power p of the frames. It follows the loud frames, is proportional to the gain,
    and does not change when silence is appended.
    """
    # Divided by the peak first, because fourth powers of samples at integer scale would overflow.
    peak = magnitude.amax(dim=(1, 2)).clamp_min(1e-10)
    power = (magnitude / peak[:, None, None]).square().sum(dim=-1)
    weighted = power.square().sum(dim=-1) / power.sum(dim=-1).clamp_min(1e-20)
    return weighted.sqrt().clamp_min(1e-10) * peak


def equalized(features: Tensor, relative: Tensor) -> Tensor:
    """Features ``(batch, frames, freqs)``; frequencies with a mean over loud frames below zero are raised to zero.

    ``relative``, of the same shape, are the magnitudes relative to the mixture's level. Appended silence does not
    change the result, because it is not loud.
    """
    loud = (relative.square().sum(dim=-1, keepdim=True) >= _LOUD**2).to(features.dtype)
    mean = (features * loud).sum(dim=1, keepdim=True) / loud.sum(dim=1, keepdim=True).clamp_min(1.0)
    return features - mean.clamp_max(0.0)


class WeightConfig(Config):
    """Rule for the weights of bins: 1 at or above a threshold, 0 below."""

    rule: Literal["loudest", "near_loudest", "near_level", "log_range", "all"] = "loudest"
    threshold: float | None = None
    """Default: the paper's value (0.9, 40, 0.6). ``loudest``: share of the mixture's bins that is kept (Luo).
    ``near_loudest``: maximum distance from the loudest bin in dB (Isik). ``log_range``: share of the range between
    the least and the largest log magnitude (Mobin's alpha). ``near_level`` (ours, default 40): maximum distance
    from the level in dB; with a running level it needs no look-ahead."""

    @model_validator(mode="after")
    def _possible(self) -> WeightConfig:
        if self.rule in ("loudest", "log_range") and not 0 < self.value <= 1:
            raise ValueError(f"threshold must lie in (0, 1] for {self.rule}, got {self.value}")
        if self.rule.startswith("near") and self.value <= 0:
            raise ValueError(f"threshold must be positive decibels for {self.rule}, got {self.value}")
        if self.rule == "all" and self.threshold is not None:
            raise ValueError("the rule all has no threshold")
        return self

    @property
    def value(self) -> float:
        """The threshold, or the paper's value."""
        if self.threshold is not None:
            return self.threshold
        papers = {"loudest": 0.9, "near_loudest": 40.0, "near_level": 40.0, "log_range": 0.6, "all": 1.0}
        return papers[self.rule]

    @property
    def causal(self) -> bool:
        """Whether, with a running level, the weight of a bin does not depend on later frames."""
        return self.rule in ("near_level", "all")


def bin_weights(config: WeightConfig, magnitude: Tensor, frames: Tensor | None = None) -> Tensor:
    """Weights W ``(batch, frames, freqs)`` of magnitudes of that shape, by the rule of ``config``.

    ``near_level`` needs magnitudes relative to the level; the other rules accept any scale.
    """
    if config.rule == "loudest":
        return loudest_weights(magnitude, config.value, frames)
    inside = torch.ones_like(magnitude)
    if frames is not None:
        inside = inside * within(frames, magnitude.shape[1], magnitude.device).unsqueeze(-1)
    if config.rule == "all":
        return inside
    if config.rule == "near_level":
        return (magnitude >= 10 ** (-config.value / 20)).to(magnitude.dtype) * inside
    if config.rule == "near_loudest":
        return near_loudest_weights(magnitude * inside, config.value) * inside
    return log_range_weights(magnitude, config.value, inside)


def near_loudest_weights(magnitude: Tensor, decibels: float) -> Tensor:
    """Weights that keep the bins at most ``decibels`` below the loudest one (Isik et al. 2016)."""
    peak = magnitude.amax(dim=(1, 2), keepdim=True)
    return (magnitude >= peak * 10 ** (-decibels / 20)).to(magnitude.dtype)


def log_range_weights(magnitude: Tensor, share: float, inside: Tensor) -> Tensor:
    """Weights that keep log magnitudes of at least ``min + share (max - min)`` of the mixture.

    The code of Mobin et al. 2018 does this; their text says a share of the largest bin. The least magnitude is
    limited to the front end's floor. ``inside`` is 0 for padding.
    """
    floor = (_LOG_FLOOR * level(magnitude * inside))[:, None, None]
    values = torch.maximum(magnitude, floor).log()
    low = values.masked_fill(inside == 0, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = values.masked_fill(inside == 0, -torch.inf).amax(dim=(1, 2), keepdim=True)
    return (values >= low + share * (high - low)).to(magnitude.dtype) * inside


def loudest_weights(magnitude: Tensor, share: float, frames: Tensor | None = None) -> Tensor:
    """Weights W that keep the loudest ``share`` of the bins of each mixture (Luo et al. 2018).

    Args:
        magnitude: ``(batch, frames, freqs)``.
        share: in (0, 1]; the papers' "90 %" is 0.9.
        frames: ``(batch,)``, the number of frames that are not padding (default: all).

    Returns:
        ``(batch, frames, freqs)`` of 0 and 1; padding has weight 0.
    """
    weights = torch.zeros_like(magnitude)
    for index, values in enumerate(magnitude):
        valid = values if frames is None else values[: int(frames[index])]
        count = valid.numel()
        quiet = min(count - 1, round((1 - share) * count))
        threshold = valid.flatten().kthvalue(quiet + 1).values
        weights[index, : len(valid)] = (valid >= threshold).to(weights.dtype)
    return weights
