"""Masks of a stream from a model that hears whole windows.

Every step the network runs on the last seconds, and the masks of the frames that lie far enough back come out.
Speakers are joined from step to step as windows of a recording are, but causally: by the masks of the frames
that both windows have, and by a memory of every speaker's attractor. What came out is never revised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.separation.adding_up import residual_gains
from unmingle.separation.order import order_of_speaking
from unmingle.separation.tracking import SpeakerMemory, WindowSources, overlap_agreement
from unmingle.systems import MaskingSystem

_FADE_FRAMES = 4
"""Over which the masks of one step turn into those of the next."""


class WindowMasks:
    """Masks and gains of one recording as it comes, by windows that look ahead.

    Args:
        system: gives the masks of whole windows.
        speakers: how many.
        lag_frames: masks are at most so many frames behind the audio; at least 2.
        context_frames: what the network hears of the past at each step.
    """

    def __init__(self, system: MaskingSystem, speakers: int, lag_frames: int, context_frames: int) -> None:
        self.lag_frames = lag_frames
        self._system, self._speakers = system, speakers
        self._stft, self._hop = system.frontend.stft, system.hop
        self._step = lag_frames // 2
        """Frames from one run of the network to the next."""
        self._ahead = lag_frames - self._step
        """Frames that a frame has after it, at least, when its mask is taken."""
        self._context = lag_frames + context_frames
        self._memory = SpeakerMemory(speakers)
        self._audio = np.zeros(0, dtype=np.float32)
        """What the network may still hear, from the sample of frame ``_first`` on."""
        self._first = self._samples = 0
        self._done = 0
        """Frames whose masks came out."""
        self._before: tuple[int, Tensor] | None = None

    def push(self, audio: Samples, spectrum: Tensor, *, ended: bool) -> tuple[Tensor, Samples]:
        """Some more audio ``(samples,)``; its ``spectrum`` is computed anew, for whole windows.

        Returns:
            Masks ``(speakers, frames, freqs)`` of the frames that are known now, and each speaker's share of
            their residual, ``(speakers, frames)``. With ``ended`` all frames that are left come.
        """
        self._audio = np.concatenate([self._audio, audio])
        self._samples += len(audio)
        masks = [torch.zeros(self._speakers, 0, self._stft.freqs)]
        gains = [np.zeros((self._speakers, 0), dtype=np.float32)]

        def take(last: int, until: int) -> None:
            made, shares = self._take_step(last, until)
            masks.append(made)
            gains.append(shares)

        # A step is taken as soon as the samples of its frames are there, whatever the blocks.
        while self._samples >= (self._done + self.lag_frames) * self._hop:
            take(self._done + self.lag_frames, self._done + self._step)
        if ended and (frames := self._stft.frames(self._samples)) > self._done:
            take(frames, frames)
        return torch.cat(masks, dim=1), np.concatenate(gains, axis=1)

    def _take_step(self, last: int, until: int) -> tuple[Tensor, Samples]:
        """Run the network on the window that ends before frame ``last``: masks and gains up to ``until``."""
        first = max(0, last - self._context)
        if first > self._first:
            self._audio = self._audio[(first - self._first) * self._hop :]
            self._first = first
        samples = self._audio[: (last - self._first) * self._hop]
        peak = np.float32(max(float(np.abs(samples).max(initial=0.0)), 1e-20))
        mixture = torch.from_numpy(samples / peak)[None]
        spectra, masks, attractors = self._system.mask_and_attractors(mixture, self._speakers)
        frames = min(last, first + masks.shape[2]) - first
        masks, magnitude = masks[0, :, :frames].float(), spectra.magnitude[0, :frames] * float(peak)
        masks = masks[np.argsort(self._speakers_of(first, masks, magnitude, attractors))]
        power = (masks * magnitude).square()[..., self._stft.freqs // 2 :].sum(dim=2).numpy()
        gains = residual_gains(power, self._hop / self._system.sample_rate)
        new = slice(self._done - first, until - first)
        faded = self._faded(first, masks)
        self._before, self._done = (first, masks), until
        return faded[:, new], gains[:, new]

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
