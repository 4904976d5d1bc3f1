"""Files by path or URL: local ones, and through fsspec ``s3://``, ``gs://``, ``memory://`` and others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

from unmingle.errors import UnmingleError, in_one_line


def is_url(name: str) -> bool:
    """Whether a name is a URL, not a path."""
    return "://" in name


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        UnmingleError: fsspec, or its library for this kind of URL, is missing.
    """
    try:
        import fsspec
    except ImportError as error:
        raise UnmingleError(f"{url} needs fsspec; install with: pip install 'unmingle[cluster]'") from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except Exception as error:
        raise UnmingleError(f"{url} cannot be opened ({in_one_line(error)}).") from error
    return files, str(path).rstrip("/")


def read_bytes(name: str) -> bytes:
    """A whole file, by path or URL.

    Raises:
        UnmingleError: it cannot be read.
    """
    try:
        if not is_url(name):
            return Path(name).read_bytes()
        files, path = file_system(name)
        content: bytes = files.cat_file(path)
    except UnmingleError:
        raise
    except Exception as error:
        raise refused(name, "read", error) from error
    return content


def fetch(name: str, target: Path) -> None:
    """Copy a file, by URL, to a local path.

    Raises:
        UnmingleError: it cannot be read, or the disk is full.
    """
    files, path = file_system(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.open(path, "rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except Exception as error:
        target.unlink(missing_ok=True)
        raise refused(name, "read", error) from error


def open_binary(name: str) -> BinaryIO:
    """A file by path or URL, to be read from its beginning to its end.

    Raises:
        UnmingleError: fsspec, or its library for this kind of URL, is missing.
        Exception: whatever the file system raises.
    """
    if not is_url(name):
        return open(name, "rb")
    files, path = file_system(name)
    return cast(BinaryIO, files.open(path, "rb"))


def refused(name: str, done: str, error: Exception) -> UnmingleError:
    """The error of a file that cannot be ``done`` (read, written)."""
    if isinstance(error, FileNotFoundError):
        return UnmingleError(f"{name} does not exist; check the name.")
    return UnmingleError(f"{name} cannot be {done} ({in_one_line(error)}).")
