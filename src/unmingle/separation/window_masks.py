"""Masks for a stream, from a model that needs whole windows.

At every step, the network runs on a window of the last seconds. The output is the masks of those new frames that have
enough frames after them. Speakers are joined from window to window by the masks of common frames and by a memory of
every speaker's attractor. Past output is never revised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.device import fast_inference
from unmingle.separation.adding_up import residual_gains
from unmingle.separation.order import order_of_speaking
from unmingle.separation.stream_voices import StreamVoices
from unmingle.separation.tracking import SpeakerMemory, WindowSources, overlap_agreement
from unmingle.separation.voice_clusters import most_speakers
from unmingle.speaker_encoder import SpeakerEncoder
from unmingle.systems import MaskingSystem

_FADE_FRAMES = 4
"""Length of the cross-fade between the masks of two steps."""


class WindowMasks:
    """Masks and gains of one stream.

    Args:
        system: gives the masks of whole windows.
        speakers: number of speakers.
        lag_frames: maximum delay of the masks behind the audio, at least 2.
        context_frames: number of past frames in each window.
        encoder: recognizes voices; None to rely on the system alone.
    """

    def __init__(
        self,
        system: MaskingSystem,
        speakers: int,
        lag_frames: int,
        context_frames: int,
        encoder: SpeakerEncoder | None = None,
    ) -> None:
        self.lag_frames = lag_frames
        self._system, self._speakers = system, speakers
        self._stft, self._hop = system.frontend.stft, system.hop
        self._step = lag_frames // 2
        """Number of frames between two runs of the network."""
        self._ahead = lag_frames - self._step
        """Minimum number of later frames in the window from which a frame's mask is taken."""
        self._context = lag_frames + context_frames
        self._memory = SpeakerMemory(speakers)
        self._voices = None
        if encoder is not None and 2 <= speakers <= most_speakers(speakers):
            self._voices = StreamVoices(encoder, system.sample_rate, speakers)
        self._audio = np.zeros(0, dtype=np.float32)
        """Audio of the next windows, from frame ``_first`` on."""
        self._first = self._samples = 0
        self._done = 0
        """Number of frames whose masks are output."""
        self._before: tuple[int, Tensor] | None = None

    def push(self, audio: Samples, spectrum: Tensor, *, ended: bool) -> tuple[Tensor, Samples]:
        """Push audio ``(samples,)``. The ``spectrum`` is not used, because windows compute their own.

        Returns:
            Masks ``(speakers, frames, freqs)`` of the frames that are ready, and each speaker's share of their
            residual, ``(speakers, frames)``. With ``ended`` all remaining frames are ready.
        """
        self._audio = np.concatenate([self._audio, audio])
        self._samples += len(audio)
        masks = [torch.zeros(self._speakers, 0, self._stft.freqs)]
        gains = [np.zeros((self._speakers, 0), dtype=np.float32)]

        def take(last: int, until: int) -> None:
            made, shares = self._take_step(last, until)
            masks.append(made)
            gains.append(shares)

        # Steps depend only on the number of samples so far, not on the block size.
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
        with fast_inference(mixture.device):
            spectra, masks, attractors = self._system.mask_and_attractors(mixture, self._speakers)
        frames = min(last, first + masks.shape[2]) - first
        masks, magnitude = masks[0, :, :frames].float(), spectra.magnitude[0, :frames] * float(peak)
        masks = masks[np.argsort(self._speakers_of(first, masks, magnitude, attractors))]
        faded = self._faded(first, masks)
        if self._voices is not None:
            faded = self._by_voice(
                self._voices, faded, spectra.spectrum[0, :frames], first, until, float(peak)
            )
        power = (faded * magnitude).square()[..., self._stft.freqs // 2 :].sum(dim=2).numpy()
        gains = residual_gains(power, self._hop / self._system.sample_rate)
        new = slice(self._done - first, until - first)
        self._before, self._done = (first, masks), until
        return faded[:, new], gains[:, new]

    def _by_voice(
        self, voices: StreamVoices, masks: Tensor, spectrum: Tensor, first: int, until: int, peak: float
    ) -> Tensor:
        """The masks of a window from frame ``first`` on, given to the speakers by their voices."""
        frames = masks.shape[1]
        # Up to the centre of the last frame; see `Stft.missing`.
        estimates = self._stft.synthesise(masks * spectrum, (frames - 1) * self._hop).numpy()
        voices.listen(np.pad(estimates, ((0, 0), (0, self._hop))), first * self._hop, peak)
        # One cross-fade further, because it must not depend on what is decided later.
        voices.decide((until + _FADE_FRAMES) * self._hop)
        share = torch.from_numpy(voices.shares(first * self._hop, frames, self._hop))
        return (share[..., None] * masks[:, None]).sum(dim=0)

    def _speakers_of(
        self, first: int, masks: Tensor, magnitude: Tensor, attractors: Tensor | None
    ) -> NDArray[np.intp]:
        """The speaker of each source of a window from frame ``first`` on. This updates the memory."""
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
        """The masks, with a cross-fade from those of the previous step at the first new frames."""
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
