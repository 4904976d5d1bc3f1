"""Shared parts of streams: the protocol, a streaming STFT, queues, and resampling to a model's rate and back."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unmingle.audio import Samples
from unmingle.stft import Stft


class Stream(Protocol):
    """Interface of all streams. Audio is ``(samples,)`` or ``(channels, samples)``, with fixed channels."""

    sample_rate: int
    """Of input and output, in hertz."""
    channels: int
    """Number of input signals."""
    outputs: int
    """Number of output signals: one per channel for denoising, one per speaker for separation."""
    lag_seconds: float
    """Maximum delay of the output behind the input."""

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Push input; returns the output that is ready, possibly nothing."""

    def flush(self) -> Samples:
        """End the input; returns the remaining output. The total output is then as long as the input."""


class Frames:
    """A queue of frames ``(1, frames, freqs)``. Blocks are joined only when they are needed.

    Args:
        blank: a block of 0 frames with the shape and type of the others.
    """

    def __init__(self, blank: Tensor) -> None:
        self._blocks = [blank]
        self.count = 0
        """Number of frames in the queue."""

    def add(self, block: Tensor) -> None:
        """Append frames."""
        self._blocks.append(block)
        self.count += block.shape[1]

    def take(self, frames: int) -> Tensor:
        """Remove and return the first ``frames``."""
        joined = torch.cat(self._blocks, dim=1)
        self._blocks = [joined[:, frames:].clone()]
        self.count = self._blocks[0].shape[1]
        return joined[:, :frames]

    def last(self, frames: int) -> Tensor:
        """The last ``frames``, or fewer if there are fewer."""
        return torch.cat(self._blocks, dim=1)[:, max(0, self.count - frames) :]


class StftStream:
    """A streaming :class:`Stft` for ``channels`` parallel signals.

    A frame is ready when its window is full; a sample is ready when no later frame overlaps it. The blocks together
    equal :meth:`Stft.analyse` and :meth:`Stft.synthesise` of the whole signal.
    """

    def __init__(self, stft: Stft, channels: int) -> None:
        self._stft = stft
        window = stft.window
        self._squares = window.square()
        # Frame 0 is centred on the first sample, so half a window of silence precedes it.
        self._waiting = window.new_zeros(channels, stft.window_length // 2)
        self._sum = window.new_zeros(channels, 0)
        self._envelope = window.new_zeros(1, 0)
        self._received, self._framed, self._given = 0, 0, -(stft.window_length // 2)

    def analyse(self, audio: Tensor, *, ended: bool = False) -> Tensor:
        """Push samples ``(channels, samples)``; returns the frames that are ready, ``(channels, frames, freqs)``.

        With ``ended`` it returns all remaining frames.
        """
        window, hop = self._stft.window_length, self._stft.hop
        self._received += audio.shape[-1]
        waiting = torch.cat([self._waiting, audio], dim=-1)
        if ended:
            left = self._stft.frames(self._received) - self._framed
            waiting = nn.functional.pad(waiting, (0, max(0, (left - 1) * hop + window - waiting.shape[-1])))
            waiting = waiting[:, : (left - 1) * hop + window] if left else waiting[:, :0]
        frames = max(0, (waiting.shape[-1] - window) // hop + 1)
        self._framed += frames
        self._waiting = waiting[:, frames * hop :]
        if not frames:
            return torch.zeros(len(waiting), 0, self._stft.freqs, dtype=torch.complex64, device=audio.device)
        spectrum: Tensor = torch.fft.rfft(waiting.unfold(-1, window, hop) * self._stft.window)
        return spectrum

    def synthesise(self, spectrum: Tensor, *, ended: bool = False) -> Tensor:
        """Push frames ``(channels, frames, freqs)``; returns the samples that are ready, ``(channels, samples)``.

        With ``ended`` it returns all remaining samples.
        """
        window, hop = self._stft.window_length, self._stft.hop
        count = spectrum.shape[1]
        if count:
            pieces = torch.fft.irfft(spectrum, window) * self._stft.window
            squares = self._squares.expand(1, count, window)
            self._sum = _added(self._sum, pieces, hop)
            self._envelope = _added(self._envelope, squares, hop)
        ready = self._sum.shape[-1] if ended else count * hop
        audio = self._sum[:, :ready] / self._envelope[:, :ready].clamp_min(1e-11)
        self._sum, self._envelope = self._sum[:, ready:], self._envelope[:, ready:]
        start = max(0, -self._given)
        self._given += ready
        if ended:
            audio = audio[:, : audio.shape[-1] - max(0, self._given - self._received)]
        return audio[:, start:]


def _added(before: Tensor, pieces: Tensor, hop: int) -> Tensor:
    """Overlap-add windows ``(channels, frames, window)`` with ``hop`` onto the sum of earlier ones."""
    channels, count, window = pieces.shape
    size = (count - 1) * hop + window
    if count == 1:
        alone = pieces[:, 0].clone()
        alone[:, : before.shape[-1]] += before
        return alone
    summed = nn.functional.fold(pieces.transpose(1, 2), (1, size), (1, window), stride=(1, hop))
    summed = summed.reshape(channels, size)
    summed[:, : before.shape[-1]] += before
    return summed


class RateConverter:
    """Converts audio to the model's rate and back, and restores frequencies above the model's band.

    Let g be the gain of the upper half of the band over time, x the input, h the input at the model's rate and y the
    model's output. The result is ``g x`` plus the resampled ``y - g h``: y inside the band, and g x above it.

    Args:
        sample_rate: of the audio, in hertz.
        model_rate: of the model, in hertz.
        hop: samples at the model's rate between two gains.
        channels: number of input signals.
        outputs: number of output signals: the same number, or any number if there is one input signal.
    """

    def __init__(
        self, sample_rate: int, model_rate: int, hop: int, channels: int, outputs: int | None = None
    ) -> None:
        outputs = outputs or channels
        self._rate, self._model_rate, self._hop = sample_rate, model_rate, hop
        self._down = Resampler(sample_rate, model_rate, channels)
        self._up = Resampler(model_rate, sample_rate, outputs)
        self._input = SampleQueue(channels)
        self._lowered = SampleQueue(channels)
        self._gains = np.zeros((1, 0), dtype=np.float32)
        self._first_gain = 0
        self.lag_seconds = _resampler_lag(sample_rate, model_rate) + _resampler_lag(model_rate, sample_rate)

    def to_model(self, audio: Samples, *, ended: bool) -> Samples:
        """Push input ``(channels, samples)``; returns the samples that are ready at the model's rate."""
        self._input.add(audio)
        lowered = self._down.resample(audio, ended=ended)
        self._lowered.add(lowered)
        return lowered

    def from_model(self, made: Samples, gains: Samples, *, ended: bool) -> Samples:
        """Push output of the model; returns ``(outputs, samples)`` at the input's rate.

        Args:
            made: the model's next output samples, ``(outputs, samples)``.
            gains: of its new frames, ``(outputs, frames)``, or ``(1, frames)`` for all outputs.
            ended: whether this is the end.
        """
        self._gains = np.concatenate(
            [np.broadcast_to(self._gains, (len(gains), self._gains.shape[1])), gains], 1
        )
        start = self._lowered.taken
        lowered = self._lowered.take(made.shape[1])
        gain = self._gain_at(np.arange(start, start + lowered.shape[1], dtype=np.float64))
        difference = self._up.resample(made - gain * lowered, ended=ended)
        if ended:
            # Resampling to the model's rate and back may lose a sample at the end.
            missing = max(0, self._input.waiting - difference.shape[1])
            difference = np.pad(difference, ((0, 0), (0, missing)))
        start = self._input.taken
        sound = self._input.take(difference.shape[1])
        times = np.arange(start, start + sound.shape[1]) * (self._model_rate / self._rate)
        mixed: Samples = difference[:, : sound.shape[1]] + self._gain_at(times) * sound
        self._forget(min(self._lowered.taken, int(self._input.taken * self._model_rate / self._rate)))
        return mixed

    def _gain_at(self, times: NDArray[np.float64]) -> Samples:
        """Gains at times in samples at the model's rate, by linear interpolation between the frames' centres."""
        return gains_at(self._gains, times / self._hop - self._first_gain)

    def _forget(self, time: int) -> None:
        """Drop the gains of frames before ``time``, except the last one."""
        count = self._gains.shape[1]
        past = min(max(0, time // self._hop - self._first_gain), max(0, count - 1))
        self._gains = self._gains[:, past:]
        self._first_gain += past


def gains_at(gains: Samples, frames: NDArray[np.float64]) -> Samples:
    """Gains ``(outputs, times)``, linearly interpolated from those of frames ``(outputs, frames)``; 0 without frames.

    ``frames`` are times in frames: 1.5 is the middle between the second and the third frame.
    """
    if not gains.shape[1]:
        return np.zeros((len(gains), len(frames)), dtype=np.float32)
    places = np.arange(gains.shape[1])
    return np.stack([np.interp(frames, places, row).astype(np.float32) for row in gains])


class Resampler:
    """Resamples audio ``(channels, samples)`` block by block. At equal rates it returns the audio unchanged."""

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")

    def resample(self, audio: Samples, *, ended: bool) -> Samples:
        """Push audio; returns the samples that are ready at the other rate."""
        if self._stream is None:
            return audio
        answer = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=ended)
        return np.ascontiguousarray(answer.T.reshape(audio.shape[0], -1), dtype=np.float32)


class SampleQueue:
    """A queue of samples ``(channels, samples)``."""

    def __init__(self, channels: int) -> None:
        self._samples = np.zeros((channels, 0), dtype=np.float32)
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Number of samples in the queue."""
        return self._samples.shape[1]

    def add(self, samples: Samples) -> None:
        """Append samples."""
        self._samples = np.concatenate([self._samples, samples], axis=1)

    def take(self, count: int) -> Samples:
        """Remove and return the first ``count`` samples, or fewer if there are fewer."""
        head, self._samples = self._samples[:, :count], self._samples[:, count:]
        self.taken += head.shape[1]
        return head


@cache
def _resampler_lag(from_rate: int, to_rate: int) -> float:
    """Maximum delay of a resampler in seconds, with blocks of 10 ms."""
    resampler = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    block = np.zeros((max(1, from_rate // 100), 1), dtype=np.float32)
    pushed = given = lag = 0.0
    for _ in range(100):
        pushed += len(block) / from_rate
        lag = max(lag, pushed - given)
        given += len(resampler.resample_chunk(block)) / to_rate
    return lag
