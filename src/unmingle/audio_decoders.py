"""The two decoders of audio files: libsndfile, and FFmpeg through PyAV (the extra ``media``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from unmingle.audio_containers import Layout, View
from unmingle.errors import UnmingleError
from unmingle.samples import Samples

_BLOCK = 1 << 12
"""Samples per decoding step; damage in a file loses at most this many."""
_ENDS_EARLY_SECONDS = 0.5


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """Keeps soundfile from seeking after every read: MP3 would lose samples, and GSM cannot seek."""

    def seekable(self) -> bool:
        return False


class SndfileDecoder:
    """Decodes the pieces of a file with libsndfile, one after the other, at the first piece's rate and channels."""

    tolerance = 1e-3
    """Tolerance of the length in seconds: rounding when pieces have other rates."""

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor, self._layout = descriptor, layout
        self.warnings: list[str] = []
        frames = 0
        for number in range(len(layout.pieces)):
            with self._open(number) as file:
                if number == 0:
                    self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
                elif (file.samplerate, file.channels) != (self.sample_rate, self.channels):
                    self.warnings.append(
                        f"continues with {file.channels} channels at {file.samplerate} Hz, which were converted"
                    )
                known = 0 < file.frames < 2**62
                frames += int(file.frames * self.sample_rate / file.samplerate) if known else 0
        self.seconds: float | None = frames / self.sample_rate if frames else None

    def _open(self, number: int) -> soundfile.SoundFile:
        piece = self._layout.pieces[number]
        if len(self._layout.pieces) > 1 or piece.patches:
            return _Stream(View(self._descriptor, piece))
        # Opened by its descriptor, so that the name needs no translation and is never taken for an option.
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return _Stream(self._descriptor, closefd=False)

    def parts(self) -> Iterator[Samples]:
        for number in range(len(self._layout.pieces)):
            with self._open(number) as file:
                blocks = self._blocks(file)
                yield from blocks if file.samplerate == self.sample_rate else self._resampled(file, blocks)

    def _blocks(self, file: soundfile.SoundFile) -> Iterator[Samples]:
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            if block.shape[1] != self.channels:
                block = np.repeat(block.mean(axis=1, keepdims=True), self.channels, axis=1)
            yield np.asarray(block.T, dtype=np.float32)

    def _resampled(self, file: soundfile.SoundFile, blocks: Iterator[Samples]) -> Iterator[Samples]:
        # One stream for the whole piece: blocks that are resampled one by one have clicks between them.
        stream = soxr.ResampleStream(
            file.samplerate, self.sample_rate, self.channels, dtype="float32", quality="HQ"
        )
        for block in blocks:
            yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
        yield stream.resample_chunk(np.zeros((0, self.channels), dtype=np.float32), last=True).T

    def __enter__(self) -> SndfileDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Seekable:
    """A file for PyAV that refuses negative positions, which come from damaged headers, without a traceback."""

    def __init__(self, file: FileIO) -> None:
        file.seek(0)
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class AvDecoder:
    """Decodes one track of a file with PyAV."""

    tolerance = _ENDS_EARLY_SECONDS
    """Tolerance of the length in seconds: encoder padding makes the lengths of containers inexact."""

    def __init__(self, file: FileIO, path: Path, track: int | None) -> None:
        self._source = file, path, track
        self._gone_through = False
        self._open(file, path, track)

    def _open(self, file: FileIO, path: Path, track: int | None) -> None:
        import av

        # Titles may have any encoding. A playlist must not open other files or addresses.
        options = {"protocol_whitelist": "none"}
        opened: Any = av.open(_Seekable(file), metadata_errors="replace", options=options)
        self._container = opened
        try:
            audio = self._container.streams.audio
            self.count = len(audio)
            if not self.count:
                raise UnmingleError(f"{path} has no audio track; give a file with sound.")
            if track is not None and not 1 <= track <= self.count:
                raise UnmingleError(f"{path} has {self.count} audio tracks; there is no track {track}.")
            self._stream = audio[(track or 1) - 1]
            context = self._stream.codec_context
            self.sample_rate, self.channels = int(context.sample_rate), int(context.channels)
            if self.sample_rate < 1 or self.channels < 1:
                raise UnmingleError(f"{path} has an audio track that cannot be decoded.")
            self._resampler: Any = av.AudioResampler(
                format="fltp", layout=context.layout, rate=self.sample_rate
            )
            length, base = self._stream.duration, self._stream.time_base
            lengths = [float(length * base)] if length and base else []
            if self._container.duration:
                lengths.append(self._container.duration / av.time_base)
            # The lengths in AVI files are not reliable.
            self.seconds: float | None = min(lengths, default=None)
        except BaseException:
            self._container.close()
            raise

    def parts(self) -> Iterator[Samples]:
        if self._gone_through:
            # Not every container can seek, so the file is opened again.
            self._container.close()
            self._open(*self._source)
        self._gone_through = True
        for frame in self._container.decode(self._stream):
            yield from self._converted(frame)
        yield from self._converted(None)

    def _converted(self, frame: Any) -> Iterator[Samples]:
        for part in self._resampler.resample(frame):
            yield np.ascontiguousarray(part.to_ndarray(), dtype=np.float32)

    def __enter__(self) -> AvDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self._container.close()
