"""Read and write audio files block by block, so that an hour needs no more memory than a minute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from unmingle.audio import (
    CONTAINER_SUFFIXES,
    OUTPUT_FORMATS,
    Declared,
    Samples,
    check_format,
    check_rate,
    read_audio,
    read_header,
    wav_data_is_cut,
    zero_time_stamp,
)
from unmingle.errors import UnmingleError

_WHOLE_SUFFIXES = (".mp3", *CONTAINER_SUFFIXES)
"""Formats that lose samples, or cannot be read at all, in several calls."""
_HEADER_BYTES = 128
_PIECE = 1 << 12
_MOST_WAV_BYTES = 4_000_000_000
"""Beyond it the sizes in a WAV header do not fit; RF64 is WAV with larger ones."""


def must_be_decoded_whole(path: Path) -> bool:
    """Whether a file's format cannot be read block by block."""
    return path.suffix.lower() in _WHOLE_SUFFIXES


class Blocks:
    """A recording, to be gone through once in blocks ``(channels, samples)``.

    MP3, m4a and their like are decoded as a whole first. A file that ends early gives what is there, and
    a warning.

    Args:
        path: of the file.
        seconds: length of a block.

    Raises:
        UnmingleError: as :func:`~unmingle.audio.read_audio`; NaN is found when its block is read.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._whole = path, None
        header = read_header(path)
        if header is None or must_be_decoded_whole(path):
            recording = read_audio(path)
            self._whole = recording.samples
            seconds_there = recording.samples.shape[1] / recording.sample_rate
            header = Declared(seconds_there, recording.sample_rate, len(recording.samples))
            self.warning = recording.warning
        else:
            check_rate(path, header.sample_rate)
            early = f"{path.name} ends early; what is there was used"
            self.warning = early if wav_data_is_cut(path) else None
        self.sample_rate, self.channels = header.sample_rate, header.channels
        """In hertz; how many."""
        self.seconds = header.seconds
        """By the header."""
        self._size = max(1, round(seconds * self.sample_rate))

    def __iter__(self) -> Iterator[Samples]:
        if self._whole is not None:
            for start in range(0, self._whole.shape[1], self._size):
                yield self._whole[:, start : start + self._size]
            return
        with soundfile.SoundFile(str(self._path.absolute())) as file:
            ended = False
            while not ended:
                pieces, wanted = [], self._size
                # In small pieces: where a file is damaged, a whole block would be lost.
                while wanted and not ended:
                    try:
                        piece = file.read(min(wanted, _PIECE), dtype="float32", always_2d=True)
                    except soundfile.LibsndfileError:
                        self.warning = f"{self._path.name} is damaged; what comes before the damage was used"
                        piece = np.zeros((0, self.channels), dtype=np.float32)
                    ended = not len(piece)
                    wanted -= len(piece)
                    pieces.append(piece)
                block = np.concatenate(pieces)
                if not len(block):
                    return
                if not np.isfinite(block).all():
                    raise UnmingleError(
                        f"{self._path} holds samples that are NaN or infinite; export it again."
                    )
                yield np.ascontiguousarray(block.T)


class AudioWriter:
    """Writes a file block by block under a temporary name, and gives it its own name when it is complete.

    Used as a context: what ends in an error leaves nothing behind. Samples beyond full scale are clipped
    where the format cannot hold them.

    Args:
        path: of the file.
        sample_rate: in hertz.
        channels: how many.
        name: of the format.
        bits: a sample; the format's default if not given.
        seconds: roughly how long the audio will be: from 4 GB on, WAV becomes RF64.

    Raises:
        UnmingleError: the format cannot hold such audio, or the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        name: str,
        bits: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._path = path
        large = 4.0 * seconds * sample_rate * channels > _MOST_WAV_BYTES
        self._container = "RF64" if name == "wav" and large else None
        self._subtype = check_format(name, sample_rate, bits)
        self._rate, self._channels, self._format = sample_rate, channels, name
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._made_folder = self._closed = False
        self.clipped = 0
        """Samples that were beyond full scale."""

    def __enter__(self) -> AudioWriter:
        try:
            self._made_folder = not self._path.parent.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = _Disk(self._partial)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            container = self._container or OUTPUT_FORMATS[self._format][0]
            self._file = soundfile.SoundFile(
                self._disk, "w", self._rate, self._channels, self._subtype, format=container
            )
        except (soundfile.LibsndfileError, RuntimeError) as error:
            self._abandon()
            raise UnmingleError(
                f"{self._format} cannot hold {self._channels} channels at {self._rate} Hz; write wav instead."
            ) from error
        return self

    def write(self, block: Samples) -> None:
        """Add ``(channels, samples)``."""
        if self._subtype != "FLOAT":
            self.clipped += int((np.abs(block) > 1.0).sum())
            block = block.clip(-1.0, 1.0)
        # One call with a long block overflows the Vorbis encoder's stack.
        for start in range(0, block.shape[1], 1 << 16):
            self._file.write(block[:, start : start + (1 << 16)].T)
        self._check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon(close=True)
            return
        self.close()
        try:
            self._partial.replace(self._path)
        except OSError as refused:
            self._abandon()
            raise self._refusal(refused) from refused

    def close(self) -> None:
        """Complete the file under its temporary name; it gets its own name at the end of the context.

        Who writes several files closes them all first: then all appear, or none.

        Raises:
            UnmingleError: the disk refuses.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._file.close()
            self._check()
            self._disk.stamp(self._format)
            self._disk.file.close()
        except OSError as refused:
            self._abandon()
            raise self._refusal(refused) from refused

    def _check(self) -> None:
        error = self._disk.error
        if error is None:
            return
        self._abandon(close=True)
        if isinstance(error, OSError):
            raise self._refusal(error) from error
        raise error

    def _abandon(self, *, close: bool = False) -> None:
        if close:
            self._file.close()
        self._disk.file.close()
        self._partial.unlink(missing_ok=True)
        if self._made_folder:
            with suppress(OSError):  # Something else is in it by now.
                self._path.parent.rmdir()

    def _refusal(self, error: OSError) -> UnmingleError:
        reason = (error.strerror or str(error)).lower()
        return UnmingleError(f"{self._path} cannot be written ({reason}); choose another folder with -o.")


class _Disk:
    """A file for the encoder, which does not tell when the disk is full: the error is kept."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: a buffer would meet the full disk in a seek, where the encoder cannot be stopped.
        self.file = path.open("w+b", buffering=0)
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while self.error is None and rest:
            try:
                rest = rest[self.file.write(rest) or 0 :]
            except BaseException as error:  # Ctrl-C too would be lost inside the encoder.
                self.error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def stamp(self, name: str) -> None:
        """Take the time of day out of the header: the same audio must be the same bytes."""
        self.file.seek(0)
        header = bytearray(self.file.read(_HEADER_BYTES))
        zero_time_stamp(memoryview(header), name)
        self.file.seek(0)
        self.file.write(header)
