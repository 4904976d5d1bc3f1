"""Batches of files for separation and denoising: inputs, output names, and errors that do not stop the batch."""

from __future__ import annotations

import glob
import logging
import os
import re
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from unmingle.audio import check_format
from unmingle.audio_names import audio_files
from unmingle.errors import UnmingleError, in_one_line
from unmingle.temporary import check_writable

_FORM = re.compile(r"(0?[1-9]d?)?")
"""Format of a number in a template, as in ``{n:02}``."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """How the estimates are written."""

    folder: Path = Path("separated")
    format: str = "wav"
    name: str = "{stem}_speaker{n}"
    """Template; ``{stem}`` is the input's name without its suffix, ``{n}`` counts speakers from 1."""
    bits: int | None = None
    overwrite: bool = False
    roots: Sequence[Path] = ()
    """Folders given as inputs. The output folder gets the same subfolders."""


@dataclass(frozen=True)
class InputProblem:
    """An input name that leads to no file."""

    input: str
    error: str


class FileReport(Protocol):
    """Fields of every result of a file."""

    seconds: float
    real_time_factor: float
    error: str | None


Result = TypeVar("Result", bound=FileReport)


def process_files(
    paths: Sequence[Path],
    results: Sequence[Result],
    work: Callable[[Path, str, Result], None],
    done: str,
    on_done: Callable[[Result], None] | None,
    roots: Sequence[Path] = (),
    stems: Sequence[str] | None = None,
) -> None:
    """Call ``work`` for every file with its unique stem and its result. A failing file does not stop the others.

    Args:
        paths: of the files.
        results: one per file; the error is stored there.
        work: reads the file and writes the outputs named by the stem.
        done: verb for error texts, such as ``separated``.
        on_done: called with each result.
        roots: folders given as inputs; see :attr:`Output.roots`.
        stems: one unique stem per file (default: made from the paths and ``roots``).
    """
    if stems is None:
        stems = distinct_stems(paths, roots)
    for path, stem, result in zip(paths, stems, results, strict=True):
        began = time.perf_counter()
        try:
            work(path, stem, result)
            result.real_time_factor = (time.perf_counter() - began) / max(result.seconds, 1e-9)
        except UnmingleError as error:
            result.error = str(error)
        except Exception as error:
            # Any unexpected error of one file must not stop the others.
            _log.debug("%s could not be %s", path, done, exc_info=True)
            result.error = f"{path} could not be {done} ({in_one_line(error)})."
        if on_done:
            on_done(result)


def find_inputs(names: Sequence[str], output: Path | None = None) -> tuple[list[Path], list[InputProblem]]:
    """Files, the audio files in folders and subfolders, and the matches of glob patterns, in order.

    A name that does not exist is kept, so that its error appears among the results of the other files. A folder
    without audio, a pattern without a match, and an empty name are returned as problems.

    Args:
        names: of files and folders, and patterns.
        output: folder of the outputs. If it lies in a folder of ``names``, its files are left out: they are results
            of earlier runs.
    """
    found: list[Path] = []
    problems = []
    for name in names:
        path = Path(name)
        if not name:
            problems.append(InputProblem(name, "An input has an empty name; is a variable unset?"))
        elif _is_folder(path):
            inside = without_results(audio_files(path), path, output)
            if not inside:
                problems.append(InputProblem(name, f"The folder {path} has no audio files; give another."))
            found += inside
        elif glob.has_magic(name) and not os.path.lexists(name):
            matched = [Path(each) for each in sorted(glob.glob(name, recursive=True))]
            inside = [
                file for each in matched for file in (audio_files(each) if _is_folder(each) else [each])
            ]
            inside = without_results(inside, Path(os.path.dirname(re.split(r"[*?[]", name)[0])), output)
            if not inside:
                problems.append(InputProblem(name, f"No file matches {name}; check the pattern."))
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found)), problems


def without_results(files: list[Path], named: Path, output: Path | None) -> list[Path]:
    """The files that are not in the folder of the outputs, unless the folder that was named is in it itself."""
    if output is None:
        return files
    results, place = Path(os.path.realpath(output)), Path(os.path.realpath(named))
    if results in (place, *place.parents):
        return files
    return [file for file in files if results not in Path(os.path.realpath(file)).parents]


def find_roots(names: Sequence[str]) -> list[Path]:
    """The folders among the inputs; see :attr:`Output.roots`."""
    return [Path(name) for name in names if name and _is_folder(Path(name))]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False  # An impossible name; reading it gives the error.


def distinct_stems(paths: Sequence[Path], roots: Sequence[Path] = ()) -> list[str]:
    """The stem of every path, with a number if two inputs share it, so that no output is overwritten.

    For files in subfolders of ``roots``, the stem includes the subfolders: ``monday/talk``.
    """
    taken: set[str] = set()
    stems = []
    for path in paths:
        above = max(
            (root for root in roots if root in path.parents), key=lambda r: len(r.parts), default=None
        )
        first = str(path.relative_to(above).with_name(path.stem)) if above is not None else path.stem
        stem, number = first, 1
        # Case is ignored, as in some file systems.
        while stem.casefold() in taken:
            number += 1
            stem = f"{first}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def check_template(name: str, outputs: int) -> None:
    """Refuse a template that gives two outputs the same name. With one output per file, {n} is optional.

    Raises:
        UnmingleError: two outputs would have the same name, or the text is not a template.
    """
    fields = "{stem}" if outputs == 1 else "{stem} and {n}"
    if not name.isprintable() or any(
        field is not None and (field not in ("stem", "n") or conversion or not _FORM.fullmatch(form or ""))
        for _, field, form, conversion in _parsed(name)
    ):
        raise UnmingleError(f"The name {name[:80]!r} is not a template; use {fields}.")
    try:
        names = [name.format(stem=stem, n=n) for stem in ("first", "second") for n in range(1, outputs + 1)]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UnmingleError(f"The name {name!r} is not a template; use {fields}.") from error
    if len(set(names)) < len(names):
        raise UnmingleError(f"The name {name!r} needs {fields}, or outputs would overwrite each other.")


def _parsed(name: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(name))
    except ValueError:
        return [("", "", None, None)]  # An unknown field, so that the check fails.


def check_output(output: Output, outputs: int) -> None:
    """Check format, template and folder before the work starts.

    Raises:
        UnmingleError: the format or the template is wrong, or the folder is not writable.
    """
    check_format(output.format, 48000, output.bits)
    check_template(output.name, outputs)
    check_writable(output.folder)


def targets_of(stem: str, speakers: int, output: Output, taken: set[str]) -> list[Path]:
    """Paths of the outputs of a recording.

    Raises:
        UnmingleError: a path is outside the output folder, or in ``taken``.
    """
    targets = [
        output.folder / f"{output.name.format(stem=stem, n=n)}.{output.format}"
        for n in range(1, speakers + 1)
    ]
    root = os.path.abspath(output.folder)
    if any(os.path.commonpath([root, os.path.abspath(target)]) != root for target in targets):
        raise UnmingleError(
            f"The name {output.name!r} leads out of the output folder; give a relative name without '..'."
        )
    for target in targets:
        if os.path.realpath(target) in taken:
            raise UnmingleError(
                f"{target} is an input, or an output of another input; choose another -o or --name."
            )
    return targets


def available_memory() -> int | None:
    """Bytes available without swapping, within the limit of a container; None if the system does not report it."""
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
        pass  # Not a container, or its limit is "max".
    return min(limits, default=None)
