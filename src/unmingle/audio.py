"""Audio files and arrays: reading, writing, resampling, channels and levels.

Arrays of a file are ``(channels, samples)``, float32 in [-1, 1]; one channel is ``(samples,)``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unmingle.errors import UnmingleError

LOWEST_SAMPLE_RATE = 1000
"""In hertz; below it there is no speech left to separate."""

CONTAINER_SUFFIXES = (".m4a", ".mp4", ".webm", ".mkv", ".mov", ".aac", ".wma", ".opus")
"""Formats that libsndfile may not read; PyAV (the extra ``media``) does."""

OUTPUT_FORMATS: dict[str, tuple[str, dict[int, str]]] = {
    "wav": ("WAV", {0: "FLOAT", 16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}),
    "flac": ("FLAC", {0: "PCM_24", 16: "PCM_16", 24: "PCM_24"}),
    "ogg": ("OGG", {0: "VORBIS"}),
    "mp3": ("MP3", {0: "MPEG_LAYER_III"}),
}
"""Format to libsndfile's name and, by bits a sample, its subtype; 0 is the default."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_HIGHEST_RATES = {"ogg": 200_000, "flac": 655_350}
"""Beyond these the encoders fail, Vorbis by killing the process."""
_BLOCK = 1 << 12

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A decoded file."""

    samples: Samples
    """``(channels, samples)``."""
    sample_rate: int
    """In hertz."""
    warning: str | None = None
    """What was wrong with the file, if it could be read all the same."""


@dataclass(frozen=True)
class Declared:
    """What a file's header says, before anything is decoded."""

    seconds: float
    sample_rate: int
    channels: int


def read_header(path: Path) -> Declared | None:
    """Length, rate and channels by the header, or None where it cannot tell."""
    try:
        info = soundfile.info(str(path.absolute()))
        if 0 < info.frames < 2**62:
            return Declared(info.frames / info.samplerate, info.samplerate, info.channels)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError):
        pass
    try:
        import av

        with av.open(str(path.absolute())) as container:
            context = container.streams.audio[0].codec_context
            if container.duration:
                return Declared(container.duration / av.time_base, context.sample_rate, context.channels)
    except (ImportError, IndexError, OSError, ValueError, EOFError):
        pass
    return None


def read_audio(path: Path | str) -> Recording:
    """Decode a WAV, FLAC, OGG or MP3 file; others through PyAV if it is installed.

    A file that ends early gives what is there, and a warning.

    Raises:
        UnmingleError: no such file, not audio, no samples, not finite, or a rate below 1 kHz.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UnmingleError(f"{path} is a folder; name an audio file.")
        if not path.exists():
            raise UnmingleError(f"{path} does not exist; check the name.")
        if path.stat().st_size == 0:
            raise UnmingleError(f"{path} is empty (0 bytes); there is nothing to read.")
        recording = _read_with_soundfile(path)
    except OSError as error:
        raise UnmingleError(f"{path} may not be read ({_reason(error)}).") from error
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        # TypeError: soundfile takes the suffix .raw for samples without a header.
        if path.suffix.lower() not in CONTAINER_SUFFIXES:
            raise UnmingleError(
                f"{path} cannot be read as audio; is it really a {path.suffix or 'sound'} file, and whole?"
            ) from error
        recording = _read_with_av(path)
    _check(path, recording)
    return recording


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _check(path: Path, recording: Recording) -> None:
    check_rate(path, recording.sample_rate)
    if recording.samples.shape[-1] == 0:
        raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
    if not np.isfinite(recording.samples).all():
        raise UnmingleError(f"{path} holds samples that are NaN or infinite; export it again.")


def check_rate(path: Path, sample_rate: int) -> None:
    """Refuse a file whose sample rate leaves no speech.

    Raises:
        UnmingleError: it is below 1 kHz.
    """
    if sample_rate < LOWEST_SAMPLE_RATE:
        raise UnmingleError(
            f"{path} has a sample rate of {sample_rate} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
        )


def _read_with_soundfile(path: Path) -> Recording:
    # soundfile hands the name to C: an absolute one cannot be taken for an option or a descriptor.
    name = str(path.absolute())
    with soundfile.SoundFile(name) as file:
        rate, channels, declared = file.samplerate, file.channels, file.frames
        try:
            # In one call: soundfile seeks between calls, and in MP3 that loses samples.
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            samples = None
    if samples is None:
        samples = _read_until_damage(name, channels)
    warning = None
    if len(samples) < declared < 2**62 or wav_data_is_cut(path):
        warning = f"{path.name} ends early; the {len(samples) / rate:.2f} s that are there were used"
    return Recording(np.ascontiguousarray(samples.T), rate, warning)


def _read_until_damage(name: str, channels: int) -> Samples:
    """Samples ``(samples, channels)`` up to where decoding fails."""
    blocks = [np.zeros((0, channels), dtype=np.float32)]
    with soundfile.SoundFile(name) as file:
        try:
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block)
        except soundfile.LibsndfileError:
            pass
    return np.concatenate(blocks)


def wav_data_is_cut(path: Path) -> bool:
    """True if a RIFF file's data chunk says that it is longer than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return False
        file.seek(12)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                # Programs that write to a pipe leave these two sizes; they say nothing.
                return length not in (0, 0x7FFFFFFF, 0xFFFFFFFF) and file.tell() + length > size
            file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _read_with_av(path: Path) -> Recording:
    try:
        import av
    except ImportError as error:
        raise UnmingleError(
            f"Reading {path.suffix} files needs PyAV; install it with: pip install 'unmingle[media]'"
        ) from error
    try:
        with av.open(str(path.absolute())) as container:
            if not container.streams.audio:
                raise UnmingleError(f"{path} has no audio track.")
            stream = container.streams.audio[0]
            rate = stream.codec_context.sample_rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
            blocks = [frame.to_ndarray() for frame in frames]
    except (av.FFmpegError, OSError) as error:
        raise UnmingleError(f"{path} cannot be read as audio; is the file whole?") from error
    samples = np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0))
    return Recording(np.ascontiguousarray(samples, dtype=np.float32), int(rate))


def check_format(name: str, sample_rate: int, bits: int | None = None) -> str:
    """libsndfile's subtype for a format, if the format can hold such audio.

    Raises:
        UnmingleError: the format is unknown, or cannot hold this rate or this many bits.
    """
    if name not in OUTPUT_FORMATS:
        raise UnmingleError(f"Cannot write {name!r} files; choose one of {', '.join(OUTPUT_FORMATS)}.")
    if name == "mp3" and sample_rate not in _MP3_RATES:
        raise UnmingleError(f"MP3 cannot hold a sample rate of {sample_rate} Hz; write wav or flac instead.")
    highest = _HIGHEST_RATES.get(name)
    if highest and sample_rate > highest:
        raise UnmingleError(f"{name} cannot hold a sample rate of {sample_rate} Hz; write wav instead.")
    subtypes = OUTPUT_FORMATS[name][1]
    if bits is not None and bits not in subtypes:
        possible = ", ".join(str(value) for value in subtypes if value) or "none to choose"
        raise UnmingleError(f"{name} files cannot have {bits} bits a sample; possible: {possible}.")
    return subtypes[bits or 0]


def encode_audio(samples: Samples, sample_rate: int, name: str, bits: int | None = None) -> memoryview:
    """The bytes of an audio file of ``(samples,)`` or ``(channels, samples)`` in the format ``name``.

    WAV is 32-bit float unless ``bits`` says otherwise.

    Raises:
        UnmingleError: the format is unknown, or cannot hold this audio.
    """
    subtype = check_format(name, sample_rate, bits)
    channels = 1 if samples.ndim == 1 else samples.shape[0]
    # Encoded in memory: the encoder does not tell when the disk is full, the operating system does.
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
    """Take the time of day out of a float WAV's PEAK chunk: the same audio must be the same bytes."""
    peak = bytes(encoded[:128]).find(b"PEAK")
    if name == "wav" and peak >= 0:
        encoded[peak + 12 : peak + 16] = bytes(4)


def write_audio(path: Path, samples: Samples, sample_rate: int, bits: int | None = None) -> None:
    """Write one channel ``(samples,)`` or ``(channels, samples)``; the suffix gives the format.

    Raises:
        UnmingleError: the format is unknown, cannot hold this audio, or the disk refuses.
    """
    encoded = encode_audio(samples, sample_rate, path.suffix.lower().lstrip("."), bits)
    replace_files([(path, encoded)])


def replace_files(contents: Sequence[tuple[Path, bytes | memoryview]]) -> None:
    """Write files under temporary names, then rename them all: all appear, or everything stays as it was.

    Raises:
        UnmingleError: a folder cannot be made or written to, or the disk is full.
    """
    partials: list[Path] = []
    path = Path()
    try:
        try:
            for path, content in contents:
                path.parent.mkdir(parents=True, exist_ok=True)
                partials.append(path.with_name(f".{os.getpid()}.{len(partials)}.partial"))
                partials[-1].write_bytes(content)
            for (path, _), partial in zip(contents, partials, strict=True):
                partial.replace(path)
        finally:
            for partial in partials:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise UnmingleError(
            f"{path} cannot be written ({_reason(error)}); choose another folder with -o."
        ) from error


def to_mono(samples: Samples) -> Samples:
    """Mean over channels: ``(channels, samples)`` to ``(samples,)``."""
    mono: Samples = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    return mono


def pick_channel(samples: Samples, channel: str) -> Samples:
    """One channel of ``(channels, samples)``: ``mix``, ``left``, ``right``, or a number from 1 on.

    Raises:
        UnmingleError: the recording has no such channel.
    """
    if channel == "mix":
        return to_mono(samples)
    number = {"left": "1", "right": "2"}.get(channel, channel)
    if not number.isdecimal():
        raise UnmingleError(f"There is no channel {channel!r}; say mix, left, right, or a number from 1 on.")
    if not 1 <= int(number) <= len(samples):
        raise UnmingleError(f"There is no channel {channel}; the recording has {len(samples)}.")
    picked: Samples = samples[int(number) - 1]
    return picked


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """Band-limited resampling along the last axis of ``(samples,)`` or ``(channels, samples)``."""
    if from_rate == to_rate:
        return samples
    resampled = soxr.resample(samples.T, from_rate, to_rate, quality="HQ").T
    return np.ascontiguousarray(resampled, dtype=np.float32)


def active_level(samples: Samples, sample_rate: int) -> float:
    """Root mean square of the active part of speech ``(samples,)``.

    Active are the frames of 25 ms within 30 dB of the loudest one: a plain energy rule that
    leaves pauses out, not ITU-T P.56.
    """
    size = max(1, round(0.025 * sample_rate))
    whole = len(samples) // size * size
    if whole == 0:
        return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    power = np.square(samples[:whole], dtype=np.float64).reshape(-1, size).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))
