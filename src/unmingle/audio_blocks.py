"""Write audio files block by block, so that memory does not depend on the length."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from unmingle.audio import OUTPUT_FORMATS, Samples, check_format, zero_time_stamp
from unmingle.errors import UnmingleError
from unmingle.temporary import Replacement, refusal

_HEADER_BYTES = 128
_MOST_WAV_BYTES = 4_000_000_000
"""Larger sizes do not fit into a WAV header. RF64 is WAV with 64-bit sizes."""


class AudioWriter:
    """Writes a file block by block under a temporary name, and renames it when it is complete.

    Use it as a context manager: after an error, no file is left. Samples beyond full scale are clipped if the
    format cannot hold them.

    Args:
        path: of the file.
        sample_rate: in hertz.
        channels: number of channels.
        name: of the format.
        bits: per sample (default: that of the format).
        seconds: approximate length of the audio: WAV files above 4 GB become RF64.

    Raises:
        UnmingleError: the format cannot hold this audio, or the file cannot be written.
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
        self._closed = False
        self.clipped = 0
        """Number of samples beyond full scale."""

    def __enter__(self) -> AudioWriter:
        try:
            self._disk = _Disk(Replacement(self._path))
        except OSError as error:
            raise refusal(self._path, error) from error
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
            self._disk.replacement.keep()
        except OSError as refused:
            self._abandon()
            raise refusal(self._path, refused) from refused

    def close(self) -> None:
        """Complete the file under its temporary name. It is renamed at the end of the context.

        To write several files atomically, close all of them first: then either all appear, or none.

        Raises:
            UnmingleError: the file cannot be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._file.close()
            self._check()
            self._disk.stamp(self._format)
        except OSError as refused:
            self._abandon()
            raise refusal(self._path, refused) from refused

    def _check(self) -> None:
        error = self._disk.error
        if error is None:
            return
        self._abandon(close=True)
        if isinstance(error, OSError):
            raise refusal(self._path, error) from error
        raise error

    def _abandon(self, *, close: bool = False) -> None:
        if close:
            self._file.close()
        self._disk.replacement.drop()


class _Disk:
    """A file for the encoder. It stores the error of a full disk, which the encoder does not report."""

    def __init__(self, replacement: Replacement) -> None:
        self.replacement, self.file = replacement, replacement.file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.replacement.write(data)
            except BaseException as error:  # Ctrl-C would be lost inside the encoder too.
                self.error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def stamp(self, name: str) -> None:
        """Set the time in the header to zero, so that the same audio gives the same bytes."""
        self.file.seek(0)
        header = bytearray(self.file.read(_HEADER_BYTES))
        zero_time_stamp(memoryview(header), name)
        self.file.seek(0)
        self.file.write(header)
