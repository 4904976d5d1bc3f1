"""Write the mixtures of a folder on all cores, whole or in shares. An interrupted job can be resumed.

The mixtures are in a hidden folder beside the target until all are written. Each depends only on the job and its
number, so neither an interruption nor the number of processes or shares changes a byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unmingle.data.tables import write_table
from unmingle.errors import UnmingleError
from unmingle.shares import WHOLE, Parts, Share
from unmingle.temporary import (
    access_if_alone,
    check_writable,
    exclusive_access,
    refusal,
    remove_partials,
    replace_files,
    shared_access,
)
from unmingle.workers import available_cores, worker_pool

_ROWS = "rows"


class MixtureJob(Protocol):
    """What to write. It is sent to every worker process."""

    @property
    def count(self) -> int:
        """Number of mixtures."""

    @property
    def recipe(self) -> str:
        """Text of ``recipe.json``, by which a complete folder is recognized."""

    def plan(self) -> Any:
        """What the files depend on, for JSON. Mixtures of another plan are not continued."""

    def write(self, folder: Path, index: int) -> dict[str, str]:
        """Write the audio of one mixture; returns its row of ``mixtures.csv``."""

    def card(self, folder: Path, rows: Sequence[dict[str, str]]) -> str | None:
        """Text of ``README.md``, if there is one."""


def is_complete(folder: Path, recipe: str) -> bool:
    """Whether a folder is what the job of this recipe makes."""
    path = folder / "recipe.json"
    return path.is_file() and path.read_text(encoding="utf-8") == recipe


def check_new(folder: Path) -> None:
    """Check before the work starts that a folder can be written and holds nothing.

    Raises:
        UnmingleError: it cannot, or it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UnmingleError(f"{folder} is not empty; name another folder.")
    check_writable(folder.parent)


def write_mixtures(
    folder: Path,
    job: MixtureJob,
    on_progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
    share: Share | None = None,
) -> bool:
    """Write all mixtures of a job. The folder appears when it is complete.

    The same call after an interruption continues the work.

    Args:
        folder: to write; an absolute path.
        job: what to write.
        on_progress: called with the number of mixtures that are done and the total.
        processes: number of worker processes (default: one per core).
        share: write only these mixtures. Calls for other shares may run at the same time, on other machines too;
            the one that finds all mixtures written completes the folder.

    Returns:
        Whether the folder is complete; if not, mixtures of other shares are missing.

    Raises:
        UnmingleError: a mixture cannot be made, another process writes the folder, or the disk is full.
    """
    work = _Work(folder.with_name(f".{folder.name}.partial"), job)
    partial, access = work.folder, exclusive_access if share is None else shared_access
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with access(partial, "mixing"):
            # Another share may have completed the folder since this one began.
            if share is not None and is_complete(folder, job.recipe):
                return True
            _begin(work, alone=share is None)
            _write_all(work, share or WHOLE, on_progress, processes or available_cores())
        with access_if_alone(partial) as alone:
            rows = work.parts.read() if alone else None
            if rows is not None:
                remove_partials(partial)
                _finish(work, rows)
                partial.rename(folder)
    except OSError as error:
        if share is not None and is_complete(folder, job.recipe):
            return True  # Another share renamed the hidden folder before this one had access.
        raise refusal(folder, error) from error
    finally:
        with suppress(OSError):  # Fails if it is not empty: the next call continues from it.
            partial.rmdir()
    return is_complete(folder, job.recipe)


@dataclass(frozen=True)
class _Work:
    """Data that every worker process needs."""

    folder: Path
    """The hidden one."""
    job: MixtureJob

    @property
    def parts(self) -> Parts:
        """The rows of the mixtures that are written."""
        return Parts(self.folder / _ROWS, self.job.count)

    def write(self, index: int) -> None:
        """Write one mixture's audio, then its row, which marks the mixture as complete."""
        self.parts.write(index, self.job.write(self.folder, index))


_work: _Work
"""The work of this worker process."""


def _start_worker(work: _Work) -> None:
    global _work
    _work = work


def _write_one(index: int) -> None:
    _work.write(index)


def _begin(work: _Work, *, alone: bool) -> None:
    """Keep the files of an interrupted call with the same plan; if alone, remove the files of any other call."""
    plan = work.job.plan()
    try:
        work.parts.begin(plan)
    except UnmingleError:
        if not alone:
            raise
        # The folder itself stays, because it is locked.
        for path in work.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        work.parts.begin(plan)
    if alone:
        remove_partials(work.folder)


def _write_all(
    work: _Work, share: Share, on_progress: Callable[[int, int], None] | None, processes: int
) -> None:
    """Write the missing mixtures of a share."""
    missing, total = work.parts.missing(share), len(share.pick(range(work.job.count)))
    done = total - len(missing)
    with worker_pool(min(processes, max(1, len(missing))), _start_worker, (work,)) as pool:
        for _ in pool.map(_write_one, missing, chunksize=max(1, min(8, len(missing) // (4 * processes)))):
            done += 1
            if on_progress:
                on_progress(done, total)


def _finish(work: _Work, rows: Sequence[dict[str, str]]) -> None:
    folder, card = work.folder, work.job.card(work.folder, rows)
    table = write_table(list(rows[0]), [list(row.values()) for row in rows])
    files = [(folder / "recipe.json", work.job.recipe.encode()), (folder / "mixtures.csv", table)]
    if card is not None:
        files.append((folder / "README.md", card.encode()))
    replace_files(files)
    # Removed last: an interrupted run needs them to continue.
    shutil.rmtree(folder / _ROWS)
