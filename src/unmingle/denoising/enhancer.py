"""Clean whole recordings of noise that are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples, read_audio
from unmingle.denoising.stream import DenoisingStream
from unmingle.errors import UnmingleError
from unmingle.models import DEFAULT_DENOISER, find_model, load_system
from unmingle.systems import DenoisingSystem

LOOK_AHEAD_SECONDS = 10.0
"""A file is judged in pieces of so much, each with one choice of the gate; a shorter recording has one."""
BLOCK_SECONDS = 10.0


class Enhancer:
    """A denoiser made ready for any recording: any rate, level, length and number of channels."""

    def __init__(self, system: DenoisingSystem, name: str, path: Path) -> None:
        self.system, self.name, self.path = system, name, path

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
            self.system, sample_rate, channels, expert=expert, look_ahead_seconds=look_ahead_seconds
        )

    @overload
    def denoise(self, audio: NDArray[np.generic], sample_rate: int) -> Samples: ...

    @overload
    def denoise(self, audio: Tensor, sample_rate: int) -> Tensor: ...

    def denoise(self, audio: NDArray[np.generic] | Tensor, sample_rate: int) -> Samples | Tensor:
        """Clean one recording.

        Args:
            audio: ``(samples,)`` or ``(channels, samples)``, float in [-1, 1]; it is not changed.
            sample_rate: of ``audio``, in hertz. It is never guessed.

        Returns:
            The same shape, float32 at the rate and level of the input, NumPy or torch as the input was.

        Raises:
            UnmingleError: the audio is not finite or of a wrong shape, or the rate is below 1 kHz.
        """
        array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
        if array.ndim not in (1, 2) or (array.ndim == 2 and len(array) > 64):
            raise UnmingleError(f"Audio must be (samples,) or (channels, samples); got {array.shape}.")
        channels = 1 if array.ndim == 1 else len(array)
        stream = self.stream(sample_rate, channels, look_ahead_seconds=LOOK_AHEAD_SECONDS)
        size = round(BLOCK_SECONDS * sample_rate)
        blocks = [stream.push(array[..., k : k + size]) for k in range(0, array.shape[-1], size)]
        cleaned = np.concatenate([*blocks, stream.flush()], axis=-1) if blocks else array.astype(np.float32)
        return torch.from_numpy(cleaned) if isinstance(audio, Tensor) else cleaned


def load_denoiser(name: str | Path = DEFAULT_DENOISER) -> Enhancer:
    """Load a denoiser of the package by name, or any denoiser's file by path. It runs on the processor.

    Raises:
        UnmingleError: no such model, a damaged file, or no denoiser.
    """
    path = find_model(name)
    system = load_system(path)
    if not isinstance(system, DenoisingSystem):
        raise UnmingleError(f"{path.stem} separates speakers; use `unmingle separate`, or name a denoiser.")
    return Enhancer(system, path.stem, path)


def denoise(path: Path | str, *, model: str | Path = DEFAULT_DENOISER) -> tuple[Samples, int]:
    """Clean one file: the audio ``(channels, samples)`` and its sample rate; nothing is written.

    Raises:
        UnmingleError: the file or the model will not do; the text says why.
    """
    enhancer = load_denoiser(model)
    recording = read_audio(path)
    return enhancer.denoise(recording.samples, recording.sample_rate), recording.sample_rate
