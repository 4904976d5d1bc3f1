"""``unmingle serve``."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated

import typer

from unmingle.cli.options import Threads, check_range, require

TOKEN_VARIABLE = "UNMINGLE_SERVE_TOKEN"


def command(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond this machine a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8765,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME|PATH", help="Model that separates.")
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option("--denoiser", metavar="NAME|PATH", help="Model that cleans.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    threads: Threads = None,
) -> None:
    """Serve a page on this machine: drop a recording in, see who speaks, listen to each.

    Nothing leaves the machine; uploads and results are deleted after an hour and when the server ends
    (Ctrl-C). Its JSON API is described in docs/serve.md. The token for --host comes from the environment
    variable UNMINGLE_SERVE_TOKEN; without it, one is generated and printed.
    """
    require("serve", "starlette", "uvicorn", "websockets")
    from unmingle.serve.server import new_token, open_in_browser, serve
    from unmingle.serve.settings import Settings, is_loopback

    check_range("--threads", threads, 1, 1024)
    token = os.environ.get(TOKEN_VARIABLE) or (None if is_loopback(host) else new_token())
    settings = Settings(host, port, token, _whole_path(model), _whole_path(denoiser), threads)

    def ready(url: str) -> None:
        print(f"{url}  (Ctrl-C ends)", flush=True)
        if browser:
            open_in_browser(url)

    with suppress(KeyboardInterrupt):  # Ctrl-C ends the server.
        serve(settings, ready)


def _whole_path(model: str | None) -> str | None:
    """The absolute path of a model, for processes in other folders. A missing model is an error here."""
    if model is None:
        return None
    from unmingle.models import find_model

    return str(find_model(model).absolute())
