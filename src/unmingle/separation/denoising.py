"""Clean whole recordings of noise: arrays, and files of any length in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples, check_format, read_audio, read_header
from unmingle.audio_blocks import AudioWriter, Blocks, must_be_decoded_whole
from unmingle.errors import UnmingleError
from unmingle.models import DEFAULT_DENOISER, find_model, load_system
from unmingle.separation.files import Output, check_template, go_through, refuse_too_long, targets_of
from unmingle.separation.streaming import DenoisingStream
from unmingle.systems import DenoisingSystem

LOOK_AHEAD_SECONDS = 10.0
"""A file is judged in pieces of so much, each with one choice of the gate; a shorter recording has one."""
_BLOCK_SECONDS = 10.0


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
        size = round(_BLOCK_SECONDS * sample_rate)
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


@dataclass
class DenoisingResult:
    """What became of one input."""

    input: str
    output: str = ""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Seconds of work, reading and writing included, for a second of audio."""
    switches: int = 0
    """How often another specialist took over."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def denoise_files(
    paths: Sequence[Path],
    enhancer: Enhancer,
    output: Output,
    on_done: Callable[[DenoisingResult], None] | None = None,
) -> list[DenoisingResult]:
    """Clean files one after the other; one that fails does not stop the others.

    Raises:
        UnmingleError: the options themselves are impossible; nothing was done then.
    """
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 1)
    taken = {os.path.realpath(path) for path in paths}

    def work(path: Path, stem: str, result: DenoisingResult) -> None:
        (target,) = targets_of(stem, 1, output, taken)
        taken.add(os.path.realpath(target))
        _denoise_file(path, target, enhancer, output, result)

    results = [DenoisingResult(str(path)) for path in paths]
    go_through(paths, results, work, "cleaned", on_done)
    return results


def _denoise_file(
    path: Path, target: Path, enhancer: Enhancer, output: Output, result: DenoisingResult
) -> None:
    if target.exists() and not output.overwrite:
        raise UnmingleError(f"{target} exists; add --overwrite, or name another folder with -o.")
    header = read_header(path)
    if header is not None and must_be_decoded_whole(path):
        refuse_too_long(path, header.seconds, 12.0 * header.seconds * header.sample_rate * header.channels)
    recording = Blocks(path, _BLOCK_SECONDS)
    stream = enhancer.stream(recording.sample_rate, recording.channels, look_ahead_seconds=LOOK_AHEAD_SECONDS)
    samples = 0
    rate, channels = recording.sample_rate, recording.channels
    with AudioWriter(target, rate, channels, output.format, output.bits, recording.seconds) as writer:
        for block in recording:
            samples += block.shape[1]
            writer.write(stream.push(block))
        if not samples:
            raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
        writer.write(stream.flush())
    result.seconds, result.sample_rate = samples / recording.sample_rate, recording.sample_rate
    result.output, result.switches = str(target), stream.masks.switches
    if recording.warning:
        result.warnings.append(recording.warning)
    if writer.clipped:
        result.warnings.append(f"{writer.clipped} samples were clipped; write 32-bit wav to keep them")
