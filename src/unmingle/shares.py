"""Shares of a job: process I of N does every N-th unit of work, and each unit's result is a file of its own.

Whatever the shares, their order and their restarts, :meth:`Parts.read` gives the same results in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unmingle.errors import UnmingleError
from unmingle.temporary import replace_files

Unit = TypeVar("Unit")

_PLAN = "plan"


@dataclass(frozen=True)
class Share:
    """Units I, I + N, I + 2N ... of a job."""

    number: int = 1
    """I, from 1 on."""
    of: int = 1
    """N."""

    def pick(self, units: Sequence[Unit]) -> list[Unit]:
        """The units of this share."""
        return list(units[self.number - 1 :: self.of])


WHOLE = Share()
"""All units."""


def parse_share(text: str) -> Share:
    """``I/N`` as a share.

    Raises:
        UnmingleError: the text is not I/N.
    """
    parts = text.split("/")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        number, of = map(int, parts)
        if 1 <= number <= of:
            return Share(number, of)
    raise UnmingleError(f"--shard must be I/N with I from 1 to N, as in 2/8; got {text!r}.")


class Parts:
    """The results of units 0 to ``count`` - 1, as JSON, one file each.

    Args:
        folder: for the files.
        count: number of units.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count

    def begin(self, plan: Any) -> None:
        """Store a hash of the plan in the folder, or check that the stored hash is the same.

        Args:
            plan: what the results depend on, for JSON.

        Raises:
            UnmingleError: the folder has parts of another plan, or cannot be written to.
        """
        # Not temporary files: another share may be writing its plan.
        there = any(self._folder.glob("[0-9]*.json"))
        path, digest = self._folder / _PLAN, hashlib.sha256(json.dumps(plan).encode()).hexdigest().encode()
        if not there and not path.is_file():
            replace_files([(path, digest)])
        if (
            not path.is_file() or path.read_bytes() != digest
        ):  # Another share may have written its plan first.
            raise UnmingleError(
                f"{self._folder} holds parts made with other options, data or another model; remove it, or name "
                "another folder with -o."
            )

    def missing(self, share: Share) -> list[int]:
        """The units of a share that are not done."""
        return [unit for unit in share.pick(range(self._count)) if not self._path(unit).is_file()]

    def write(self, unit: int, result: Any) -> None:
        """Keep the result of a unit."""
        replace_files([(self._path(unit), json.dumps(result).encode())])

    def read(self) -> list[Any] | None:
        """The results of all units in their order; None if one is missing."""
        try:
            return [json.loads(self._path(unit).read_bytes()) for unit in range(self._count)]
        except FileNotFoundError:
            return None

    def _path(self, unit: int) -> Path:
        return self._folder / f"{unit:05d}.json"
