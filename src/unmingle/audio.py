"""Audio files and arrays: reading, writing, resampling, channels and levels.

The array of a file is ``(channels, samples)``, float32 in [-1, 1]. A single channel is ``(samples,)``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unmingle.audio_reading import Declared as Declared
from unmingle.audio_reading import Recording as Recording
from unmingle.audio_reading import read_audio as read_audio
from unmingle.audio_reading import read_header as read_header
from unmingle.errors import UnmingleError
from unmingle.samples import LOWEST_SAMPLE_RATE as LOWEST_SAMPLE_RATE
from unmingle.samples import Samples as Samples
from unmingle.samples import is_constant as is_constant
from unmingle.temporary import replace_files as replace_files

OUTPUT_FORMATS: dict[str, tuple[str, dict[int, str]]] = {
    "wav": ("WAV", {0: "FLOAT", 16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}),
    "flac": ("FLAC", {0: "PCM_24", 16: "PCM_16", 24: "PCM_24"}),
    "ogg": ("OGG", {0: "VORBIS"}),
    "mp3": ("MP3", {0: "MPEG_LAYER_III"}),
}
"""Formats with libsndfile's name and its subtypes by bits per sample; 0 is the default."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_CANCELLED = 0.3
_HIGHEST_RATES = {"ogg": 200_000, "flac": 655_350}
"""Above these rates in hertz the encoders fail; Vorbis even kills the process."""


def check_format(name: str, sample_rate: int, bits: int | None = None) -> str:
    """libsndfile's subtype for a format.

    Raises:
        UnmingleError: the format is unknown, or does not support this rate or number of bits.
    """
    if name not in OUTPUT_FORMATS:
        raise UnmingleError(f"Cannot write {name!r} files; choose one of {', '.join(OUTPUT_FORMATS)}.")
    if name == "mp3" and sample_rate not in _MP3_RATES:
        raise UnmingleError(f"MP3 cannot hold a sample rate of {sample_rate} Hz; write wav or flac instead.")
    highest = _HIGHEST_RATES.get(name)
    if highest and sample_rate > highest:
        raise UnmingleError(f"{name} cannot hold a sample rate of {sample_rate} Hz; write wav instead.")
    subtypes = OUTPUT_FORMATS[name][1]
    if bits is not None and (bits not in subtypes or not bits):
        possible = ", ".join(str(value) for value in subtypes if value) or "none to choose"
        raise UnmingleError(f"{name} files cannot have {bits} bits per sample; possible: {possible}.")
    return subtypes[bits or 0]


def encode_audio(samples: Samples, sample_rate: int, name: str, bits: int | None = None) -> memoryview:
    """The bytes of an audio file of ``(samples,)`` or ``(channels, samples)`` in the format ``name``.

    WAV is 32-bit float unless ``bits`` says otherwise.

    Raises:
        UnmingleError: the format is unknown, or cannot hold this audio.
    """
    subtype = check_format(name, sample_rate, bits)
    channels = 1 if samples.ndim == 1 else samples.shape[0]
    # Encoded in memory: the encoder does not report a full disk, the operating system does.
    encoded = io.BytesIO()
    kind = OUTPUT_FORMATS[name][0]
    try:
        with soundfile.SoundFile(encoded, "w", sample_rate, channels, subtype, format=kind) as file:
            # One call with a long block overflows the Vorbis encoder's stack.
            for start in range(0, samples.shape[-1], 1 << 16):
                file.write(samples[..., start : start + (1 << 16)].T)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnmingleError(
            f"{name} cannot hold {channels} channels at {sample_rate} Hz; write wav instead."
        ) from error
    buffer = encoded.getbuffer()
    zero_time_stamp(buffer, name)
    return buffer


def zero_time_stamp(encoded: memoryview, name: str) -> None:
    """Set the time in a float WAV's PEAK chunk to zero, so that the same audio gives the same bytes."""
    peak = bytes(encoded[:128]).find(b"PEAK")
    if name == "wav" and peak >= 0:
        encoded[peak + 12 : peak + 16] = bytes(4)


def write_audio(path: Path, samples: Samples, sample_rate: int, bits: int | None = None) -> None:
    """Write one channel ``(samples,)`` or ``(channels, samples)``. The suffix gives the format.

    Raises:
        UnmingleError: the format is unknown or cannot hold this audio, or the file cannot be written.
    """
    encoded = encode_audio(samples, sample_rate, path.suffix.lower().lstrip("."), bits)
    replace_files([(path, encoded)])


def to_mono(samples: Samples) -> Samples:
    """Mean over channels, ``(channels, samples)`` to ``(samples,)``; the loudest channel if the channels cancel."""
    return _mean_or_loudest(samples)[0]


def down_mix(samples: Samples, channel: str = "mix") -> tuple[Samples, tuple[str, ...]]:
    """One channel of a recording, with warnings about cancelling or silent channels.

    Args:
        samples: ``(channels, samples)``.
        channel: ``mix``, ``left``, ``right``, or a number from 1.

    Returns:
        ``(samples,)``, and warnings without the file's name.

    Raises:
        UnmingleError: the recording has no such channel.
    """
    if channel == "mix":
        mono, loudest = _mean_or_loudest(samples)
        if loudest is None:
            return mono, ()
        return mono, (_cancelled(loudest),)
    index = _index(channel)
    if not 0 <= index < len(samples):
        raise UnmingleError(f"There is no channel {channel}; the recording has {len(samples)}.")
    picked: Samples = samples[index]
    return picked, (_silent(channel),) if _only_others_sound([samples], channel) else ()


def _index(channel: str) -> int:
    number = {"left": "1", "right": "2"}.get(channel, channel)
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise UnmingleError(f"There is no channel {channel!r}; use mix, left, right, or a number from 1.")
    return int(number) - 1


def down_mixer(
    blocks: Iterable[Samples], channels: int, channel: str = "mix"
) -> tuple[Callable[[Samples], Samples], tuple[str, ...]]:
    """:func:`down_mix` for a recording in blocks.

    Args:
        blocks: ``(channels, samples)`` each. They are read once if there are several channels, because the choice
            and the warnings depend on the whole recording.
        channels: of each block.
        channel: ``mix``, ``left``, ``right``, or a number from 1.

    Returns:
        A function from a block ``(channels, samples)`` to one channel ``(samples,)``, and warnings.

    Raises:
        UnmingleError: the recording has no such channel.
    """
    if channels == 1 or channel != "mix":
        # Raises the error for a missing channel.
        down_mix(np.zeros((channels, 1), dtype=np.float32), channel)
        silent = channels > 1 and _only_others_sound(blocks, channel)
        return lambda block: down_mix(block, channel)[0], (_silent(channel),) if silent else ()
    count, sums, squares = 0, np.zeros(channels + 1), np.zeros(channels + 1)
    for block in blocks:
        rows = np.concatenate([block, block.mean(axis=0, keepdims=True, dtype=np.float32)]).astype(np.float64)
        count += rows.shape[1]
        sums, squares = sums + rows.sum(axis=1), squares + np.square(rows).sum(axis=1)
    powers = squares / max(count, 1) - np.square(sums / max(count, 1))
    if not _cancel(powers[-1], powers[:-1]):
        return lambda block: block.mean(axis=0, dtype=np.float32), ()
    loudest = int(np.argmax(powers[:-1]))
    return lambda block: block[loudest], (_cancelled(loudest),)


def _only_others_sound(blocks: Iterable[Samples], channel: str) -> bool:
    """Whether a channel is silent in all blocks ``(channels, samples)``, and another is not."""
    sound = False
    for block in blocks:
        if not is_constant(block[_index(channel)]):
            return False
        sound = sound or not is_constant(block)
    return sound


def _silent(channel: str) -> str:
    return f"channel {channel} is silent, and others are not (--channel picks another)"


def _cancelled(loudest: int) -> str:
    return f"the channels cancel each other out; channel {loudest + 1} was used (--channel picks another)"


def _cancel(mean: float, powers: NDArray[np.float64]) -> bool:
    """Whether the power of the mean over channels is far below the value for independent channels."""
    # The mean of n independent channels has the sum of their powers divided by n squared.
    return bool(mean < _CANCELLED * powers.sum() / len(powers) ** 2)


def _mean_or_loudest(samples: Samples) -> tuple[Samples, int | None]:
    """The mean over channels and None; if the channels cancel, the loudest channel and its index."""
    if len(samples) == 1 or samples.shape[1] == 0:
        return samples[0], None
    mono: Samples = samples.mean(axis=0, dtype=np.float32)
    # Variances, because a constant offset is not sound.
    powers = np.var(samples, axis=1, dtype=np.float64)
    if not _cancel(float(np.var(mono, dtype=np.float64)), powers):
        return mono, None
    loudest = int(np.argmax(powers))
    return samples[loudest], loudest


def split_offset(samples: Samples) -> tuple[Samples, Samples]:
    """``(..., samples)`` without its mean, and the mean ``(..., 1)``, which the caller adds back."""
    mean = samples.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    return samples - mean, mean


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """Band-limited resampling along the last axis of ``(samples,)`` or ``(channels, samples)``."""
    if from_rate == to_rate:
        return samples
    resampled = soxr.resample(samples.T, from_rate, to_rate, quality="HQ").T
    return np.ascontiguousarray(resampled, dtype=np.float32)


def active_level(samples: Samples, sample_rate: int) -> float:
    """Root mean square of the active part of speech ``(samples,)``.

    Frames of 25 ms are active if they are within 30 dB of the loudest one. This simple energy rule
    excludes pauses; it is not ITU-T P.56.
    """
    size = max(1, round(0.025 * sample_rate))
    whole = len(samples) // size * size
    if whole == 0:
        return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    power = np.square(samples[:whole], dtype=np.float64).reshape(-1, size).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))
