"""Decode a corpus once into a compact cache, so that training does not wait for decoders."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import active_level, is_constant, read_audio, resample, to_mono
from unmingle.data.corpora import Utterance, state_of
from unmingle.errors import UnmingleError
from unmingle.temporary import refusal, replace_files, taking_turns, temporary_folder
from unmingle.workers import worker_pool

_log = logging.getLogger(__name__)

_PEAK = 0.95
_INDEX = "index.npz"
_NAMED = 10
"""Maximum number of silent files named in the warning."""


class DecodedSpeech:
    """Utterances as 16-bit samples in one memory-mapped file, each with its active level.

    Every utterance is scaled to a common peak before rounding. The original level does not matter,
    because mixing sets the active level.

    Attributes:
        silent: indices of silent utterances. Their level is 0, and no mixture contains them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = np.load(folder / _INDEX)
        self._offsets: NDArray[np.int64] = index["offsets"]
        self._levels: NDArray[np.float32] = index["levels"]
        self._samples = np.load(folder / "samples.npy", mmap_mode="r")
        self.silent = frozenset(map(int, np.flatnonzero(self._levels == 0.0)))

    def __len__(self) -> int:
        return len(self._levels)

    def __reduce__(self) -> tuple[type[DecodedSpeech], tuple[Path]]:
        # Worker processes map the same file instead of receiving a copy.
        return DecodedSpeech, (self._folder,)

    def length(self, index: int) -> int:
        """Number of samples of one utterance."""
        return int(self._offsets[index + 1] - self._offsets[index])

    def level(self, index: int) -> float:
        """Active level of one utterance, as the root mean square of its active frames."""
        return float(self._levels[index])

    def read(self, index: int, start: int, length: int) -> NDArray[np.float32]:
        """``length`` samples of one utterance from ``start`` on: ``(length,)``."""
        first = int(self._offsets[index]) + start
        return np.asarray(self._samples[first : first + length], dtype=np.float32) / 32768.0


class JoinedSpeech:
    """The utterances of several caches, one after the other."""

    def __init__(self, parts: Sequence[DecodedSpeech]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        starts = [0, *self._ends]
        self.silent = frozenset(
            start + place for start, part in zip(starts, parts, strict=False) for place in part.silent
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def length(self, index: int) -> int:
        """Number of samples of one utterance."""
        part, place = self._find(index)
        return part.length(place)

    def level(self, index: int) -> float:
        """Active level of one utterance."""
        part, place = self._find(index)
        return part.level(place)

    def read(self, index: int, start: int, length: int) -> NDArray[np.float32]:
        """``length`` samples of one utterance from ``start`` on: ``(length,)``."""
        part, place = self._find(index)
        return part.read(place, start, length)

    def _find(self, index: int) -> tuple[DecodedSpeech, int]:
        number = bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)


class PickedSpeech:
    """Some utterances of a corpus, with their indices in the whole corpus.

    Args:
        speech: the utterances.
        indices: of these utterances in the corpus, in the same order.
        silent: indices of utterances of the corpus that are known to be silent.
    """

    def __init__(self, speech: DecodedSpeech, indices: Sequence[int], silent: Collection[int] = ()) -> None:
        self._speech, self._places = speech, {index: place for place, index in enumerate(indices)}
        self.silent = frozenset(silent)

    def length(self, index: int) -> int:
        """Number of samples of one utterance."""
        return self._speech.length(self._places[index])

    def level(self, index: int) -> float:
        """Active level of one utterance."""
        return self._speech.level(self._places[index])

    def read(self, index: int, start: int, length: int) -> NDArray[np.float32]:
        """``length`` samples of one utterance from ``start`` on: ``(length,)``."""
        return self._speech.read(self._places[index], start, length)


Speech = DecodedSpeech | PickedSpeech | JoinedSpeech
"""Decoded utterances, by their indices."""


def is_decoded(utterances: Sequence[Utterance], sample_rate: int, cache: Path | None = None) -> bool:
    """Whether the cache that :func:`decode` opens exists already."""
    return (_folder(utterances, sample_rate, cache) / _INDEX).is_file()


def _folder(utterances: Sequence[Utterance], sample_rate: int, cache: Path | None) -> Path:
    root = cache or default_cache_folder()
    return root / f"speech-{sample_rate}-{_fingerprint(utterances, sample_rate)}"


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/unmingle``, or ``~/.cache/unmingle``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmingle"


def decode(
    utterances: Sequence[Utterance],
    sample_rate: int,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DecodedSpeech:
    """Decode and resample ``utterances`` into a cache, or open the cache if it exists.

    The name of the cache is a hash of paths, sizes, modification times and rate. It appears when it is complete.
    A warning names silent files when the cache is made. Processes of one machine that ask for the same cache wait for
    the first, which decodes.

    Raises:
        UnmingleError: a file cannot be read or is empty, or the cache cannot be written.
    """
    folder = _folder(utterances, sample_rate, cache)
    paths = [one.path for one in utterances]
    fill_once(folder, lambda partial_folder: _decode_into(partial_folder, paths, sample_rate, on_progress))
    return DecodedSpeech(folder)


def fill_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder of decoded speech in the cache, complete or not at all.

    Processes of one machine that ask for the same folder wait for the first, which fills it.

    Args:
        folder: to make, unless it is there.
        fill: writes decoded speech, see :func:`write_decoded`, into the folder it is given.

    Raises:
        UnmingleError: the cache cannot be written.
    """
    if (folder / _INDEX).is_file():
        return
    try:
        with taking_turns(folder):
            if (folder / _INDEX).is_file():
                return
            with temporary_folder(folder) as partial_folder:
                fill(partial_folder)
                if not (folder / _INDEX).is_file():  # Another machine may have finished first.
                    shutil.rmtree(folder, ignore_errors=True)
                    partial_folder.rename(folder)
    except OSError as error:
        if not (folder / _INDEX).is_file():
            raise cache_refusal(folder, error) from error


def _decode_into(
    folder: Path, paths: Sequence[Path], sample_rate: int, on_progress: Callable[[int, int], None] | None
) -> None:
    silent: list[Path] = []

    def checked(
        found: Iterable[tuple[NDArray[np.int16], float]],
    ) -> Iterator[tuple[NDArray[np.int16], float]]:
        for done, (path, (samples, level)) in enumerate(zip(paths, found, strict=True), start=1):
            if not len(samples):
                raise UnmingleError(f"{path} has no sample at {sample_rate} Hz; remove it from the corpus.")
            if level == 0.0:
                silent.append(path)
            yield samples, level
            if on_progress:
                on_progress(done, len(paths))

    with worker_pool() as pool:
        write_decoded(
            folder, checked(pool.map(partial(decode_file, sample_rate=sample_rate), paths, chunksize=16))
        )
    if silent:
        names = ", ".join(str(path) for path in silent[:_NAMED]) + (" ..." if len(silent) > _NAMED else "")
        _log.warning("%d of %d files are silent and are skipped: %s", len(silent), len(paths), names)


def write_decoded(folder: Path, utterances: Iterable[tuple[NDArray[np.int16], float]]) -> None:
    """Write what :class:`DecodedSpeech` reads.

    Args:
        folder: an existing one.
        utterances: samples and level of each, as :func:`decode_file` returns them; one at least.
    """
    lengths: list[int] = []
    levels: list[float] = []
    raw = folder / "raw"
    with raw.open("wb") as file:
        for samples, level in utterances:
            file.write(samples.tobytes())
            lengths.append(len(samples))
            levels.append(level)
    with (folder / "samples.npy").open("wb") as file:
        np.save(file, np.memmap(raw, dtype=np.int16, mode="r"))
    raw.unlink()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    with (folder / _INDEX).open("wb") as file:
        np.savez(file, offsets=offsets, levels=np.array(levels, dtype=np.float32))


def save_in_cache(contents: Sequence[tuple[Path, bytes | memoryview]]) -> None:
    """Write files into the cache. Either all appear, or none.

    Raises:
        UnmingleError: the cache cannot be written.
    """
    try:
        replace_files(contents)
    except UnmingleError as error:
        if isinstance(error.__cause__, OSError):
            raise cache_refusal(contents[0][0], error.__cause__) from error
        raise


def cache_refusal(path: Path, error: OSError) -> UnmingleError:
    """The error for a cache that cannot be written."""
    return refusal(
        path,
        error,
        "this is the cache: free some space, or set the variable XDG_CACHE_HOME to another folder",
    )


def decode_file(path: Path, sample_rate: int) -> tuple[NDArray[np.int16], float]:
    """Samples ``(samples,)`` of a file at a rate, and their active level; the level of a silent file is 0.

    Raises:
        UnmingleError: it cannot be read.
    """
    recording = read_audio(path)
    mono = to_mono(recording.samples)
    if is_constant(mono):
        return np.zeros(mono.shape, dtype=np.int16), 0.0
    samples = resample(mono, recording.sample_rate, sample_rate)
    samples = samples * (_PEAK / max(float(np.abs(samples).max(initial=0.0)), 1e-9))
    return np.round(samples * 32767.0).astype(np.int16), active_level(samples, sample_rate)


def _fingerprint(utterances: Sequence[Utterance], sample_rate: int) -> str:
    digest = hashlib.sha256(str(sample_rate).encode())
    for utterance in utterances:
        size, changed = state_of(utterance)
        digest.update(f"{utterance.path.resolve()}|{(size, changed)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
