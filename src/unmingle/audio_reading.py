"""Read audio files of any format that libsndfile or PyAV supports, whole or block by block, from one open file.

Problems that do not prevent reading are warnings in the result.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np

from unmingle.audio_containers import Layout, inspect
from unmingle.audio_decoders import AvDecoder, SndfileDecoder
from unmingle.errors import UnmingleError, reason
from unmingle.samples import Samples, check_rate, check_samples, is_constant

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A decoded file."""

    samples: Samples
    """``(channels, samples)``."""
    sample_rate: int
    """In hertz."""
    warnings: tuple[str, ...] = ()
    """Problems that did not prevent reading."""

    @property
    def warning(self) -> str | None:
        """The warnings in one line, or None."""
        return "; ".join(self.warnings) or None


@dataclass(frozen=True)
class Declared:
    """Facts from a file's header, before decoding."""

    seconds: float
    sample_rate: int
    channels: int


class AudioFile:
    """An open recording that is read in blocks. Use it as a context manager to close it.

    The file is opened once, so a file that is replaced during reading does not mix with its replacement.

    Args:
        path: of the file; a pipe is read to its end first.
        track: which of several audio tracks, from 1 on (default: the first, with a warning).

    Raises:
        UnmingleError: no such file, not audio, no such track, or a rate below 1 kHz.
    """

    def __init__(self, path: Path | str, track: int | None = None) -> None:
        self.path = Path(path)
        self._warnings: list[str] = []
        self._silent, self._samples = True, 0
        self._closing = ExitStack()
        try:
            self._file = self._closing.enter_context(_open(self.path))
            self._state = _state(self._file.fileno())
            layout = inspect(self._file)
            self._decoder: SndfileDecoder | AvDecoder = self._decode(layout, track)
            self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
            """Sample rate in hertz, and number of channels."""
            self.seconds = self._decoder.seconds
            """Length from the header in seconds; None if it is unknown."""
            check_rate(self.path, self.sample_rate)
        except UnmingleError:
            self._closing.close()
            raise
        except OSError as error:
            self._closing.close()
            raise UnmingleError(f"{self.path} cannot be read ({reason(error)}).") from error
        except Exception as error:
            self._closing.close()
            raise self._unreadable(error) from error

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems of the file; complete when the file has been read to its end."""
        found = list(self._warnings)
        if self._samples and self._silent:
            found.append("is silent")
        return tuple(f"{self.path.name} {text}" for text in dict.fromkeys(found))

    def blocks(self, size: int) -> Iterator[Samples]:
        """All blocks, ``(channels, samples)`` with ``size`` samples each; the last may be shorter.

        Raises:
            UnmingleError: the file cannot be decoded, or has samples that are not finite or beyond 1e10.
        """
        parts: list[Samples] = []
        waiting = 0
        self._silent, self._samples = True, 0
        for part in self._parts():
            parts.append(part)
            waiting += part.shape[1]
            if waiting >= size:
                joined = np.concatenate(parts, axis=1)
                while joined.shape[1] >= size:
                    yield np.ascontiguousarray(joined[:, :size])
                    joined = joined[:, size:]
                parts, waiting = [joined], joined.shape[1]
        if waiting:
            yield np.ascontiguousarray(np.concatenate(parts, axis=1))

    def _parts(self) -> Iterator[Samples]:
        parts = self._decoder.parts()
        while True:
            try:
                part = next(parts, None)
            except Exception as error:
                if not self._samples:
                    raise self._unreadable(error) from error
                _log.debug("%s is damaged", self.path, exc_info=True)
                self._warnings.append(
                    f"ends early or is damaged after {self._samples / self.sample_rate:.2f} s; "
                    "the part before that was used"
                )
                break
            if part is None:
                self._check_end()
                break
            check_samples(part, str(self.path))
            self._silent = self._silent and is_constant(part)
            self._samples += part.shape[1]
            yield part

    def _check_end(self) -> None:
        lost = (self.seconds or 0.0) - self._samples / self.sample_rate
        if lost > self._decoder.tolerance:
            self._warnings.append(
                f"ends early; the {self._samples / self.sample_rate:.2f} s that exist were used"
            )
        if _state(self._file.fileno()) != self._state:
            self._warnings.append("was changed while it was read; read it again when no program writes to it")

    def _decode(self, layout: Layout, track: int | None) -> SndfileDecoder | AvDecoder:
        try:
            decoder = self._closing.enter_context(SndfileDecoder(self._file.fileno(), layout))
        except Exception as error:
            _log.debug("libsndfile cannot read %s", self.path, exc_info=True)
            # An unsupported codec is not damage.
            malformed = not re.search(
                "recognised|unknown|unsupported|unimplemented|encoding", str(error).lower()
            )
        else:
            if track not in (None, 1):
                raise UnmingleError(f"{self.path} has one audio track; leave out the track number.")
            self._warnings += decoder.warnings
            for text in layout.warnings:
                self._warnings.append(f"{text}; the existing part was used" if text == "ends early" else text)
            return decoder
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise UnmingleError(
                f"{self.path} cannot be read as audio by libsndfile; PyAV may support it, install it with: "
                "pip install 'unmingle[media]'"
            ) from error
        tracks = self._closing.enter_context(AvDecoder(self._file, self.path, track))
        if len(layout.pieces) > 1:
            self._warnings.append(
                f"has {len(layout.pieces)} recordings joined into one; only the first was read"
            )
        elif "ends early" in layout.warnings:
            self._warnings.append("ends early; the existing part was used")
        if malformed:
            self._warnings.append("is malformed; the decodable part was used")
        if tracks.count > 1 and track is None:
            self._warnings.append(
                f"has {tracks.count} audio tracks; the first was used (--track names another)"
            )
        return tracks

    def _unreadable(self, error: Exception) -> UnmingleError:
        if isinstance(error, UnmingleError):
            return error
        _log.debug("%s cannot be read", self.path, exc_info=error)
        kind = self.path.suffix or "sound"
        return UnmingleError(f"{self.path} cannot be read as audio; is it really a complete {kind} file?")

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()


def read_audio(path: Path | str, track: int | None = None) -> Recording:
    """Decode a file: WAV, FLAC, OGG, MP3 and all other formats of libsndfile, and those of PyAV if installed.

    Args:
        path: of the file.
        track: which of several audio tracks, from 1 on (default: the first, with a warning).

    Raises:
        UnmingleError: no such file or track, not audio, no samples, samples that are not finite or beyond
            1e10, or a rate below 1 kHz.
    """
    with AudioFile(path, track) as file:
        parts = list(file._parts())
        if not parts:
            raise UnmingleError(f"{path} has 0 samples; there is nothing to read.")
        return Recording(np.ascontiguousarray(np.concatenate(parts, axis=1)), file.sample_rate, file.warnings)


def read_header(path: Path, track: int | None = None) -> Declared | None:
    """Length, rate and channels from the header; None if it does not contain them."""
    try:
        with AudioFile(path, track) as file:
            if file.seconds is None:
                return None
            return Declared(file.seconds, file.sample_rate, file.channels)
    except UnmingleError:
        return None


def _open(path: Path) -> FileIO:
    if path.is_dir():
        raise UnmingleError(f"{path} is a folder; give an audio file.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UnmingleError(f"{path} does not exist; check the name.") from None
    except ValueError as error:  # The name contains a NUL byte.
        raise UnmingleError(f"{str(path)!r} is not a possible file name; check it.") from error
    if stat.S_ISFIFO(mode):
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        with path.open("rb") as pipe:
            shutil.copyfileobj(pipe, file)
        return file
    if not stat.S_ISREG(mode):
        raise UnmingleError(f"{path} is not a file; give an audio file.")
    if path.stat().st_size == 0:
        raise UnmingleError(f"{path} is empty (0 bytes); there is nothing to read.")
    # Unbuffered, because libsndfile moves the descriptor and a buffer would not notice.
    return path.open("rb", buffering=0)


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
