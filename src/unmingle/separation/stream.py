"""Separate live audio: push a block, get one signal per speaker back.

There are two kinds of masks. A system with steps (a causal LSTM, or a dilated CNN with its fixed lag, and running
attractors) runs frame by frame. Other systems run on windows, with a look-ahead that you choose as the lag. Past
output is never revised.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.arrays import as_rate, as_samples
from unmingle.audio import Samples
from unmingle.audio_stream import RateConverter, SampleQueue, StftStream
from unmingle.errors import UnmingleError
from unmingle.separation.adding_up import add_residual
from unmingle.separation.offset import OffsetTracker
from unmingle.separation.stepped_masks import SteppedMasks
from unmingle.separation.window_masks import WindowMasks
from unmingle.speaker_encoder import SpeakerEncoder
from unmingle.systems import MaskingSystem

DEFAULT_LAG = 1.0
"""Default lag of systems that run on windows, in seconds."""
CONTEXT_SECONDS = 10.0
"""Length of the past in their windows, in seconds. A longer past costs more and separates better."""


class MaskStream(Protocol):
    """Source of a stream's masks."""

    lag_frames: int
    """Maximum delay of the masks behind the audio."""

    def push(self, audio: Samples, spectrum: Tensor, *, ended: bool) -> tuple[Tensor, Samples]:
        """Push audio ``(samples,)`` and frames of its spectrum ``(1, frames, freqs)``, at the model's rate.

        Returns:
            Masks ``(speakers, frames, freqs)`` of the frames that are ready, and each speaker's share of their
            residual, ``(speakers, frames)``. With ``ended`` all remaining frames are ready.
        """


class SeparationStream:
    """Separates one stream; see :mod:`unmingle.separation.stream`.

    Args:
        system: gives the masks.
        sample_rate: of the audio, in hertz.
        speakers: number of output signals.
        lag: maximum delay of the output in seconds. None for the system's own if it runs frame by frame, else 1.
        context: for systems that run on windows: length of the past in each window, in seconds.
        encoder: for systems that run on windows: recognizes voices; None to rely on the system alone.

    Raises:
        UnmingleError: the rate is not valid, or the lag is too short for the model.
    """

    channels = 1

    def __init__(
        self,
        system: MaskingSystem,
        sample_rate: int,
        speakers: int,
        lag: float | None = None,
        context: float = CONTEXT_SECONDS,
        encoder: SpeakerEncoder | None = None,
    ) -> None:
        sample_rate = as_rate(sample_rate)
        self.sample_rate, self.speakers, self.outputs = sample_rate, speakers, speakers
        self._stft, self._hop = system.frontend.stft, system.hop
        self._converter = None
        if sample_rate != system.sample_rate:
            self._converter = RateConverter(sample_rate, system.sample_rate, self._hop, 1, speakers)
        converting = 0.0 if self._converter is None else self._converter.lag_seconds
        fixed = converting + self._stft.window_length / system.sample_rate
        self._masks = _mask_stream(system, speakers, fixed, lag, context, encoder)
        self.lag_seconds = fixed + self._masks.lag_frames * self._hop / system.sample_rate
        self._offset = OffsetTracker(system.sample_rate)
        self._offsets = SampleQueue(1)
        self._analysis = StftStream(self._stft, 1)
        self._spectrum = torch.zeros(1, 0, self._stft.freqs, dtype=torch.complex64)
        self._mixture = SampleQueue(1)
        self._gains = np.zeros((speakers, 0), dtype=np.float32)
        """Gains of the frames from ``_first_gain`` on. Earlier ones are not needed any more."""
        self._first_gain = 0
        self._samples = self._pushed = self._given = 0
        self._ended = False

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Push audio ``(samples,)`` or ``(1, samples)``; returns the output that is ready, ``(speakers, samples)``.

        Raises:
            UnmingleError: the shape or type is wrong, a sample is not finite or beyond 1e10, or the stream has ended.
        """
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        samples = as_samples(block)
        if samples.ndim == 2 and len(samples) == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise UnmingleError(f"A block must be (samples,); got {samples.shape}.")
        self._pushed += len(samples)
        return self._answer(self._run(samples, ended=False))

    def flush(self) -> Samples:
        """End the input; returns the remaining output, ``(speakers, samples)``.

        The total output is then as long as the input.

        Raises:
            UnmingleError: the stream has ended.
        """
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        self._ended = True
        left = self._run(np.zeros(0, dtype=np.float32), ended=True)
        missing = self._pushed - self._given
        return self._answer(np.pad(left[:, :missing], ((0, 0), (0, max(0, missing - left.shape[1])))))

    def _answer(self, audio: Samples) -> Samples:
        self._given += audio.shape[1]
        return audio

    def _run(self, audio: Samples, *, ended: bool) -> Samples:
        if self._converter is None:
            return self._separate(audio, ended=ended)[0]
        lowered = self._converter.to_model(audio[None], ended=ended)[0]
        made, gains = self._separate(lowered, ended=ended)
        return self._converter.from_model(made, gains, ended=ended)

    @torch.no_grad()
    def _separate(self, audio: Samples, *, ended: bool) -> tuple[Samples, Samples]:
        """At the model's rate: the estimates that are ready, and the gains of new frames."""
        if self._samples + len(audio) == 0:
            none = np.zeros((self.speakers, 0), dtype=np.float32)
            return none, none
        self._samples += len(audio)
        offset = self._offset.push(audio)
        audio = audio - offset
        self._offsets.add(offset[None])
        missing = self._stft.missing(self._samples) if ended else 0
        audio = np.pad(audio, (0, missing))
        self._mixture.add(audio[None])
        spectrum = self._analysis.analyse(torch.from_numpy(audio)[None], ended=ended)
        masks, gains = self._masks.push(audio, spectrum, ended=ended)
        self._remember(gains)
        waiting = torch.cat([self._spectrum, spectrum], dim=1)
        ready, self._spectrum = waiting[:, : masks.shape[1]], waiting[:, masks.shape[1] :]
        estimates = self._analysis.synthesise(masks * ready, ended=ended).numpy()
        estimates = estimates[:, : estimates.shape[1] - missing]
        first = self._mixture.taken / self._hop - self._first_gain
        mixture = self._mixture.take(estimates.shape[1])[0]
        added = add_residual(mixture, estimates, self._gains, first, 1 / self._hop)
        return added + self._offsets.take(added.shape[1]) / np.float32(self.speakers), gains

    def _remember(self, gains: Samples) -> None:
        """Store the gains of new frames, and drop those of frames whose samples are all output."""
        past = max(0, self._mixture.taken // self._hop - self._first_gain)
        self._gains = np.concatenate([self._gains[:, past:], gains], axis=1)
        self._first_gain += past


def _mask_stream(
    system: MaskingSystem,
    speakers: int,
    fixed: float,
    lag: float | None,
    context: float,
    encoder: SpeakerEncoder | None,
) -> MaskStream:
    """The source of the masks. ``fixed`` is the delay in seconds of the window and the resamplers."""
    frame = system.hop / system.sample_rate
    steps = system.steps(speakers)
    if steps is not None:
        own = fixed + steps.lag_frames * frame
        if lag is not None and not own - 1e-6 <= lag <= 60.0:
            raise UnmingleError(f"The lag must lie between {own:.3f} and 60 seconds; got {lag:g}.")
        return SteppedMasks(steps, system)
    lag = DEFAULT_LAG if lag is None else lag
    frames = int((lag - fixed) / frame + 1e-6) if 0.0 < lag <= 60.0 else 0
    if frames < 2:
        raise UnmingleError(f"The lag must lie between {fixed + 2 * frame:.2f} and 60 seconds; got {lag:g}.")
    return WindowMasks(system, speakers, frames, round(context / frame), encoder)
