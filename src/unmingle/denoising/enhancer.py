"""Remove noise from whole recordings in memory."""

from __future__ import annotations

import warnings
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
"""The gate chooses once per section of this length of a file, and once for a shorter file."""
BLOCK_SECONDS = 10.0
_MOST_CHANNELS = 64


class Enhancer:
    """A denoiser for recordings of any sample rate, level, length and number of channels.

    Args:
        system: the denoiser.
        name: of its model.
        path: of its model's file.
        attenuation_limit: maximum attenuation in dB; None for no limit.

    Raises:
        UnmingleError: the limit is negative.
    """

    def __init__(
        self, system: DenoisingSystem, name: str, path: Path, attenuation_limit: float | None = None
    ) -> None:
        PostGain(system.sample_rate, attenuation_limit)  # Raises an error if the limit is not valid.
        self.system, self.name, self.path = system, name, path
        self.attenuation_limit = attenuation_limit

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in hertz. Other rates are converted to it and back."""
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
            UnmingleError: the rate or the number of channels is not valid, or the specialist does not exist.
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
        """A stream for recordings, with a long delay: the gate uses some seconds of audio before it chooses."""
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
            UnmingleError: the audio is not finite, its type or shape is wrong, or the rate is below 1 kHz.
        """
        samples, rate = as_samples(audio, channels_last=channels_last), as_rate(sample_rate)
        if samples.ndim == 2 and len(samples) > _MOST_CHANNELS:
            raise UnmingleError(
                f"The audio has {len(samples)} channels; if it is (samples, channels), pass channels_last=True."
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
    """The output of a stream for blocks of :data:`BLOCK_SECONDS` of a recording.

    The constant offset, the mean of the first block, is subtracted from the input and added to the output.
    """
    offset: Samples = np.zeros(1, dtype=np.float32)
    for number, block in enumerate(blocks):
        if number == 0:
            offset = split_offset(block)[1]
        yield stream.push(block - offset) + offset
    yield stream.flush() + offset


def load_denoiser(name: str | Path = DEFAULT_DENOISER, *, attenuation_limit: float | None = None) -> Enhancer:
    """Load a pretrained denoiser by name, or a denoiser's file by path. It runs on the processor.

    ``attenuation_limit`` is the maximum attenuation in dB. With a limit, some of the noise stays.

    Raises:
        UnmingleError: the model does not exist, is damaged or is not a denoiser, or the limit is negative.
    """
    path = find_model(name)
    system = load_system(path)
    if not isinstance(system, DenoisingSystem):
        raise UnmingleError(f"{path.stem} separates speakers; use `unmingle separate`, or name a denoiser.")
    return Enhancer(system, path.stem, path, attenuation_limit)


def denoise(
    path: Path | str, *, model: str | Path = DEFAULT_DENOISER, attenuation_limit: float | None = None
) -> tuple[Samples, int]:
    """Clean one file. Returns the audio ``(channels, samples)`` and its sample rate, and writes no file.

    ``attenuation_limit`` is the maximum attenuation in dB. Problems of the file are Python warnings.

    Raises:
        UnmingleError: the file or the model cannot be used, or the limit is negative.
    """
    enhancer = load_denoiser(model, attenuation_limit=attenuation_limit)
    recording = read_audio(path)
    for text in recording.warnings:
        warnings.warn(text, stacklevel=2)
    return enhancer.denoise(recording.samples, recording.sample_rate), recording.sample_rate
