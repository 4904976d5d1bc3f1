"""Streams: push a block of audio, get a block back."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import LOWEST_SAMPLE_RATE, Samples
from unmingle.errors import UnmingleError
from unmingle.separation.expert_choice import ExpertMasks, Frames
from unmingle.stft import StftStream
from unmingle.systems import DenoisingSystem
from unmingle.systems.denoiser import prelude


class Stream(Protocol):
    """What all streams do. Audio is ``(samples,)`` or ``(channels, samples)``, as many channels each time."""

    sample_rate: int
    """Of what goes in and comes out, in hertz."""
    channels: int
    """How many signals go in side by side."""
    lag_seconds: float
    """What has come out is never further behind what went in."""

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Some more audio; what is ready comes back, maybe nothing."""

    def flush(self) -> Samples:
        """The end: what is still owed. As many samples have then come out as went in."""


class DenoisingStream:
    """Cleans one recording of noise, block by block, at any sample rate.

    One mask, from the root mean square of the channels' magnitudes, serves all channels, so that what
    was in the middle stays there. Above the model's band (8 kHz for a 16 kHz model) the input is turned down,
    frame by frame, as the upper half of the band was. The result does not depend on how the audio
    is cut into blocks.

    Args:
        system: the denoiser.
        sample_rate: of the audio, in hertz.
        channels: signals side by side.
        expert: the specialist that runs all the time; the gate chooses if not given.
        look_ahead_seconds: for how long the gate may hear what comes before it chooses, and how much of the system's
            prelude may be heard; 0 for live use.

    Raises:
        UnmingleError: an impossible rate, look-ahead or number of channels, or no such specialist.
    """

    def __init__(
        self,
        system: DenoisingSystem,
        sample_rate: int,
        channels: int = 1,
        *,
        expert: int | None = None,
        look_ahead_seconds: float = 0.0,
    ) -> None:
        if sample_rate < LOWEST_SAMPLE_RATE:
            raise UnmingleError(
                f"The sample rate is {sample_rate} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
            )
        if channels < 1:
            raise UnmingleError(f"A stream needs at least one channel; got {channels}.")
        if not 0.0 <= look_ahead_seconds <= 3600.0:
            raise UnmingleError(f"look_ahead_seconds must lie between 0 and 3600; got {look_ahead_seconds}.")
        self.sample_rate, self.channels = sample_rate, channels
        self._system, self._stft = system, system.frontend.stft
        look_ahead = round(look_ahead_seconds * system.sample_rate / system.hop)
        self.masks = ExpertMasks(system, expert, look_ahead)
        self._prelude_frames = min(look_ahead, system.prelude_frames)
        self._magnitude = Frames(system.frontend.mean.new_zeros(1, 0, self._stft.freqs))
        self._frames = StftStream(self._stft, channels)
        self._level = system.frontend.initial_state(1)
        self._spectra = torch.zeros(channels, 0, self._stft.freqs, dtype=torch.complex64)
        self._pushed = self._given = 0
        self._flat = self._ended = False
        waits = max(self.masks.look_ahead, self._prelude_frames) * system.hop + self._stft.window_length
        self.lag_seconds = waits / system.sample_rate
        self._other_rate = None
        if sample_rate != system.sample_rate:
            self._other_rate = _OtherRate(sample_rate, system.sample_rate, system.hop, channels)
            self.lag_seconds += self._other_rate.lag_seconds

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Some more audio ``(samples,)`` or ``(channels, samples)``; what is ready comes back.

        Raises:
            UnmingleError: another number of channels, samples that are not finite, or a stream that has ended.
        """
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        audio = self._checked(block)
        self._pushed += audio.shape[1]
        return self._answer(self._run(audio, ended=False))

    def flush(self) -> Samples:
        """The end: what is still owed. The stream cannot be used any more."""
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        self._ended = True
        ready = self._run(np.zeros((self.channels, 0), dtype=np.float32), ended=True)
        owed = self._pushed - self._given
        return self._answer(np.pad(ready[:, :owed], ((0, 0), (0, max(0, owed - ready.shape[1])))))

    def _run(self, audio: Samples, *, ended: bool) -> Samples:
        if self._other_rate is None:
            return self._denoise(audio, ended=ended)[0]
        heard = self._other_rate.take(audio, ended=ended)
        return self._other_rate.give(*self._denoise(heard, ended=ended), ended=ended)

    @torch.inference_mode()
    def _denoise(self, audio: Samples, *, ended: bool) -> tuple[Samples, Samples]:
        """At the model's rate: samples that are ready, and each new frame's gain in the upper half band."""
        spectrum = self._frames.analyse(torch.from_numpy(audio), ended=ended)
        magnitude = spectrum.abs()
        if self.channels > 1:
            magnitude = magnitude.square().mean(dim=0, keepdim=True).sqrt()
        if self._prelude_frames:
            magnitude = self._after_prelude(magnitude, ended=ended)
        features = magnitude
        if magnitude.shape[1]:
            features = self._system.frontend.step(magnitude, self._level)
        masks = self.masks.push(features, magnitude, ended=ended)
        self._spectra = torch.cat([self._spectra, spectrum], dim=1)
        ready, self._spectra = self._spectra[:, : masks.shape[1]], self._spectra[:, masks.shape[1] :]
        masked = ready * masks
        gains = np.zeros(0, dtype=np.float32)
        if self._other_rate is not None:
            upper = slice(self._stft.freqs // 2, None)
            kept, all_ = (part[..., upper].abs().square().sum(dim=(0, 2)) for part in (masked, ready))
            gains = (kept / all_.clamp_min(1e-20)).sqrt().numpy()
        return self._frames.synthesise(masked, ended=ended).numpy(), gains

    def _after_prelude(self, magnitude: Tensor, *, ended: bool) -> Tensor:
        """Nothing until the frames of the prelude are there; then all that came, the prelude having been heard."""
        self._magnitude.add(magnitude)
        if not self._magnitude.count or (self._magnitude.count < self._prelude_frames and not ended):
            return magnitude[:, :0]
        waited = self._magnitude.take(self._magnitude.count)
        first = prelude(waited, self._prelude_frames)
        self.masks.begin(self._system.frontend.step(first, self._level))
        self._prelude_frames = 0
        return waited

    def _checked(self, block: NDArray[np.generic]) -> Samples:
        audio = np.asarray(block)
        self._flat = audio.ndim == 1
        audio = audio[None] if self._flat else audio
        if audio.ndim != 2 or len(audio) != self.channels:
            raise UnmingleError(
                f"The stream has {self.channels} channels; a block must be (channels, samples), got {block.shape}."
            )
        if not np.issubdtype(audio.dtype, np.floating):
            raise UnmingleError(f"A block must be floating point in [-1, 1]; got {audio.dtype}.")
        samples = np.ascontiguousarray(audio, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise UnmingleError("A block holds samples that are NaN or infinite; the stream stays as it was.")
        return samples

    def _answer(self, audio: Samples) -> Samples:
        self._given += audio.shape[1]
        return audio[0] if self._flat else audio


class _OtherRate:
    """Takes audio to the model's rate and back, and brings back what lies above the model's band.

    With g the gain of the upper half band over time, x the input, h what the model heard of it and y what the model
    made of that, the output is ``g x`` plus ``y - g h`` resampled: inside the band that is y, above it g x.
    """

    def __init__(self, sample_rate: int, model_rate: int, hop: int, channels: int) -> None:
        self._rate, self._model_rate, self._hop = sample_rate, model_rate, hop
        self._down = soxr.ResampleStream(sample_rate, model_rate, channels, dtype="float32", quality="HQ")
        self._up = soxr.ResampleStream(model_rate, sample_rate, channels, dtype="float32", quality="HQ")
        self._input = _Queue(channels)
        self._heard = _Queue(channels)
        self._gains = np.zeros(0, dtype=np.float32)
        self._first_gain = 0
        self.lag_seconds = _resampler_lag(sample_rate, model_rate) + _resampler_lag(model_rate, sample_rate)

    def take(self, audio: Samples, *, ended: bool) -> Samples:
        """What the model hears of some more input."""
        self._input.add(audio)
        heard = _resampled(self._down, audio, ended)
        self._heard.add(heard)
        return heard

    def give(self, denoised: Samples, gains: Samples, *, ended: bool) -> Samples:
        """Output at the input's rate from what the model made, and the gains of its new frames."""
        self._gains = np.concatenate([self._gains, gains])
        start = self._heard.taken
        heard = self._heard.take(denoised.shape[1])
        gain = self._gain_at(np.arange(start, start + heard.shape[1], dtype=np.float64))
        difference = _resampled(self._up, denoised - gain * heard, ended)
        start = self._input.taken
        sound = self._input.take(difference.shape[1])
        times = np.arange(start, start + sound.shape[1]) * (self._model_rate / self._rate)
        mixed: Samples = difference[:, : sound.shape[1]] + self._gain_at(times) * sound
        self._forget(min(self._heard.taken, int(self._input.taken * self._model_rate / self._rate)))
        return mixed

    def _gain_at(self, times: NDArray[np.float64]) -> Samples:
        """Gains at times in samples of the model's rate, on lines between the frames' centres."""
        if not len(self._gains):
            return np.zeros(len(times), dtype=np.float32)
        frames = self._first_gain + np.arange(len(self._gains))
        gains: Samples = np.interp(times / self._hop, frames, self._gains).astype(np.float32)
        return gains

    def _forget(self, time: int) -> None:
        """Drop the gains of frames before ``time``, but for the last."""
        past = min(max(0, time // self._hop - self._first_gain), max(0, len(self._gains) - 1))
        self._gains = self._gains[past:]
        self._first_gain += past


class _Queue:
    """Samples ``(channels, samples)`` that wait until they are taken in order."""

    def __init__(self, channels: int) -> None:
        self._samples = np.zeros((channels, 0), dtype=np.float32)
        self.taken = 0

    def add(self, samples: Samples) -> None:
        self._samples = np.concatenate([self._samples, samples], axis=1)

    def take(self, count: int) -> Samples:
        head, self._samples = self._samples[:, :count], self._samples[:, count:]
        self.taken += head.shape[1]
        return head


def _resampled(resampler: soxr.ResampleStream, audio: Samples, ended: bool) -> Samples:
    answer = resampler.resample_chunk(np.ascontiguousarray(audio.T), last=ended)
    return np.ascontiguousarray(answer.T, dtype=np.float32)


@cache
def _resampler_lag(from_rate: int, to_rate: int) -> float:
    """Seconds of audio that a resampler holds back, at most, when it is fed blocks of 10 ms."""
    resampler = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    block = np.zeros((max(1, from_rate // 100), 1), dtype=np.float32)
    pushed = given = lag = 0.0
    for _ in range(100):
        pushed += len(block) / from_rate
        lag = max(lag, pushed - given)
        given += len(resampler.resample_chunk(block)) / to_rate
    return lag
