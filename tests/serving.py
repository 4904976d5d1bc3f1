"""A server in this process, used over real sockets; and the system's Chromium."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from conftest import MIXTURE
from unmingle.serve.server import build_server, listen
from unmingle.serve.settings import Settings

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]  # fmt: skip


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[str]:
    """The address of a server that keeps its files in ``folder``."""
    given = Settings(**({"port": 0, "threads": 1} | settings))
    listener, ready = listen(given), threading.Event()
    server = build_server(given, folder, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


class Client(httpx.Client):
    """An HTTP client that looks like one browser to the server."""

    def __init__(self, address: str) -> None:
        super().__init__(base_url=address, timeout=30)

    def submit(self, file: Path | bytes = MIXTURE, name: str | None = None, **query: Any) -> dict[str, Any]:
        """Upload, and expect that the server accepts it."""
        answer = self.upload(file, name, **query)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def upload(self, file: Path | bytes = MIXTURE, name: str | None = None, **query: Any) -> httpx.Response:
        content = file if isinstance(file, bytes) else file.read_bytes()
        name = name or (file.name if isinstance(file, Path) else "recording.wav")
        return self.post("/api/jobs", params={"name": name, **query}, content=content)

    def finish(self, job: dict[str, Any]) -> dict[str, Any]:
        """Wait until a job has ended."""
        return self.wait(job, lambda now: now["state"] in ("done", "failed"))

    def wait(self, job: dict[str, Any], ready: Any) -> dict[str, Any]:
        """Wait until ``ready`` holds for a job."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            now: dict[str, Any] = self.get(f"/api/jobs/{job['id']}").json()
            if ready(now):
                return now
            time.sleep(0.03)
        raise AssertionError(now)


def worker_processes() -> list[int]:
    """The process ids of this process's workers."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes are looked up in /proc, which this system lacks")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"unmingle.serve.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # It ended meanwhile.
    return found


def live_stream(address: str, rate: object = 48000, strength: str = "", query: str = "") -> ClientConnection:
    """A websocket of the live tab, with the options of its address."""
    query = f"sample_rate={rate}&strength={strength}{query}"
    return connect(f"{address.replace('http', 'ws')}/api/live?{query}", max_size=None)
