"""What the server is told, and the bounds it keeps."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from unmingle.errors import UnmingleError


@dataclass(frozen=True)
class Settings:
    """Where to listen, with which models, and how much is allowed."""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any free one."""
    token: str | None = None
    """What every visitor must show; needed wherever the server listens beyond this machine."""
    model: str | None = None
    """Separates; None: the package's default."""
    denoiser: str | None = None
    """Cleans; None: the package's default."""
    threads: int | None = None
    """Of the processor, per job; None: all cores."""

    upload_bytes: int = 500 * 2**20
    """The largest file."""
    upload_seconds: float = 600.0
    """How long an upload may take."""
    recording_seconds: float = 3600.0
    """The longest recording."""
    job_seconds: float = 1800.0
    """How long a job may run before it is killed."""
    session_jobs: int = 8
    """Recordings that one browser may have here at a time."""
    server_jobs: int = 32
    """Recordings of all browsers together."""
    keep_seconds: float = 3600.0
    """How long results are kept."""
    live_streams: int = 2
    """Live streams at a time."""
    live_seconds: float = 3600.0
    """How long a live stream may last."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UnmingleError(f"--port must lie between 0 and 65535; got {self.port}.")
        if not self.is_local and not self.token:
            raise UnmingleError(f"To listen on {self.host}, beyond this machine, the server needs a token.")

    @property
    def is_local(self) -> bool:
        """Whether the server can be reached from this machine only."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address without a port means this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_strength(text: str) -> float:
    """The strength of denoising that a request names; 1 where it names none.

    Raises:
        UnmingleError: it is no number from 0 to 1.
    """
    try:
        strength = float(text or 1.0)
    except ValueError:
        strength = -1.0
    if not 0.0 <= strength <= 1.0:
        raise UnmingleError(f"strength must be a number from 0 to 1; got {text!r}.")
    return strength
