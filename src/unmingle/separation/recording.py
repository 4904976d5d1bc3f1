"""Separate one recording of any sample rate and length, in two passes over its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import torch

from unmingle.audio import Samples
from unmingle.audio_stream import RateConverter, Resampler, SampleQueue, StftStream
from unmingle.denoising.enhancer import Enhancer, load_denoiser
from unmingle.models import COUNTING_DENOISER
from unmingle.separation.adding_up import add_residual
from unmingle.separation.windows import OVERLAP_SECONDS, WINDOW_SECONDS, Tracks, WindowedSeparation
from unmingle.speaker_activity import pretrained_speaker_activity
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.systems import MaskingSystem


class RecordingSeparation:
    """Separates a recording at its own rate: :meth:`push` all blocks, :meth:`finish`, then :meth:`estimates`.

    It is a context manager, which removes the temporary file at the end.

    Args:
        system: gives the masks.
        sample_rate: of the recording, in hertz.
        speakers: in the recording; None to count.
        window_seconds: length of a window. A shorter recording is separated as a whole.
        overlap_seconds: by which neighbouring windows overlap.
        by_voice: give every turn to the speaker whose voice it is (:mod:`~unmingle.separation.turns`), and all sound
            of a frame to a speaker who is heard alone (:mod:`~unmingle.separation.speaking_alone`).
    """

    def __init__(
        self,
        system: MaskingSystem,
        sample_rate: int,
        speakers: int | None,
        window_seconds: float = WINDOW_SECONDS,
        overlap_seconds: float = OVERLAP_SECONDS,
        *,
        by_voice: bool = True,
    ) -> None:
        self._system, self._rate = system, sample_rate
        encoder = pretrained_speaker_encoder() if by_voice else None
        activity = pretrained_speaker_activity() if by_voice else None
        denoiser = _denoiser() if speakers is None else None
        self._windows = WindowedSeparation(
            system, speakers, window_seconds, overlap_seconds, encoder, activity, denoiser
        )
        self._down = Resampler(sample_rate, system.sample_rate, 1)
        self._tracks: Tracks | None = None
        self._sum, self._count = 0.0, 0
        self._pushed = 0
        """Samples at the model's rate."""

    def __enter__(self) -> RecordingSeparation:
        return self

    def __exit__(self, *error: object) -> None:
        self._windows.__exit__(*error)

    @property
    def _offset(self) -> float:
        return self._sum / max(self._count, 1)

    def push(self, audio: Samples) -> None:
        """First pass: push samples ``(samples,)``.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        self._sum += float(audio.sum(dtype=np.float64))
        self._count += len(audio)
        self._push(self._down.resample(audio[None], ended=False)[0])

    def _push(self, audio: Samples) -> None:
        self._pushed += len(audio)
        self._windows.push(audio)

    def finish(self) -> Tracks:
        """End the first pass: count, join and sort the speakers.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        self._push(self._down.resample(np.zeros((1, 0), dtype=np.float32), ended=True)[0])
        self._push(np.full(self._windows.stft.missing(self._pushed), self._offset, dtype=np.float32))
        self._tracks = self._windows.finish()
        return self._tracks

    def estimates(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Second pass over the same ``blocks``: yields estimates ``(speakers, samples)`` when they are ready.

        Together they are as long as the blocks, and add up to them.
        """
        assert self._tracks is not None, "finish() comes first"
        model_rate, hop = self._system.sample_rate, self._windows.stft.hop
        made = _Reconstruction(self._windows, self._system, self._tracks)
        converter = None
        if self._rate != model_rate:
            converter = RateConverter(self._rate, model_rate, hop, 1, self._tracks.speakers)
        gains, taken, given = self._tracks.gains, 0, 0
        # A constant offset belongs to no speaker. Varying masks would turn it into a rumble.
        offset = np.float32(self._offset)
        for block, ended in _marked(blocks):
            taken += len(block)
            block = block - offset
            lowered = block[None] if converter is None else converter.to_model(block[None], ended=ended)
            estimates = made.push(lowered[0], ended=ended)
            if converter is not None:
                # All gains are known before the second pass, so they are passed at once.
                estimates = converter.from_model(estimates, gains, ended=ended)
                gains = gains[:, :0]
            if ended:
                missing = max(0, taken - given - estimates.shape[1])
                estimates = np.pad(estimates, ((0, 0), (0, missing)))[:, : taken - given]
            given += estimates.shape[1]
            yield estimates + offset / np.float32(self._tracks.speakers)


@cache
def _denoiser() -> Enhancer:
    return load_denoiser(COUNTING_DENOISER)


def _marked(blocks: Iterable[Samples]) -> Iterator[tuple[Samples, bool]]:
    """Every block, and an empty one at the end."""
    for block in blocks:
        yield block, False
    yield np.zeros(0, dtype=np.float32), True


class _Reconstruction:
    """Applies a recording's masks to it, block by block, at the model's rate."""

    def __init__(self, windows: WindowedSeparation, system: MaskingSystem, tracks: Tracks) -> None:
        self._windows, self._device, self._tracks = windows, system.frontend.mean.device, tracks
        self._stft, self._hop = StftStream(windows.stft, 1), windows.stft.hop
        self._mixture = SampleQueue(1)
        self._frame = self._samples = 0

    @torch.no_grad()
    def push(self, audio: Samples, *, ended: bool) -> Samples:
        """Push samples ``(samples,)``; returns the estimates that are ready. They add up to the mixture."""
        self._samples += len(audio)
        missing = self._windows.stft.missing(self._samples) if ended else 0
        audio = np.pad(audio, (0, missing))
        self._mixture.add(audio[None])
        block = torch.from_numpy(np.ascontiguousarray(audio)).unsqueeze(0)
        spectrum = self._stft.analyse(block.to(self._device), ended=ended)
        masks = self._windows.masks(self._frame, spectrum.shape[1])
        self._frame += spectrum.shape[1]
        estimates = self._stft.synthesise(masks * spectrum, ended=ended).cpu().numpy()
        estimates = estimates[:, : estimates.shape[1] - missing]
        start = self._mixture.taken
        mixture = self._mixture.take(estimates.shape[1])[0]
        return add_residual(mixture, estimates, self._tracks.gains, start / self._hop, 1 / self._hop)
