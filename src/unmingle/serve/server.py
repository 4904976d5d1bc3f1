"""Starts and stops the server, with its private folder and its socket."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import uvicorn

from unmingle.errors import UnmingleError, reason
from unmingle.serve.routes import application
from unmingle.serve.settings import Settings

_LARGEST_MESSAGE = 1 << 20


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until the process receives SIGINT or SIGTERM; then remove all uploads and results.

    Args:
        settings: address, models and limits.
        on_ready: called with the address to open, when the server listens.

    Raises:
        UnmingleError: the address or the port cannot be used.
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
        UnmingleError: the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise UnmingleError(
            f"Cannot listen on {settings.host} port {settings.port} ({reason(error)}); choose another --port or "
            "--host."
        ) from error
    return listener


def build_server(settings: Settings, folder: Path, on_ready: Callable[[], None]) -> uvicorn.Server:
    """A server that keeps its files in ``folder`` and calls ``on_ready`` when it accepts requests."""
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
        # Open pages keep event streams and live streams open; uvicorn would wait for them.
        await self._on_stop()
        await super().shutdown(sockets)


def address(settings: Settings, listener: socket.socket) -> str:
    """The address to open in a browser, with the token."""
    host, port = settings.host, listener.getsockname()[1]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/" + (f"?token={quote(settings.token, safe='')}" if settings.token else "")


def new_token() -> str:
    """A random token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def open_in_browser(url: str) -> None:
    """Open the page if there is a browser."""
    webbrowser.open(url)
