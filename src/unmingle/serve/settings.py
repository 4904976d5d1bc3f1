"""Settings and limits of the server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from unmingle.errors import UnmingleError


@dataclass(frozen=True)
class Settings:
    """Address, models and limits of the server."""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any free port."""
    token: str | None = None
    """Token that every visitor must give; required if the server listens beyond this machine."""
    model: str | None = None
    """Model for separation; None: the default."""
    denoiser: str | None = None
    """Model for denoising; None: the default."""
    threads: int | None = None
    """Threads per job; None: one per core."""

    upload_bytes: int = 500 * 2**20
    """Maximum size of a file."""
    upload_seconds: float = 600.0
    """Maximum duration of an upload."""
    recording_seconds: float = 3600.0
    """Maximum length of a recording."""
    job_seconds: float = 1800.0
    """Maximum run time of a job; after that it is killed."""
    session_jobs: int = 8
    """Maximum number of recordings per browser."""
    server_jobs: int = 32
    """Maximum number of recordings of all browsers together."""
    keep_seconds: float = 3600.0
    """How long results are kept."""
    live_streams: int = 2
    """Maximum number of simultaneous live streams."""
    live_seconds: float = 3600.0
    """Maximum duration of a live stream."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UnmingleError(f"--port must lie between 0 and 65535; got {self.port}.")
        if not self.is_local and not self.token:
            raise UnmingleError(
                f"To listen on {self.host}, beyond this machine, the server needs a token; set UNMINGLE_SERVE_TOKEN."
            )

    @property
    def is_local(self) -> bool:
        """Whether the server can be reached from this machine only."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address without a port means only this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_speakers(text: str) -> int | Literal["auto"] | None:
    """The number of speakers in a request; None for the model's own.

    Raises:
        UnmingleError: it is neither a number nor ``auto``.
    """
    if not text:
        return None
    if text == "auto":
        return "auto"
    if text.isascii() and text.isdecimal() and len(text) < 4:
        return int(text)
    raise UnmingleError(f"speakers must be a number or auto; got {text!r}.")


def read_strength(text: str) -> float:
    """The strength of denoising in a request (default: 1).

    Raises:
        UnmingleError: it is not a number from 0 to 1.
    """
    try:
        strength = float(text or 1.0)
    except ValueError:
        strength = -1.0
    if not 0.0 <= strength <= 1.0:
        raise UnmingleError(f"strength must be a number from 0 to 1; got {text!r}.")
    return strength
