"""Clean whole recordings of noise that are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unmingle.arrays import as_rate, as_samples, like
from unmingle.audio import Samples, read_audio, split_offset
from unmingle.denoising.post_gain import PostGain
from unmingle.denoising.stream import DenoisingStream
from unmingle.errors import UnmingleError
from unmingle.models import DEFAULT_DENOISER, find_model, load_system
from unmingle.systems import DenoisingSystem

LOOK_AHEAD_SECONDS = 10.0
"""A file is judged in pieces of so much, each with one choice of the gate; a shorter recording has one."""
BLOCK_SECONDS = 10.0
_MOST_CHANNELS = 64


class Enhancer:
    """A denoiser made ready for any recording: any rate, level, length and number of channels.

    Args:
        system: the denoiser.
        name: of its model.
        path: of its model's file.
        attenuation_limit: by so many dB is anything turned down at most; None for no limit.

    Raises:
        UnmingleError: an impossible limit.
    """

    def __init__(
        self, system: DenoisingSystem, name: str, path: Path, attenuation_limit: float | None = None
    ) -> None:
        PostGain(attenuation_limit)  # Refuses what no stream would take.
        self.system, self.name, self.path = system, name, path
        self.attenuation_limit = attenuation_limit

    @property
    def sample_rate(self) -> int:
        """The rate in hertz that the model works at; other rates are converted to it and back."""
        return self.system.sample_rate

    def stream(
        self,
        sample_rate: int,
        channels: int = 1,
        *,
        expert: int | None = None,
        look_ahead_seconds: float = 0.0,
    ) -> DenoisingStream:
        """A stream: push a block, get a block; see :class:`DenoisingStream`.

        Raises:
            UnmingleError: an impossible rate or number of channels, or no such specialist.
        """
        return DenoisingStream(
            self.system,
            sample_rate,
            channels,
            expert=expert,
            look_ahead_seconds=look_ahead_seconds,
            attenuation_limit=self.attenuation_limit,
        )

    def file_stream(self, sample_rate: int, channels: int = 1) -> DenoisingStream:
        """A stream for recordings, which need not come out soon: the gate hears some seconds before it chooses."""
        return self.stream(sample_rate, channels, look_ahead_seconds=LOOK_AHEAD_SECONDS)

    @overload
    def denoise(
        self, audio: NDArray[np.generic], sample_rate: int, *, channels_last: bool = False
    ) -> Samples: ...

    @overload
    def denoise(self, audio: Tensor, sample_rate: int, *, channels_last: bool = False) -> Tensor: ...

    def denoise(
        self, audio: NDArray[np.generic] | Tensor, sample_rate: int, *, channels_last: bool = False
    ) -> Samples | Tensor:
        """Clean one recording.

        Args:
            audio: ``(samples,)`` or ``(channels, samples)``, float in [-1, 1] or signed integers; it is not changed.
            sample_rate: of ``audio``, in hertz. It is never guessed.
            channels_last: ``audio`` is ``(samples, channels)``, as soundfile reads it.

        Returns:
            The same shape, float32 at the rate and level of the input, NumPy or torch as the input was.

        Raises:
            UnmingleError: the audio is not finite or of a wrong kind or shape, or the rate is below 1 kHz.
        """
        samples, rate = as_samples(audio, channels_last=channels_last), as_rate(sample_rate)
        if samples.ndim == 2 and len(samples) > _MOST_CHANNELS:
            raise UnmingleError(
                f"The audio has {len(samples)} channels; if it is (samples, channels), say channels_last=True."
            )
        cleaned = samples
        if samples.size:
            channels = 1 if samples.ndim == 1 else len(samples)
            stream = self.file_stream(rate, channels)
            size = round(BLOCK_SECONDS * rate)
            blocks = (samples[..., start : start + size] for start in range(0, samples.shape[-1], size))
            cleaned = np.concatenate(list(clean_blocks(stream, blocks)), axis=-1)
        return like(cleaned, audio, channels_last=channels_last)


def clean_blocks(stream: DenoisingStream, blocks: Iterable[Samples]) -> Iterator[Samples]:
    """What a stream makes of a recording's blocks of :data:`BLOCK_SECONDS`, its constant offset taken off meanwhile.

    The offset (the mean of the first block) is no noise to learn from; it is given back.
    """
    offset: Samples = np.zeros(1, dtype=np.float32)
    for number, block in enumerate(blocks):
        if number == 0:
            offset = split_offset(block)[1]
        yield stream.push(block - offset) + offset
    yield stream.flush() + offset


def load_denoiser(name: str | Path = DEFAULT_DENOISER, *, attenuation_limit: float | None = None) -> Enhancer:
    """Load a denoiser of the package by name, or any denoiser's file by path. It runs on the processor.

    With an ``attenuation_limit`` nothing is turned down by more than so many dB, so that some of the noise stays.

    Raises:
        UnmingleError: no such model, a damaged file, no denoiser, or an impossible limit.
    """
    path = find_model(name)
    system = load_system(path)
    if not isinstance(system, DenoisingSystem):
        raise UnmingleError(f"{path.stem} separates speakers; use `unmingle separate`, or name a denoiser.")
    return Enhancer(system, path.stem, path, attenuation_limit)


def denoise(
    path: Path | str, *, model: str | Path = DEFAULT_DENOISER, attenuation_limit: float | None = None
) -> tuple[Samples, int]:
    """Clean one file: the audio ``(channels, samples)`` and its sample rate; nothing is written.

    With an ``attenuation_limit`` nothing is turned down by more than so many dB.

    Raises:
        UnmingleError: the file, the model or the limit will not do; the text says why.
    """
    enhancer = load_denoiser(model, attenuation_limit=attenuation_limit)
    recording = read_audio(path)
    return enhancer.denoise(recording.samples, recording.sample_rate), recording.sample_rate
