"""WSJ0-2mix and WSJ0-3mix, made from the WSJ0 corpus and the lists that define them.

Hershey, Chen, Le Roux and Watanabe, "Deep clustering: Discriminative embeddings for segmentation and separation"
(ICASSP 2016), gave lists (``mix_2_spk_tr.txt`` and the like) and MATLAB scripts. This module follows the scripts:

- every utterance is divided by its active level, measured at 8 kHz (`unmingle.data.speech_level.wsj0_mix_level`)
  even for output at 16 kHz, and weighted by the decibels in the list;
- utterances are cut to the shortest (``min``) or zero-padded to the longest (``max``) and added;
- at each rate, one factor for all files scales the largest sample of mixture and sources to 0.9;
- files have 16 bits per sample and are rounded independently: the sources add up to the mixture within 2 in 32768.

Differences: rounding differs, so a sample may be off by one in 32768, and ``scaling.mat`` is not written. The code
follows the definitions of the MATLAB functions; MATLAB was not run to compare.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmingle import __version__
from unmingle.audio import read_audio
from unmingle.data.mixture_jobs import check_new, is_complete, write_mixtures
from unmingle.data.speech_level import halve_rate, wsj0_mix_level
from unmingle.errors import UnmingleError, reason
from unmingle.shares import Share
from unmingle.temporary import replace_files

CORPUS_RATE = 16000
"""Sample rate of WSJ0 in hertz."""
PEAK = 0.9
_SUFFIXES = (".wav", ".wv1")
"""Recordings of the close microphone. Those of the far one have the suffix .wv2 and are not used."""

_LOUDEST_DB = 100.0

Mode = Literal["min", "max"]
Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Entry:
    """One mixture of a list."""

    paths: tuple[str, ...]
    """One per speaker, as in the list."""
    levels_db: tuple[float, ...]
    """One per speaker."""
    line: int
    """Line number in the list, from 1."""

    @property
    def name(self) -> str:
        """``01aa010b_0.97482_209a010p_-0.97482``: the file's name in the original data, without suffix."""
        return "_".join(
            f"{PurePosixPath(path).stem}_{_number(level)}"
            for path, level in zip(self.paths, self.levels_db, strict=True)
        )


def _number(value: float) -> str:
    """Format a number as MATLAB's ``num2str``: five significant digits, and one more from 10."""
    digits = math.floor(math.log10(abs(value))) + 5 if value else 5
    return f"{value + 0.0:.{max(digits, 5)}g}"


def read_list(path: Path) -> list[Entry]:
    """The mixtures of a list. Each line has a path and its decibels for two or more speakers.

    Raises:
        UnmingleError: the list does not exist or is empty, or a line is malformed or repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UnmingleError(f"{path} is not a list of mixtures: it is not text in UTF-8.") from error
    except OSError as error:
        raise UnmingleError(f"The list {path} cannot be read ({reason(error)}).") from error
    entries = [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not entries:
        raise UnmingleError(f"The list {path} is empty; there is nothing to mix.")
    seen: dict[str, int] = {}
    for entry in entries:
        if len(entry.paths) != len(entries[0].paths):
            raise UnmingleError(
                f"Line {entry.line} of {path} has {len(entry.paths)} speakers and line {entries[0].line} has "
                f"{len(entries[0].paths)}; all lines of a list need the same number."
            )
        if seen.setdefault(entry.name, entry.line) != entry.line:
            raise UnmingleError(f"Line {entry.line} of {path} repeats line {seen[entry.name]}; remove one.")
    return entries


def _parse(path: Path, number: int, line: str) -> Entry:
    fields = line.split()
    paths = tuple(field.replace("\\", "/") for field in fields[::2])
    try:
        levels = tuple(float(field) for field in fields[1::2])
    except ValueError:
        levels = ()
    if (
        len(paths) < 2
        or len(levels) != len(paths)
        or not all(abs(level) <= _LOUDEST_DB for level in levels)
        or any(PurePosixPath(each).suffix.lower() not in _SUFFIXES for each in paths)
    ):
        raise UnmingleError(
            f"Line {number} of {path} must be PATH.wav DECIBELS PATH.wav DECIBELS ..., "
            f"for two speakers or more; it is {line.strip()[:120]!r}."
        )
    return Entry(paths, levels, number)


def mix(
    utterances: Sequence[Signal], levels: Sequence[float], levels_db: Sequence[float], mode: Mode
) -> tuple[Signal, Signal]:
    """Mixture ``(samples,)`` and sources ``(sources, samples)``, computed as in the scripts.

    Args:
        utterances: one ``(samples,)`` per speaker.
        levels: active levels to divide by, none of them 0.
        levels_db: new level of each speaker in dB.
        mode: ``min`` cuts to the shortest utterance, ``max`` zero-pads to the longest.
    """
    lengths = [len(utterance) for utterance in utterances]
    sources = np.zeros((len(utterances), min(lengths) if mode == "min" else max(lengths)))
    for source, utterance, level, decibels in zip(sources, utterances, levels, levels_db, strict=True):
        kept = utterance[: len(source)]
        source[: len(kept)] = kept * (10 ** (decibels / 20) / level)
    mixture = sources.sum(axis=0)
    peak = max(np.abs(mixture).max(), np.abs(sources).max())
    # The peak is 0 only if `min` leaves nothing but leading zeros.
    scale = PEAK / peak if peak > 0 else 1.0
    return scale * mixture, scale * sources


def write_wsj0_mix(
    list_path: Path,
    root: Path,
    folder: Path,
    sample_rate: int = 8000,
    mode: Mode = "min",
    on_progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
    share: Share | None = None,
) -> bool:
    """Write all mixtures of a list, as :func:`~unmingle.data.mixture_jobs.write_mixtures` does.

    Args:
        list_path: such as ``mix_2_spk_tt.txt``.
        root: the folder that contains WSJ0, or ``wsj0`` itself, with .wav or .wv1 files.
        folder: gets ``mix/``, ``s1/``, ``s2/`` and so on, ``mixtures.csv`` and ``recipe.json``.
        sample_rate: 8000 or 16000, in hertz.
        mode: ``min`` or ``max``.
        on_progress: called with the number of mixtures that are done and the total.
        processes: number of worker processes (default: one per core).
        share: write only these mixtures.

    Returns:
        Whether the folder is complete; if not, mixtures of other shares are missing.

    Raises:
        UnmingleError: the list or an utterance cannot be used, the folder is not empty, or the disk is full.
    """
    if sample_rate not in (CORPUS_RATE // 2, CORPUS_RATE):
        raise UnmingleError(f"WSJ0-mix has the rates 8000 and 16000 Hz, not {sample_rate} Hz.")
    entries, folder = read_list(list_path), folder.absolute()
    recipe = {
        "version": __version__,
        "list": list_path.name,
        "list_sha256": hashlib.sha256(list_path.read_bytes()).hexdigest(),
        "speakers": len(entries[0].paths),
        "sample_rate": sample_rate,
        "mode": mode,
    }
    text = json.dumps(recipe, indent=2)
    if share is not None and is_complete(folder, text):
        return True
    check_new(folder)
    files = _find_all(entries, root, list_path)
    job = _ListedMixtures(text, entries, files, sample_rate, mode)
    return write_mixtures(folder, job, on_progress, processes, share)


@dataclass(frozen=True)
class _ListedMixtures:
    """The mixtures of a list."""

    recipe: str
    entries: Sequence[Entry]
    files: dict[str, Path]
    """The file of every path in the list."""
    sample_rate: int
    mode: Mode
    levels: dict[str, float] = field(default_factory=dict)
    """Active levels of the utterances that this process has read."""

    @property
    def count(self) -> int:
        return len(self.entries)

    def plan(self) -> Any:
        return [
            self.recipe,
            [[wanted, os.fsdecode(path), path.stat().st_size] for wanted, path in sorted(self.files.items())],
        ]

    def write(self, folder: Path, index: int) -> dict[str, str]:
        entry = self.entries[index]
        utterances = [_read(self.files[path]) for path in entry.paths]
        halved = [halve_rate(utterance) for utterance in utterances]
        levels = [self._level(path, audio) for path, audio in zip(entry.paths, halved, strict=True)]
        chosen = utterances if self.sample_rate == CORPUS_RATE else halved
        mixture, sources = mix(chosen, levels, entry.levels_db, self.mode)
        parts = {"mix": mixture} | {f"s{number}": source for number, source in enumerate(sources, start=1)}
        replace_files(
            [
                (folder / part / f"{entry.name}.wav", _encode(audio, self.sample_rate))
                for part, audio in parts.items()
            ]
        )
        return _row(entry, len(mixture) / self.sample_rate)

    def card(self, folder: Path, rows: Sequence[dict[str, str]]) -> None:
        """None: the list defines the mixtures."""

    def _level(self, path: str, halved: Signal) -> float:
        if path not in self.levels:
            self.levels[path] = wsj0_mix_level(halved)
        if self.levels[path] == 0:
            raise UnmingleError(f"{self.files[path]} is silent; copy it again from the corpus.")
        return self.levels[path]


def _row(entry: Entry, seconds: float) -> dict[str, str]:
    row = {"name": entry.name}
    for number, (path, decibels) in enumerate(zip(entry.paths, entry.levels_db, strict=True), start=1):
        row |= {
            f"source_{number}": path,
            f"corpus_{number}": "wsj0",
            f"speaker_{number}": PurePosixPath(path).stem[:3],
            f"gender_{number}": "unknown",
            f"gain_db_{number}": f"{decibels:.4f}",
        }
    levels = entry.levels_db
    row["snr_db"] = f"{levels[0] - levels[1]:.4f}" if len(levels) == 2 else ""
    row["seconds"] = f"{seconds:.3f}"
    return row


def _encode(samples: Signal, sample_rate: int) -> memoryview:
    encoded = io.BytesIO()
    # Rounded here, because libsndfile scales by 32767 and the scripts scale by 32768.
    soundfile.write(encoded, np.rint(samples * 2**15).astype(np.int16), sample_rate, "PCM_16", format="WAV")
    buffer: memoryview = encoded.getbuffer()
    return buffer


def _find_all(entries: Sequence[Entry], root: Path, list_path: Path) -> dict[str, Path]:
    """The file of every path in the list; upper or lower case, .wav or .wv1, at any depth above ``si_tr_s``."""
    if not root.is_dir():
        raise UnmingleError(f"The folder {root} does not exist; name the one that holds WSJ0.")
    there: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in _audio_files(root):
        place = path.relative_to(root).with_suffix("").as_posix().lower()
        there[path.stem.lower()].append((f"/{place}", path))
    files: dict[str, Path] = {}
    for entry in entries:
        for wanted in entry.paths:
            place = f"/{PurePosixPath(wanted.lower()).with_suffix('')}"
            short = "/" + place.removeprefix("/").removeprefix("wsj0/")
            candidates = [
                (not found.endswith(place), path.suffix.lower() != ".wav", len(found), path)
                for found, path in there[PurePosixPath(place).name]
                if found.endswith(short)
            ]
            if not candidates:
                raise UnmingleError(
                    f"Line {entry.line} of {list_path} needs {wanted}, but {root} has no such .wav or .wv1 file."
                )
            files[wanted] = min(candidates)[-1]
    return files


def _audio_files(root: Path) -> list[Path]:
    """All .wav and .wv1 files under a folder. Links are followed, because discs are often linked into one folder."""
    found, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        visited.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) not in visited]
        found += [Path(folder, name) for name in names if name.lower().endswith(_SUFFIXES)]
    return found


def _read(path: Path) -> Signal:
    """An utterance of WSJ0 ``(samples,)``."""
    with suppress(OSError), path.open("rb") as file:
        header = file.read(1024)
        packed = re.search(rb"sample_coding[^\n]*embedded-([a-z]+)", header)
        if header.startswith(b"NIST_1A") and packed:
            raise UnmingleError(
                f"{path} is compressed with {packed[1].decode()}, which cannot be read here; "
                "convert it first: sph2pipe -f wav IN.wv1 OUT.wav"
            )
    recording = read_audio(path)
    if recording.sample_rate != CORPUS_RATE or len(recording.samples) != 1:
        raise UnmingleError(
            f"{path} has {len(recording.samples)} channels at {recording.sample_rate} Hz; "
            f"WSJ0 has one channel at {CORPUS_RATE} Hz."
        )
    if recording.warning:
        raise UnmingleError(f"{recording.warning}; copy {path} again from the corpus.")
    samples: Signal = recording.samples[0].astype(np.float64)
    return samples
