"""Decode a corpus once into a compact cache, so that training never waits for a decoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import active_level, read_audio, resample, to_mono
from unmingle.data.corpora import Utterance
from unmingle.errors import UnmingleError

_PEAK = 0.95


class DecodedSpeech:
    """Utterances as 16-bit samples in one memory-mapped file, each with its active level.

    Every utterance is scaled to a common peak before it is rounded: absolute levels of speech
    files mean nothing, because mixing sets the active level anew.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = np.load(folder / "index.npz")
        self._offsets: NDArray[np.int64] = index["offsets"]
        self._levels: NDArray[np.float32] = index["levels"]
        self._samples = np.load(folder / "samples.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._levels)

    def __reduce__(self) -> tuple[type[DecodedSpeech], tuple[Path]]:
        # Worker processes map the same file instead of receiving a copy of it.
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


class PickedSpeech:
    """Some utterances of a corpus under the indices that they have in the whole of it."""

    def __init__(self, speech: DecodedSpeech, indices: Sequence[int]) -> None:
        self._speech, self._places = speech, {index: place for place, index in enumerate(indices)}

    def length(self, index: int) -> int:
        """Number of samples of one utterance."""
        return self._speech.length(self._places[index])

    def level(self, index: int) -> float:
        """Active level of one utterance."""
        return self._speech.level(self._places[index])

    def read(self, index: int, start: int, length: int) -> NDArray[np.float32]:
        """``length`` samples of one utterance from ``start`` on: ``(length,)``."""
        return self._speech.read(self._places[index], start, length)


def is_decoded(utterances: Sequence[Utterance], sample_rate: int, cache: Path | None = None) -> bool:
    """Whether :func:`decode` would only open its cache."""
    return (_folder(utterances, sample_rate, cache) / "index.npz").is_file()


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
    """Decode and resample ``utterances``, or open the cache where that has been done before.

    The cache is named by the hash of paths, sizes, modification times and rate; it is written
    under a temporary name and renamed when it is complete.

    Raises:
        UnmingleError: a file cannot be read, or holds no sample.
    """
    folder = _folder(utterances, sample_rate, cache)
    if (folder / "index.npz").is_file():
        return DecodedSpeech(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[int] = []
    levels: list[float] = []
    raw = folder / f"samples.{os.getpid()}.partial"
    with ProcessPoolExecutor() as pool, raw.open("wb") as file:
        paths = [utterance.path for utterance in utterances]
        for samples, level in pool.map(partial(_decode_one, sample_rate=sample_rate), paths, chunksize=16):
            if not len(samples):
                raise UnmingleError(
                    f"{paths[len(lengths)]} holds no sample at {sample_rate} Hz; leave it out of the corpus."
                )
            file.write(samples.tobytes())
            lengths.append(len(samples))
            levels.append(level)
            if on_progress:
                on_progress(len(lengths), len(paths))
    flat = np.memmap(raw, dtype=np.int16, mode="r")
    np.save(folder / f"{os.getpid()}.partial.npy", flat)
    raw.unlink()
    (folder / f"{os.getpid()}.partial.npy").rename(folder / "samples.npy")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    np.savez(
        folder / f"{os.getpid()}.partial.npz", offsets=offsets, levels=np.array(levels, dtype=np.float32)
    )
    (folder / f"{os.getpid()}.partial.npz").rename(folder / "index.npz")
    return DecodedSpeech(folder)


def _decode_one(path: Path, sample_rate: int) -> tuple[NDArray[np.int16], float]:
    recording = read_audio(path)
    samples = resample(to_mono(recording.samples), recording.sample_rate, sample_rate)
    samples = samples * (_PEAK / max(float(np.abs(samples).max(initial=0.0)), 1e-9))
    return np.round(samples * 32767.0).astype(np.int16), active_level(samples, sample_rate)


def _fingerprint(utterances: Sequence[Utterance], sample_rate: int) -> str:
    digest = hashlib.sha256(str(sample_rate).encode())
    for utterance in utterances:
        stat = utterance.path.stat() if utterance.path.exists() else None
        state = (stat.st_size, int(stat.st_mtime)) if stat else None
        digest.update(f"{utterance.path.resolve()}|{state}\n".encode())
    return digest.hexdigest()[:16]
