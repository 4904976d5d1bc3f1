"""Separate live audio with a fixed lag: push a block, get one signal per speaker back.

The network sees whole windows, so it looks ahead: every step it runs on the last seconds, and the frames that lie
far enough back come out. Speakers are joined from step to step as windows of a recording are, but causally: by the
masks of the frames that both windows have, and by a memory of every speaker's attractor. What came out is never
revised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import LOWEST_SAMPLE_RATE, Samples, split_offset
from unmingle.audio_stream import OtherRate, SampleQueue, StftStream
from unmingle.errors import UnmingleError
from unmingle.separation.adding_up import add_residual, residual_gains
from unmingle.separation.order import order_of_speaking
from unmingle.separation.tracking import SpeakerMemory, WindowSources, overlap_agreement
from unmingle.systems import MaskingSystem

CONTEXT_SECONDS = 4.0
"""What the network hears of the past at each step; more costs more, and knows the speakers better."""
_FADE_FRAMES = 4
"""Over which the masks of one step turn into those of the next."""


class SeparationStream:
    """Separates one recording as it comes; see :mod:`unmingle.separation.stream`.

    Args:
        system: gives the masks; it hears whole windows.
        sample_rate: of the audio, in hertz.
        speakers: how many signals come out.
        lag: in seconds: what comes out is never further behind what went in.
        context: in seconds, what the network hears of the past at each step.

    Raises:
        UnmingleError: an impossible rate, or a lag that is too short for the model.
    """

    channels = 1

    def __init__(
        self,
        system: MaskingSystem,
        sample_rate: int,
        speakers: int,
        lag: float = 1.0,
        context: float = CONTEXT_SECONDS,
    ) -> None:
        if sample_rate < LOWEST_SAMPLE_RATE:
            raise UnmingleError(
                f"The sample rate is {sample_rate} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
            )
        self.sample_rate, self.speakers, self.outputs = sample_rate, speakers, speakers
        self._system = system
        self._stft, self._hop = system.frontend.stft, system.hop
        self._other_rate = None
        if sample_rate != system.sample_rate:
            self._other_rate = OtherRate(sample_rate, system.sample_rate, self._hop, 1, speakers)
        converting = 0.0 if self._other_rate is None else self._other_rate.lag_seconds
        window = self._stft.window_length / system.sample_rate
        frames = 0
        if 0.0 < lag <= 60.0:
            frames = int((lag - converting - window) * system.sample_rate / self._hop + 1e-6)
        if frames < 2:
            least = converting + window + 2 * self._hop / system.sample_rate
            raise UnmingleError(f"The lag must lie between {least:.2f} and 60 seconds; got {lag:g}.")
        self._step = frames // 2
        """Frames from one run of the network to the next."""
        self._ahead = frames - self._step
        """Frames that a frame has after it, at least, when its mask is taken."""
        self.lag_seconds = converting + window + frames * self._hop / system.sample_rate
        self._context = self._ahead + self._step + round(context * system.sample_rate / self._hop)
        self._memory = SpeakerMemory(speakers)
        self._audio = np.zeros(0, dtype=np.float32)
        """What the network may still hear, from the sample of frame ``_first`` on."""
        self._first = 0
        self._done = 0
        """Frames whose masks came out."""
        self._before: tuple[int, Tensor] | None = None
        self._analysis = StftStream(self._stft, 1)
        self._spectrum = torch.zeros(1, 0, self._stft.freqs, dtype=torch.complex64)
        self._mixture = SampleQueue(1)
        self._gains = np.zeros((speakers, 0), dtype=np.float32)
        """Of the frames from ``_first_gain`` on: those before are not needed any more."""
        self._first_gain = 0
        self._samples = self._pushed = self._given = 0
        self._ended = False

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Some more audio ``(samples,)`` or ``(1, samples)``: what is ready, ``(speakers, samples)``.

        Raises:
            UnmingleError: another shape, samples that are not finite, or a stream that has ended.
        """
        audio = np.asarray(block)
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        if audio.ndim == 2 and len(audio) == 1:
            audio = audio[0]
        if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
            raise UnmingleError(
                f"A block must be floating point (samples,); got {audio.dtype} {audio.shape}."
            )
        samples = np.ascontiguousarray(audio, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise UnmingleError("A block holds samples that are NaN or infinite; the stream stays as it was.")
        self._pushed += len(samples)
        return self._answer(self._run(samples, ended=False))

    def flush(self) -> Samples:
        """The end: all that is left. As many samples have then come out as went in."""
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
        if self._other_rate is None:
            return self._separate(audio, ended=ended)
        lowered = self._other_rate.take(audio[None], ended=ended)[0]
        known = self._done
        made = self._separate(lowered, ended=ended)
        return self._other_rate.give(made, self._gains[:, known - self._first_gain :], ended=ended)

    def _forget_gains(self) -> None:
        """Drop the gains of frames whose samples all came out."""
        past = max(0, self._mixture.taken // self._hop - self._first_gain)
        self._gains, self._first_gain = self._gains[:, past:], self._first_gain + past

    @torch.no_grad()
    def _separate(self, audio: Samples, *, ended: bool) -> Samples:
        """At the model's rate: the estimates that are ready."""
        if self._samples + len(audio) == 0:
            return np.zeros((self.speakers, 0), dtype=np.float32)
        self._forget_gains()
        self._audio = np.concatenate([self._audio, audio])
        self._samples += len(audio)
        self._mixture.add(audio[None])
        spectrum = self._analysis.analyse(torch.from_numpy(np.ascontiguousarray(audio))[None], ended=ended)
        self._spectrum = torch.cat([self._spectrum, spectrum], dim=1)
        pieces = []
        # A step is taken as soon as the samples of its frames are there, whatever the blocks.
        while self._samples >= (self._done + self._step + self._ahead) * self._hop:
            last = self._done + self._step + self._ahead
            pieces.append(self._take_step(last, self._done + self._step))
        if ended:
            frames = self._stft.frames(self._samples)
            if frames > self._done:
                pieces.append(self._take_step(frames, frames))
        masks = torch.cat(pieces, dim=1) if pieces else torch.zeros(self.speakers, 0, self._stft.freqs)
        ready, self._spectrum = self._spectrum[:, : masks.shape[1]], self._spectrum[:, masks.shape[1] :]
        estimates = self._analysis.synthesise(masks * ready, ended=ended).numpy()
        start = self._mixture.taken
        mixture = self._mixture.take(estimates.shape[1])[0]
        first = start / self._hop - self._first_gain
        return add_residual(mixture, estimates, self._gains, first, 1 / self._hop)

    def _take_step(self, last: int, until: int) -> Tensor:
        """Run the network on the window that ends before frame ``last``: masks of the frames up to ``until``."""
        first = max(0, last - self._context)
        if first > self._first:
            self._audio = self._audio[(first - self._first) * self._hop :]
            self._first = first
        samples = split_offset(self._audio[: (last - self._first) * self._hop])[0]
        peak = np.float32(max(float(np.abs(samples).max(initial=0.0)), 1e-20))
        mixture = torch.from_numpy(samples / peak)[None]
        spectra, masks, attractors = self._system.mask_and_attractors(mixture, self.speakers)
        frames = min(last, first + masks.shape[2]) - first
        masks, magnitude = masks[0, :, :frames].float(), spectra.magnitude[0, :frames] * float(peak)
        masks = masks[np.argsort(self._speakers_of(first, masks, magnitude, attractors))]
        power = (masks * magnitude).square()[..., self._stft.freqs // 2 :].sum(dim=2).numpy()
        gains = residual_gains(power, self._hop / self._system.sample_rate)
        new = slice(self._done - first, until - first)
        self._gains = np.concatenate([self._gains, gains[:, new]], axis=1)
        faded = self._faded(first, masks)
        self._before, self._done = (first, masks), until
        return faded[:, new]

    def _speakers_of(
        self, first: int, masks: Tensor, magnitude: Tensor, attractors: Tensor | None
    ) -> NDArray[np.intp]:
        """The speaker of each source of a window that begins at frame ``first``; the memory learns from it."""
        power = (masks * magnitude).square().sum(dim=2).numpy()
        agreement = None
        if self._before is not None:
            before_first, before = self._before
            shared = min(before_first + before.shape[1] - first, masks.shape[1])
            earlier = before[:, first - before_first : first - before_first + shared]
            agreement = overlap_agreement(earlier, masks[:, :shared], magnitude[:shared])
        points = None if attractors is None else attractors[0].float().numpy()
        window = WindowSources(power, points, agreement)
        if agreement is None:
            # Speaker 1 speaks first.
            order = order_of_speaking(power, self._hop / self._system.sample_rate)
            return self._memory.begin(window, np.argsort(order))
        return self._memory.assign(window)

    def _faded(self, first: int, masks: Tensor) -> Tensor:
        """The masks, which begin as those of the step before at the first frames that come out."""
        if self._before is None:
            return masks
        before_first, before = self._before
        start = self._done - before_first
        count = max(0, min(_FADE_FRAMES, before.shape[1] - start, masks.shape[1] - (self._done - first)))
        share = ((torch.arange(count) + 1) / (count + 1))[:, None]
        faded = masks.clone()
        place = slice(self._done - first, self._done - first + count)
        faded[:, place] = share * masks[:, place] + (1 - share) * before[:, start : start + count]
        return faded
