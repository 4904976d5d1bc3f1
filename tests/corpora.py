"""Small corpora, and jobs that misbehave, for the tests of shards and of Ray."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import tiny_sound
from unmingle.cluster.jobs import Work


def make_corpus(folder: Path, files: int, broken: tuple[int, ...] = (), seconds: float = 0.2) -> Path:
    """Tones of different lengths, some of which are no audio."""
    for number in range(files):
        path = folder / f"day{number % 3}" / f"{number:03d}.wav"
        tiny_sound(path, seconds + 0.01 * number)
        if number in broken:
            path.write_bytes(b"RIFF, but no sound")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class PoisonJob:
    """Copies files, but a file of a certain name ends its process."""

    poison: str
    log: Path
    """Gets a byte for every death."""
    threads: int = 1
    device: str = "cpu"

    def describe(self) -> dict[str, Any]:
        return {"command": "poison"}

    def open(self) -> Work:
        def work(path: Path, stem: str, folder: Path) -> dict[str, Any]:
            if path.stem == self.poison:
                with self.log.open("ab") as file:
                    file.write(b"x")
                os.kill(os.getpid(), signal.SIGKILL)
            target = folder / f"{stem}.copy"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            return {"outputs": [str(target)], "seconds": 1.0, "error": None}

        return work


@dataclass(frozen=True)
class LitterJob:
    """Copies files, and leaves an incomplete file beside each, as a process that is killed does."""

    threads: int = 1
    device: str = "cpu"

    def describe(self) -> dict[str, Any]:
        return {"command": "litter"}

    def open(self) -> Work:
        def work(path: Path, stem: str, folder: Path) -> dict[str, Any]:
            target = folder / f"{stem}.copy"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.with_suffix(".partial").write_bytes(b"half")
            return {"outputs": [str(target)], "seconds": 1.0, "error": None}

        return work
