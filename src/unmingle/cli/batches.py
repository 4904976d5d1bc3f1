"""Shared by the commands on files: the progress bar, the final output and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import typer

from unmingle.errors import UnmingleError


class FileResult(Protocol):
    """The result of one input."""

    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""


Result = TypeVar("Result", bound=FileResult)


class FileProgress:
    """A progress bar for several files, shown only on a terminal. Use it as a context manager."""

    def __init__(self, paths: Sequence[Path]) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

        from unmingle.cli.progress import TerminalProgress

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = TerminalProgress(*columns)
        self._paths, self._done = paths, 0
        # In hundredths of a file, so that the bar also moves during a long file.
        self._task = self._progress.add_task(paths[0].name, total=100 * len(paths))

    def __enter__(self) -> FileProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, share: float) -> None:
        """``share`` of the current file is done."""
        self._progress.update(self._task, completed=100 * self._done + round(100 * share))

    def advance(self, _: object) -> None:
        """One more file is done."""
        self._done += 1
        name = self._paths[min(self._done, len(self._paths) - 1)].name
        self._progress.update(self._task, completed=100 * self._done, description=name)


def finish(
    results: Sequence[Result], model: str, verb: str, print_table: Callable[[list[Result]], None] | None
) -> None:
    """Print the results, as a table or (``print_table`` is None) as JSON, and every error.

    Raises:
        UnmingleError: one of several files failed; ``verb`` says what could not be done.
        typer.Exit: the only file failed.
    """
    if print_table is None:
        print(json.dumps({"model": model, "files": [result.as_dict() for result in results]}, indent=2))
    else:
        print_table([result for result in results if not result.error])
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"unmingle: {result.error}", file=sys.stderr)
    if failed:
        if len(results) > 1:
            raise UnmingleError(f"{len(failed)} of {len(results)} files could not be {verb}.")
        raise typer.Exit(2)
