"""One recording of any length, window by window, in bounded memory.

A recording is a sequence of overlapping windows. The system runs once on each window, and its masks go into a
temporary file, in half precision. After the last window, :mod:`~unmingle.separation.tracking` assigns the sources of
the windows to speakers. Then :mod:`~unmingle.separation.turns` gives pieces of the sources to other speakers, where
voices say so, and :mod:`~unmingle.separation.speaking_alone` gives all sound of a frame to the speaker who is heard
alone. In a second pass over the recording, the masks are cross-faded where windows overlap, and applied. A
recording of one window is separated as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples, split_offset
from unmingle.counting import count_levels, typical_levels, with_and_without_noise
from unmingle.denoising.enhancer import Enhancer
from unmingle.memory import release_freed_memory
from unmingle.separation.adding_up import residual_gains
from unmingle.separation.cleaned_energy import CleanedEnergy, cleaned_energy, removed_noise
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.noise_level import NoiseLevel
from unmingle.separation.order import order_of_speaking
from unmingle.separation.speaking_alone import (
    activity_inputs,
    alone_or_several,
    shares_of_frames,
    speaker_voices,
)
from unmingle.separation.stored_voices import StoredVoices
from unmingle.separation.tracking import WindowSources, assign_speakers, overlap_agreement, padded
from unmingle.separation.turns import Turns, hear, recognize_turns, shares
from unmingle.separation.voice_clusters import most_speakers
from unmingle.separation.window_store import WindowStore
from unmingle.speaker_activity import SpeakerActivity
from unmingle.speaker_encoder import SpeakerEncoder
from unmingle.systems import MaskingSystem

WINDOW_SECONDS = 32.0
"""Usually long enough for all speakers of a conversation. A shorter recording is one window."""
OVERLAP_SECONDS = 6.0
"""Overlap of two windows, in which sources are recognized and masks are cross-faded."""


@dataclass(frozen=True)
class Tracks:
    """Who speaks when in a recording."""

    power: Samples
    """``(speakers, frames)``: energy of each speaker in each frame; speaker 1 speaks first."""
    gains: Samples
    """``(speakers, frames)``: each speaker's share of the residual, see :mod:`~unmingle.separation.adding_up`."""
    count_confidence: float
    """Confidence in the number of speakers, 0 to 1; 1 if it was given."""
    join_confidence: float
    """Share of the recording's energy in which the assignment of sources to speakers is confident."""
    frame_seconds: float
    snr: float
    """Level of all other sound over the steady noise, in dB; see :mod:`~unmingle.separation.noise_level`."""
    further_speaker: float = 0.0
    """Chance that there is one more speaker, as far as voices tell."""

    @property
    def speakers(self) -> int:
        """Number of speakers."""
        return len(self.power)


class WindowedSeparation:
    """Separates one recording at the model's rate, in bounded memory.

    Call :meth:`push` with the blocks of the recording, then :meth:`finish`, then :meth:`masks`. It is a context
    manager, which removes the temporary file at the end.

    Args:
        system: gives the masks.
        speakers: in the recording; None to count. If there are more than the system was trained for, they are told
            apart by voice.
        window_seconds: length of a window.
        overlap_seconds: by which neighbouring windows overlap.
        encoder: recognizes voices; see :mod:`~unmingle.separation.turns`. None to rely on the system alone.
        activity: tells who is heard alone, with the encoder; see :mod:`~unmingle.separation.speaking_alone`. It is
            used for systems with the spectrograms that it knows.
        denoiser: removes noise before speakers are counted; see :mod:`~unmingle.separation.cleaned_energy`.
    """

    def __init__(
        self,
        system: MaskingSystem,
        speakers: int | None,
        window_seconds: float = WINDOW_SECONDS,
        overlap_seconds: float = OVERLAP_SECONDS,
        encoder: SpeakerEncoder | None = None,
        activity: SpeakerActivity | None = None,
        denoiser: Enhancer | None = None,
    ) -> None:
        self._system, self._speakers = system, speakers
        self._fine = FineMasks(system)
        self.stft, self._hop = self._fine.stft, self._fine.hop
        """Of the masks; see :mod:`~unmingle.separation.fine_masks`."""
        frames_per_second = system.sample_rate / self._hop
        self._window_frames = max(2, round(window_seconds * frames_per_second))
        self._advance_frames = self._window_frames - round(overlap_seconds * frames_per_second)
        if self._advance_frames < 1:
            raise ValueError("a window must be longer than the overlap")
        self._device = system.frontend.mean.device
        self._encoder, self._denoiser = encoder, denoiser
        knows = activity is not None and activity.knows(self.stft, system.sample_rate)
        self._activity = activity if knows and encoder is not None else None
        self._store = WindowStore(self.stft.freqs, magnitudes=self._activity is not None)
        self._waiting = np.zeros(0, dtype=np.float32)
        self._first = 0
        self._sources: list[WindowSources] = []
        self._heard = StoredVoices(self._store)
        """What is heard in each window, if there is an encoder."""
        self._cleaned: list[CleanedEnergy] = []
        """For each window, its energies without noise, if these count the speakers."""
        self._before: tuple[Tensor, Tensor] | None = None
        self._noise = NoiseLevel(self.stft.freqs)
        self._trust: list[float] = []
        """Confidence in each window's count, if the system counts before it computes masks."""
        self._labels: list[NDArray[np.intp]] = []
        """For each window, the speaker of each of its sources in each piece; -1 for none."""
        self._alone: list[Samples] = []
        """For each window, the chance of each speaker alone and of several, if that is known."""
        self._count = 0
        """Number of speakers."""

    def __enter__(self) -> WindowedSeparation:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def push(self, audio: Samples) -> None:
        """Push samples ``(samples,)``. Masks are computed as soon as a window is complete.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        self._waiting = np.concatenate([self._waiting, audio])
        window, advance = self._window_frames * self._hop, self._advance_frames * self._hop
        # At least one window remains, so that the last one is as long as the others.
        while len(self._waiting) >= window + advance:
            self._mask(self._waiting[:window])
            self._waiting = self._waiting[advance:]
            self._first += self._advance_frames

    def finish(self) -> Tracks:
        """End the recording: count and join the speakers of all windows."""
        rest = self._waiting if len(self._waiting) else np.zeros(1, dtype=np.float32)
        window = self._window_frames * self._hop
        if len(rest) > window:
            self._mask(rest[:window])
            skipped = -(-(len(rest) - window) // self._hop)
            rest, self._first = rest[skipped * self._hop :], self._first + skipped
        self._mask(rest)
        self._waiting, self._before = np.zeros(0, dtype=np.float32), None
        return self._join()

    @torch.no_grad()
    def _mask(self, audio: Samples) -> None:
        audio = split_offset(audio)[0]
        # Every window is scaled to the same peak, because some steps have absolute constants.
        peak = max(float(np.abs(audio).max()), 1e-20)
        mixture = torch.from_numpy(audio / np.float32(peak)).to(self._device)
        found = self._fine.of(mixture, self._asked(mixture))
        points = None if found.attractors is None else found.attractors.cpu().numpy()
        magnitude, masks = found.spectrum.abs() * peak, found.masks
        estimates = self.stft.synthesise(masks * found.spectrum, len(audio)).cpu().numpy()
        if self._encoder is not None:
            self._heard.append(hear(self._encoder, estimates, self._system.sample_rate, peak))
        if self._denoiser is not None and self._speakers is None and not self._trust:
            scaled = audio / np.float32(peak)
            self._cleaned.append(cleaned_energy(self._fine, self._denoiser, scaled, found, estimates, peak))
        agreement, shared = None, 0
        if self._before is not None:
            shared = self._store.windows[-1].end - self._first
            agreement = overlap_agreement(self._before[0][:, -shared:], masks[:, :shared], magnitude[:shared])
        self._before = masks, magnitude
        self._noise.add(magnitude[shared:])
        self._store.add(self._first, masks, magnitude)
        energy = self._store.energies(len(self._sources))
        self._sources.append(WindowSources(np.einsum("sst->st", energy), points, agreement))
        release_freed_memory()

    def _asked(self, mixture: Tensor) -> int:
        """The number of sources of a window ``(samples,)``: as requested, or as the system counts before it masks."""
        if self._speakers is not None:
            # More speakers than the system was trained for are told apart by voice.
            return self._speakers if self._encoder is None else min(self._speakers, self._system.speakers)
        counted = self._system.count(mixture[None])
        if counted is None:
            return self._system.speakers
        self._trust.append(float(counted.confidence[0]))
        return int(counted.count[0])

    def _join(self) -> Tracks:
        most = max(window.sources for window in self._store.windows)
        assignment = assign_speakers([padded(sources, most) for sources in self._sources])
        # Sources that are silent in a window have no masks there.
        places = [
            places[: window.sources]
            for places, window in zip(assignment.speakers, self._store.windows, strict=True)
        ]
        self._labels = [place[:, None] for place in places]
        kept, confidence = self._kept(most)
        self._keep(kept)
        self._count = len(kept) if self._speakers is None else self._speakers
        further = 0.0
        if self._encoder is not None:
            turns = self._recognize(len(kept))
            confidence = min(confidence, turns.confidence)
            if self._speakers is not None:
                further = turns.further
        seconds = self._hop / self._system.sample_rate
        if self._activity is not None and 1 < self._count <= most_speakers(len(kept)):
            self._recognize_alone(self._activity)
        power = self._store.cross_fade(self._energies(self._count))
        order = order_of_speaking(power, seconds)
        self._keep(order)
        gains = residual_gains(self._store.cross_fade(self._energies(self._count, upper=True)), seconds)
        return Tracks(
            power[order], gains, confidence, assignment.confidence, seconds, self._noise.snr(), further
        )

    def _recognize(self, sources: int) -> Turns:
        """Give pieces to speakers by voice, and count these if asked to."""
        # A system that leaves an estimate silent has counted. More speakers are possible only if none is.
        more = self._speakers is None and sources == self._system.speakers
        places = [labels[:, 0] for labels in self._labels]
        turns = recognize_turns(self._heard, places, sources, None if more else self._count)
        self._labels, self._count = turns.labels, turns.speakers
        release_freed_memory()
        return turns

    def _recognize_alone(self, network: SpeakerActivity) -> None:
        """Find the frames in which one speaker is heard alone."""
        voices = speaker_voices(self._heard, self._labels, self._count)
        seconds = self._hop / self._system.sample_rate
        for number, (heard, labels) in enumerate(zip(self._heard, self._labels, strict=True)):
            magnitude, masks = map(torch.from_numpy, self._store.window(number))
            inputs = activity_inputs(magnitude, masks, heard, labels, voices, seconds)
            self._alone.append(alone_or_several(network, inputs))
            release_freed_memory()

    def _kept(self, sources: int) -> tuple[NDArray[np.intp], float]:
        """Which of the joined sources are speakers, and the confidence in their number."""
        if self._speakers is not None:
            return np.arange(sources), 1.0
        energy = np.stack([own.sum(axis=1, dtype=np.float64) for own in self._energies(sources)])
        for row, labels, cleaned in zip(energy, self._labels, self._cleaned, strict=False):
            own = torch.from_numpy(row[labels[:, 0]])
            row[labels[:, 0]] = with_and_without_noise(own, torch.from_numpy(cleaned.sources)).numpy()
        levels = typical_levels(torch.from_numpy(energy))
        counted = count_levels(levels[None], removed_noise(self._cleaned) if self._cleaned else None)
        confidence = float(counted.confidence[0])
        if self._trust:
            # The mean over the windows, each by its energy.
            weights = energy.sum(axis=1) + 1e-30
            confidence = min(confidence, float(np.average(self._trust, weights=weights)))
        return levels.numpy().argsort()[::-1][: int(counted.count[0])], confidence

    def _keep(self, speakers: NDArray[np.intp]) -> None:
        """Keep these speakers, in this order."""
        place_of = np.full(1 + max(int(each.max()) for each in [*self._labels, speakers]), -1)
        place_of[speakers] = np.arange(len(speakers))
        self._labels = [np.where(labels < 0, -1, place_of[labels]) for labels in self._labels]
        self._alone = [np.concatenate([chances[speakers], chances[-1:]]) for chances in self._alone]

    def _energies(self, speakers: int, *, upper: bool = False) -> list[Samples]:
        """Energy of each speaker in every window, ``(speakers, frames)``, from that of its sources."""
        found = []
        for number in range(len(self._store.windows)):
            share, energy = self._shares(number, speakers), self._store.energies(number, upper=upper)
            found.append(np.einsum("skt,rkt,srt->kt", share, share, energy))
        return found

    def _shares(self, number: int, speakers: int) -> Samples:
        """How much of each of a window's sources goes to each speaker, ``(sources, speakers, frames)``."""
        seconds = self._hop / self._system.sample_rate
        found = shares(self._labels[number], speakers, self._store.windows[number].frames, seconds)
        if not self._alone:
            return found
        return shares_of_frames(found, self._alone[number], self._labels[number][:, 0] >= 0)

    def masks(self, first: int, count: int) -> Tensor:
        """Masks ``(speakers, count, freqs)`` of ``count`` frames, cross-faded between windows."""
        masks = self._store.masks(first, count, self._count, partial(self._shares, speakers=self._count))
        return torch.from_numpy(masks).to(self._device)
