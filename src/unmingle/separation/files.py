"""Separate files: where outputs go, what they are called, and what is told of each."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from unmingle.audio import (
    CONTAINER_SUFFIXES,
    check_format,
    encode_audio,
    pick_channel,
    read_audio,
    read_header,
    replace_files,
)
from unmingle.errors import UnmingleError
from unmingle.models import DEFAULT_MODEL
from unmingle.separation.offline import Separation, Separator, Speakers, load

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", *CONTAINER_SUFFIXES)


@dataclass(frozen=True)
class Output:
    """How the estimates are written."""

    folder: Path = Path("separated")
    format: str = "wav"
    name: str = "{stem}_speaker{n}"
    """Template; ``{stem}`` is the input's name without its suffix, ``{n}`` counts speakers from 1."""
    bits: int | None = None
    overwrite: bool = False


@dataclass
class FileResult:
    """What became of one input."""

    input: str
    outputs: list[str] = field(default_factory=list)
    speakers: int = 0
    confidence: float = 1.0
    """Trust in the number of speakers, 0.5 to 1; 1 where it was given."""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Seconds of work, reading and writing included, for a second of audio."""
    gain_db: float = 0.0
    """Gain given to all speakers alike so that no sample clips; 0 for float files."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Separated(Separation):
    """One file, separated."""

    sample_rate: int


def separate(
    path: Path | str,
    *,
    speakers: Speakers = None,
    model: str | Path = DEFAULT_MODEL,
    channel: str = "mix",
    device: str = "auto",
) -> Separated:
    """Separate one file; the estimates come back as an array, nothing is written.

    Raises:
        UnmingleError: the file, the model or the number of speakers will not do; the text says why.
    """
    separator = load(model, device)
    _check_memory(Path(path), separator, separator.check_speakers(speakers) or separator.speakers)
    recording = read_audio(path)
    mixture = pick_channel(recording.samples, channel)
    separation = separator.separate_recording(mixture, recording.sample_rate, speakers)
    return Separated(separation.estimates, separation.confidence, recording.sample_rate)


def separate_files(
    paths: Sequence[Path],
    separator: Separator,
    output: Output,
    *,
    speakers: Speakers = None,
    channel: str = "mix",
    on_done: Callable[[FileResult], None] | None = None,
) -> list[FileResult]:
    """Separate files one after the other; one that fails does not stop the others.

    Raises:
        UnmingleError: the options themselves are impossible; nothing was done then.
    """
    wanted = separator.check_speakers(speakers)
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 2)
    taken = {os.path.realpath(path) for path in paths}

    def work(path: Path, stem: str, result: FileResult) -> None:
        # Where speakers are counted, there is room for as many as the model can find.
        targets = targets_of(stem, wanted or separator.speakers, output, taken)
        taken.update(os.path.realpath(target) for target in targets)
        _separate_file(path, targets, separator, output, channel, result, counted=wanted is None)

    results = [FileResult(str(path)) for path in paths]
    go_through(paths, results, work, "separated", on_done)
    return results


class Told(Protocol):
    """What is told of every file."""

    seconds: float
    real_time_factor: float
    error: str | None


Result = TypeVar("Result", bound=Told)


def go_through(
    paths: Sequence[Path],
    results: Sequence[Result],
    work: Callable[[Path, str, Result], None],
    done: str,
    on_done: Callable[[Result], None] | None,
) -> None:
    """Do ``work`` with every file, its distinct stem and its result; one that fails does not stop the others."""
    for path, stem, result in zip(paths, distinct_stems(paths), results, strict=True):
        began = time.perf_counter()
        try:
            work(path, stem, result)
            result.real_time_factor = (time.perf_counter() - began) / result.seconds
        except UnmingleError as error:
            result.error = str(error)
        except (OSError, MemoryError, RuntimeError) as error:
            # Whatever a file manages to break, the others are still done.
            result.error = f"{path} could not be {done} ({' '.join(str(error).split())})."
        if on_done:
            on_done(result)


def _separate_file(
    path: Path,
    targets: list[Path],
    separator: Separator,
    output: Output,
    channel: str,
    result: FileResult,
    *,
    counted: bool,
) -> None:
    existing = [target for target in targets if target.exists()]
    if existing and not output.overwrite:
        raise UnmingleError(f"{existing[0]} exists; add --overwrite, or name another folder with -o.")
    _check_memory(path, separator, len(targets))
    recording = read_audio(path)
    check_format(output.format, recording.sample_rate, output.bits)
    if recording.warning:
        result.warnings.append(recording.warning)
    if not counted and len(targets) > 1 and not separator.trained_for(len(targets)):
        result.warnings.append(f"the model was trained for {separator.speakers} speakers")
    mixture = pick_channel(recording.samples, channel)
    result.seconds = len(mixture) / recording.sample_rate
    result.sample_rate = recording.sample_rate
    separation = separator.separate_recording(
        mixture, recording.sample_rate, "auto" if counted else len(targets)
    )
    estimates = separation.estimates
    result.speakers, result.confidence = len(estimates), separation.confidence
    peak = float(np.abs(estimates).max())
    if peak > 1.0 and not (output.format == "wav" and output.bits in (None, 32)):
        estimates *= np.float32(0.999 / peak)
        result.gain_db = 20 * float(np.log10(0.999 / peak))
    encoded = [
        encode_audio(estimate, recording.sample_rate, output.format, output.bits) for estimate in estimates
    ]
    # All speakers of a recording or none; what was there before stays until then.
    written = targets[: len(encoded)]
    replace_files(list(zip(written, encoded, strict=True)))
    for stale in targets[len(encoded) :]:
        # --overwrite: a third speaker of an earlier run would look like one of this run.
        stale.unlink(missing_ok=True)
    result.outputs = [str(target) for target in written]


def find_inputs(names: Sequence[str]) -> tuple[list[Path], list[FileResult]]:
    """Files, the audio files in folders (sub-folders too), and what globs match, in order.

    A name that does not exist is kept, so that its error is told beside the other files' results. For a
    folder without audio, or a glob that matches nothing, a result with the error is returned.
    """
    found: list[Path] = []
    problems = []
    for name in names:
        path = Path(name)
        if _is_folder(path):
            inside = _audio_files(path)
            if not inside:
                problems.append(
                    FileResult(name, error=f"The folder {path} holds no audio files; name another.")
                )
            found += inside
        elif glob.has_magic(name) and not os.path.exists(name):
            matched = [Path(each) for each in sorted(glob.glob(name, recursive=True))]
            inside = [
                file for each in matched for file in (_audio_files(each) if _is_folder(each) else [each])
            ]
            if not inside:
                problems.append(FileResult(name, error=f"No file matches {name}; check the pattern."))
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found)), problems


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # A name that nothing can have; reading it will say so.


def _audio_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """The stem of every path, numbered where two inputs share one, so that no output is overwritten."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 1
        # Case is folded because some file systems do.
        while stem.casefold() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def check_template(name: str, outputs: int) -> None:
    """Refuse a template that gives one name to two outputs; with one output a file, {n} may be missing.

    Raises:
        UnmingleError: it does, or is no template.
    """
    fields = "{stem}" if outputs == 1 else "{stem} and {n}"
    try:
        names = [name.format(stem=stem, n=n) for stem in ("first", "second") for n in range(1, outputs + 1)]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UnmingleError(f"The name {name!r} is not a template; use {fields}.") from error
    if len(set(names)) < len(names):
        raise UnmingleError(f"The name {name!r} needs {fields}, or outputs would overwrite each other.")


def targets_of(stem: str, speakers: int, output: Output, taken: set[str]) -> list[Path]:
    """Where a recording's outputs go.

    Raises:
        UnmingleError: out of the output's folder, or onto a file in ``taken``.
    """
    targets = [
        output.folder / f"{output.name.format(stem=stem, n=n)}.{output.format}"
        for n in range(1, speakers + 1)
    ]
    root = os.path.abspath(output.folder)
    if any(os.path.commonpath([root, os.path.abspath(target)]) != root for target in targets):
        raise UnmingleError(f"The name {output.name!r} leads out of the output folder; leave '..' out.")
    for target in targets:
        if os.path.realpath(target) in taken:
            raise UnmingleError(
                f"{target} is an input, or another input's output; choose another -o or --name."
            )
    return targets


def _check_memory(path: Path, separator: Separator, speakers: int) -> None:
    header = read_header(path)
    if header is None:
        return
    # Decoded twice over for a moment, then a few arrays of the mixture's length for every speaker.
    samples = header.seconds * header.sample_rate
    needed = separator.system.working_bytes(header.seconds, speakers) + 4 * samples * (
        2 * header.channels + 4 * speakers + 6
    )
    refuse_too_long(path, header.seconds, needed)


def refuse_too_long(path: Path, seconds: float, needed: float) -> None:
    """Refuse a recording of so many seconds that needs so many bytes of memory, if they are not there.

    Raises:
        UnmingleError: they are not; the text says how long it may be.
    """
    available = available_memory()
    if available is not None and needed > 0.9 * available:
        possible = seconds * 0.9 * available / needed
        raise UnmingleError(
            f"{path} is {seconds / 60:.0f} minutes long and needs {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are free: cut it into pieces of at most {possible / 60:.0f} minutes."
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping, in this container if it is one; None if the system does not tell."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        return None
    try:
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="ascii"))
        limits.append(most - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass  # No container, or "max": no limit of its own.
    return min(limits, default=None)
