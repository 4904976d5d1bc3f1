"""What both products share about files: inputs, outputs, their names, and one bad file that never stops a batch."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from unmingle.audio import CONTAINER_SUFFIXES
from unmingle.errors import UnmingleError

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


@dataclass(frozen=True)
class InputProblem:
    """An input that is no file to work on."""

    input: str
    error: str


class FileReport(Protocol):
    """What every result of a file holds."""

    seconds: float
    real_time_factor: float
    error: str | None


Result = TypeVar("Result", bound=FileReport)


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


def find_inputs(names: Sequence[str]) -> tuple[list[Path], list[InputProblem]]:
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
                problems.append(InputProblem(name, f"The folder {path} holds no audio files; name another."))
            found += inside
        elif glob.has_magic(name) and not os.path.exists(name):
            matched = [Path(each) for each in sorted(glob.glob(name, recursive=True))]
            inside = [
                file for each in matched for file in (_audio_files(each) if _is_folder(each) else [each])
            ]
            if not inside:
                problems.append(InputProblem(name, f"No file matches {name}; check the pattern."))
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
