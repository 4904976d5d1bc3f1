"""Separate whole recordings in memory."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.arrays import as_rate, as_samples
from unmingle.audio import Samples, down_mix
from unmingle.device import pick_device
from unmingle.errors import UnmingleError
from unmingle.models import COUNTING_MODEL, DEFAULT_MODEL, find_model, load_system, model_names, read_facts
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.stream import SeparationStream
from unmingle.separation.voice_clusters import most_speakers
from unmingle.separation.windows import Tracks
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.systems import DenoisingConfig, DenoisingSystem, MaskingSystem

_MOST_STREAMED = 6
"""Signals of a stream. Every window compares all orders of the speakers, 720 of six."""
_BLOCK_SECONDS = 10.0
MASKING_SHARE = 0.9
"""Share of the work before the masks are applied, for the progress."""
Speakers = int | Literal["auto"] | None
"""A number; ``auto`` to count; None to count with the models that can (:attr:`Separator.counts`), and for the model's
number with the others."""


Audio = TypeVar("Audio", Samples, Tensor, covariant=True)


@dataclass(frozen=True)
class Separation(Generic[Audio]):
    """The estimates of one recording or a batch."""

    estimates: Audio
    """``(speakers, samples)`` or ``(batch, speakers, samples)``; speaker 1 speaks first."""
    sample_rate: int
    """Sample rate of the recording, in hertz."""
    tracks: tuple[Tracks, ...]
    """Who speaks when in each recording, and the confidence."""
    warnings: tuple[str, ...] = ()
    """Of a file: problems of its audio, and what may be wrong with the estimates."""

    @property
    def confidence(self) -> float:
        """Confidence in the number of speakers, 0 to 1; 1 if it was given. For a batch, the lowest one."""
        return min(tracks.count_confidence for tracks in self.tracks)


class Separator:
    """A separator for recordings of any sample rate, level and length."""

    def __init__(self, system: MaskingSystem, name: str, path: Path) -> None:
        self.system, self.name, self.path = system, name, path

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in hertz. Other rates are converted to it and back."""
        return self.system.sample_rate

    @property
    def speakers(self) -> int:
        """The number of speakers that the model was trained for."""
        return self.system.speakers

    @property
    def most_speakers(self) -> int:
        """The largest number of speakers of a recording. More than the model's are told apart by voice, in turns."""
        return max(self.speakers, most_speakers(self.speakers))

    @cached_property
    def counts(self) -> bool:
        """Whether it counts the speakers if their number is not given.

        This is so for the default model, also copied or exported, and for models that were trained for several
        numbers of speakers.
        """
        fewest = self.system.config.fewest_speakers
        return fewest not in (None, self.speakers) or read_facts(self.path) == read_facts(
            find_model(COUNTING_MODEL)
        )

    @overload
    def separate(
        self,
        audio: NDArray[np.generic],
        sample_rate: int,
        speakers: Speakers = None,
        *,
        channels_last: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Separation[Samples]: ...

    @overload
    def separate(
        self,
        audio: Tensor,
        sample_rate: int,
        speakers: Speakers = None,
        *,
        channels_last: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Separation[Tensor]: ...

    def separate(
        self,
        audio: NDArray[np.generic] | Tensor,
        sample_rate: int,
        speakers: Speakers = None,
        *,
        channels_last: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Separation[Samples] | Separation[Tensor]:
        """Separate one recording or a batch.

        Args:
            audio: ``(samples,)`` or ``(batch, samples)``, an array or a tensor: float in [-1, 1] or signed integers.
                It is not changed.
            sample_rate: of ``audio``, in hertz. It is never guessed.
            speakers: number of speakers, or ``auto`` to count. By default, :attr:`counts` decides.
            channels_last: ``audio`` is one recording ``(samples, channels)``, as soundfile reads it. The mean of
                its channels is separated.
            on_progress: called with the finished share of the work, 0 to 1.

        Returns:
            Estimates ``(speakers, samples)`` or ``(batch, speakers, samples)``, float32 at the rate and level of
            the input, NumPy or torch like the input. Speaker 1 speaks first. The estimates add up to the mixture. If
            the counts of a batch differ, the last estimates of some recordings are silent.

        Raises:
            UnmingleError: the audio is empty, not finite, or of a wrong shape; the rate is below
                1 kHz; or the model cannot separate so many speakers.
        """
        samples, rate = as_samples(audio, channels_last=channels_last), as_rate(sample_rate)
        if channels_last and samples.ndim == 2:
            samples = down_mix(samples)[0]
        mixtures = _as_batch(samples)
        wanted = self.check_speakers(speakers)
        estimates, tracks = [], []
        for number, mixture in enumerate(mixtures):

            def show(share: float, done: int = number) -> None:
                if on_progress:
                    on_progress((done + share) / len(mixtures))

            found, who = self._separate_one(mixture, rate, wanted, show)
            estimates.append(found)
            tracks.append(who)
            show(1.0)
        most = max(len(each) for each in estimates)
        stacked = np.stack([np.pad(each, ((0, most - len(each)), (0, 0))) for each in estimates])
        answer = stacked if samples.ndim == 2 else stacked[0]
        if isinstance(audio, Tensor):
            return Separation(torch.from_numpy(answer), rate, tuple(tracks))
        return Separation(answer, rate, tuple(tracks))

    def stream(
        self, sample_rate: int, speakers: int | None = None, lag: float | None = None
    ) -> SeparationStream:
        """A stream: push a block, get a block with one signal per speaker; see :class:`SeparationStream`.

        It runs on the CPU.

        Args:
            sample_rate: of the audio, in hertz.
            speakers: number of output signals (default: the number for which the model was trained).
            lag: maximum delay of the output in seconds (default: the delay of the model if it runs frame by frame;
                else 1, for models that need windows).

        Raises:
            UnmingleError: the rate, lag or number of speakers is not valid, or the model cannot stream.
        """
        if self.system.needs_sources:
            raise UnmingleError(
                f"{self.name} needs the true sources, so it cannot stream; "
                f"{' and '.join(_streaming_models())} can."
            )
        wanted = self.speakers if speakers is None else speakers
        if not _is_whole(wanted):
            raise UnmingleError(f"A stream needs the number of speakers; got {speakers!r}.")
        most = min(self.system.most_speakers() or _MOST_STREAMED, _MOST_STREAMED)
        if not 1 <= wanted <= most:
            raise UnmingleError(
                f"A stream of {self.name} can have 1 to {most} speakers; {wanted} were asked for."
            )
        # Small windows one after the other gain nothing from a GPU.
        system = self.system if self.system.frontend.mean.is_cpu else copy.deepcopy(self.system).cpu()
        return SeparationStream(system, sample_rate, wanted, lag, encoder=pretrained_speaker_encoder())

    def check_speakers(self, speakers: Speakers) -> int | None:
        """The number of speakers to separate, or None to count.

        Raises:
            UnmingleError: the model cannot separate so many, or it is not a number.
        """
        if speakers is None:
            return None if self.counts else self.speakers
        if speakers == "auto":
            return None
        if not _is_whole(speakers):
            raise UnmingleError(f"speakers must be a whole number or 'auto'; got {speakers!r}.")
        if not 1 <= speakers <= self.most_speakers:
            raise UnmingleError(
                f"{self.name} can separate 1 to {self.most_speakers} speakers; {speakers} were asked for."
            )
        return speakers

    def trained_for(self, speakers: int) -> bool:
        """Whether the model was trained with mixtures of this number of speakers."""
        return (self.system.config.fewest_speakers or self.speakers) <= speakers <= self.speakers

    def _separate_one(
        self,
        mixture: Samples,
        sample_rate: int,
        speakers: int | None,
        on_progress: Callable[[float], None] | None = None,
    ) -> tuple[Samples, Tracks]:
        size = round(_BLOCK_SECONDS * sample_rate)
        blocks = [mixture[k : k + size] for k in range(0, len(mixture), size)]
        with RecordingSeparation(self.system, sample_rate, speakers) as recording:
            for number, block in enumerate(blocks):
                recording.push(block)
                if on_progress:
                    on_progress(MASKING_SHARE * (number + 1) / len(blocks))
            tracks = recording.finish()
            pieces = list(recording.estimates(blocks))
        return np.concatenate(pieces, axis=1), tracks


def load(
    name: str | Path = DEFAULT_MODEL, device: str = "auto", changes: Mapping[str, Any] | None = None
) -> Separator:
    """Load a pretrained model by name, or a model file by path.

    Args:
        name: see ``unmingle models``, or a path to a ``.safetensors`` file or an exported folder.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        changes: of config values that need no training; see :func:`unmingle.models.load_system`.

    Raises:
        UnmingleError: the model does not exist, is damaged or is a denoiser, or the device does not exist.
    """
    where, path = pick_device(device), find_model(name)
    system = load_system(path, where, changes)
    if isinstance(system, DenoisingSystem) or not isinstance(system, MaskingSystem):
        raise UnmingleError(
            f"{path.stem} cleans speech of noise; use `unmingle denoise`, or name a model that separates."
        )
    return Separator(system, path.stem, path)


def _streaming_models() -> list[str]:
    """Pretrained models that separate. All of them can stream."""
    return [
        name for name in model_names() if not isinstance(read_facts(find_model(name))[0], DenoisingConfig)
    ]


def _is_whole(speakers: object) -> bool:
    return isinstance(speakers, numbers.Integral) and not isinstance(speakers, bool)


def _as_batch(audio: Samples) -> Samples:
    if audio.shape[-1] == 0 or len(audio) == 0:
        raise UnmingleError(f"Audio must hold at least one sample; its shape is {audio.shape}.")
    if audio.ndim == 2 and audio.shape[0] > 1 and audio.shape[1] <= 64 < audio.shape[0]:
        raise UnmingleError(
            f"Audio of shape {audio.shape} looks like (samples, channels); pass channels_last=True, or "
            "(batch, samples)."
        )
    return np.atleast_2d(audio)
