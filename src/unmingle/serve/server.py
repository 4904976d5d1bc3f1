"""Starts the server: its private folder, its socket, and its end."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn

from unmingle.errors import UnmingleError
from unmingle.serve.routes import application
from unmingle.serve.settings import Settings

_LARGEST_MESSAGE = 1 << 20


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end; then all uploads and results are removed.

    Args:
        settings: where and what.
        on_ready: called with the address to open, once the server listens.

    Raises:
        UnmingleError: the address or the port cannot be had.
    """
    listener = listen(settings)
    folder = Path(tempfile.mkdtemp(prefix="unmingle-serve-"))  # Readable by this user only.
    try:
        server = build_server(settings, folder, lambda: on_ready(address(settings, listener)))
        server.run(sockets=[listener])
    finally:
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def listen(settings: Settings) -> socket.socket:
    """The socket that the server listens on.

    Raises:
        UnmingleError: the address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise UnmingleError(
            f"Cannot listen on {settings.host} port {settings.port} ({reason}); choose another --port or --host."
        ) from error
    return listener


def build_server(settings: Settings, folder: Path, on_ready: Callable[[], None]) -> uvicorn.Server:
    """A server that keeps its files in ``folder``; ``on_ready`` is called when it answers."""
    app = application(settings, folder)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=_LARGEST_MESSAGE,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
    )
    return _Server(config, on_ready, app.state.stop)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Open pages hold events and live streams open; they would be waited for.
        await self._on_stop()
        await super().shutdown(sockets)


def address(settings: Settings, listener: socket.socket) -> str:
    """What to open in a browser, token and all."""
    host, port = settings.host, listener.getsockname()[1]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/" + (f"?token={settings.token}" if settings.token else "")


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(24)


def open_in_browser(url: str) -> None:
    """Open the page where there is a browser to open it in."""
    webbrowser.open(url)
