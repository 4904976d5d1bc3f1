"""Worker processes: started in advance, controlled by lines of JSON, and killed when needed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any


class Worker:
    """One process that does one job or one live stream; see :mod:`unmingle.serve.worker`."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self.input, self.output = process.stdin, process.stdout

    @classmethod
    async def start(cls, folder: Path) -> Worker:
        """Start a process that imports its modules and then waits for its request."""
        # -P: files in the folder are not imported as modules. A new session: Ctrl-C reaches only the server,
        # which then ends its workers.
        arguments = [sys.executable, "-P", "-m", "unmingle.serve.worker"]
        return cls(
            await asyncio.create_subprocess_exec(
                *arguments, stdin=PIPE, stdout=PIPE, cwd=folder, start_new_session=True, limit=1 << 22
            )
        )

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.returncode is not None

    async def ask(self, request: dict[str, Any]) -> None:
        """Send the request."""
        with suppress(ConnectionError):  # The process has ended; the missing answer shows it.
            self.input.write(json.dumps(request).encode() + b"\n")
            await self.input.drain()

    async def answer(self) -> dict[str, Any] | None:
        """The next line of its answer, or None if the process has ended."""
        line = await self.output.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return answer

    async def kill(self) -> int:
        """End the process now, if it has not ended; its exit code, negative for a signal."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self.input.close()
        return await self._process.wait()

    async def end(self) -> int:
        """Wait until the process has ended by itself; its exit code, negative for a signal."""
        return await self._process.wait()


class Workers:
    """Starts workers and keeps one ready, because importing PyTorch takes longer than separating one minute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: Worker | None = None
        self._closed = False
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Start a worker in the background. If it cannot start now, :meth:`take` tries again."""
        with suppress(OSError):
            async with self._lock:
                if not self._closed and (self._ready is None or self._ready.ended):
                    self._ready = await Worker.start(self._folder)

    async def take(self) -> Worker:
        """A worker for one request. The caller must kill it.

        Raises:
            OSError: it cannot start.
        """
        await self.prepare()
        async with self._lock:
            worker, self._ready = self._ready, None
        return worker or await Worker.start(self._folder)

    async def close(self) -> None:
        """End the waiting worker, and start no more."""
        async with self._lock:
            self._closed = True
            if self._ready is not None:
                await self._ready.kill()
                self._ready = None


def cause_of_death(code: int) -> str:
    """Error text for a worker that ended without an answer."""
    if code == -9 and os.name == "posix":
        return "its process was killed, probably because memory runs out; send a shorter recording"
    return f"its process ended with code {code}; see its messages in the server's terminal"
