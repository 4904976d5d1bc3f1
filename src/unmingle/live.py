"""Run streams: raw samples through a pipe, or microphone to loudspeaker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from unmingle.audio import LOWEST_SAMPLE_RATE, Samples
from unmingle.audio_stream import Stream
from unmingle.errors import UnmingleError

_FORMATS = {"s16le": ("<i2", 2.0**15), "s32le": ("<i4", 2.0**31), "f32le": ("<f4", 1.0)}
"""By ffmpeg's name: NumPy's type and the full scale."""
_BLOCK_SECONDS = 0.032
LIVE_RATE = 48000
"""Sample rate of microphone and loudspeaker, in hertz."""


@dataclass(frozen=True)
class RawFormat:
    """Samples without a header, channels interleaved."""

    name: str
    sample_rate: int
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return np.dtype(_FORMATS[self.name][0]).itemsize * self.channels

    def decode(self, data: bytes) -> Samples:
        """``(channels, samples)``."""
        kind, full_scale = _FORMATS[self.name]
        values = np.frombuffer(data, dtype=kind).astype(np.float32) / np.float32(full_scale)
        return np.ascontiguousarray(values.reshape(-1, self.channels).T)

    def encode(self, audio: Samples) -> bytes:
        """Bytes of ``(channels, samples)``. Integers are clipped at full scale."""
        kind, full_scale = _FORMATS[self.name]
        values = audio.T
        if full_scale != 1.0:
            # In double precision: float32 cannot represent all 32-bit integers.
            values = np.round(values.astype(np.float64) * full_scale).clip(-full_scale, full_scale - 1)
        return np.ascontiguousarray(values).astype(kind).tobytes()


def parse_raw_format(text: str) -> RawFormat:
    """``FORMAT:RATE`` or ``FORMAT:RATE:CHANNELS``, for example ``s16le:16000``.

    Raises:
        UnmingleError: it is something else.
    """
    name, *numbers = text.split(":")
    if name in _FORMATS and 1 <= len(numbers) <= 2 and all(number.isdecimal() for number in numbers):
        rate, channels = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 1
        if LOWEST_SAMPLE_RATE <= rate <= 768_000 and 1 <= channels <= 64:
            return RawFormat(name, rate, channels)
    raise UnmingleError(
        f"--raw must be FORMAT:RATE or FORMAT:RATE:CHANNELS with the format {', '.join(_FORMATS)}, "
        f"as s16le:16000; got {text!r}."
    )


def run_pipe(stream: Stream, raw: RawFormat, source: BinaryIO, sink: BinaryIO) -> float:
    """Push audio from ``source`` until it ends, and write the output. Returns the number of seconds read.

    Raises:
        UnmingleError: the input ends in the middle of a sample, or is not finite.
    """
    size = max(1, round(_BLOCK_SECONDS * raw.sample_rate)) * raw.frame_bytes
    frames, rest = 0, b""
    # Short reads are pushed at once: a slow pipe must not wait for whole blocks.
    read = getattr(source, "read1", source.read)
    while data := read(size):
        data = rest + data
        whole = len(data) - len(data) % raw.frame_bytes
        data, rest = data[:whole], data[whole:]
        frames += whole // raw.frame_bytes
        sink.write(raw.encode(stream.push(raw.decode(data))))
        sink.flush()
    sink.write(raw.encode(stream.flush()))
    sink.flush()
    if rest:
        raise UnmingleError(
            f"The input ended in the middle of a sample ({len(rest)} bytes too many); is it {raw.name}?"
        )
    return frames / raw.sample_rate


def run_live(
    stream: Stream, *, speaker: int | None = None, on_levels: Callable[[list[float]], None] | None = None
) -> None:
    """Run ``stream`` from the default microphone to the default loudspeaker, until the user interrupts.

    Args:
        stream: of one channel. Each output signal has its own channel.
        speaker: number of the only speaker to play, from 1 (default: all).
        on_levels: called with the level of every signal in dB, about ten times per second.

    Raises:
        UnmingleError: sounddevice or a sound device is missing.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise UnmingleError(
            "Live use needs sounddevice; install it with: pip install 'unmingle[live]'"
        ) from error
    except OSError as error:
        raise UnmingleError(
            "Live use needs the PortAudio library; install your system's package (Debian: libportaudio2)."
        ) from error
    block = round(_BLOCK_SECONDS * stream.sample_rate)
    channels = 1 if speaker is not None else stream.outputs
    meter = _Meter(stream.outputs, stream.sample_rate, on_levels)
    try:
        with (
            suppress(KeyboardInterrupt),
            sounddevice.Stream(
                samplerate=stream.sample_rate, blocksize=block, channels=(1, channels), dtype="float32"
            ) as sound,
        ):
            while True:
                taken, _ = sound.read(block)
                made = np.atleast_2d(stream.push(taken[:, 0]))
                meter.add(made)
                played = made if speaker is None else made[speaker - 1 : speaker]
                sound.write(np.ascontiguousarray(played.T))
    except sounddevice.PortAudioError as error:
        raise UnmingleError(
            f"The sound devices cannot be used ({error}); check microphone and loudspeaker."
        ) from error


class _Meter:
    """Reports the levels of several signals about ten times per second."""

    def __init__(
        self, signals: int, sample_rate: int, on_levels: Callable[[list[float]], None] | None
    ) -> None:
        self._size, self._tell = sample_rate // 10, on_levels
        self._power, self._count = np.zeros(signals), 0

    def add(self, audio: Samples) -> None:
        """Add samples ``(signals, samples)``."""
        if self._tell is None:
            return
        self._power += np.square(audio, dtype=np.float64).sum(axis=1)
        self._count += audio.shape[1]
        if self._count >= self._size:
            levels = 10 * np.log10(np.maximum(self._power / self._count, 1e-10))
            self._tell([float(level) for level in levels])
            self._power, self._count = np.zeros(len(audio)), 0
