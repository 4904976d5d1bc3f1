"""Fetch archives of corpora: download, check and unpack them, so that a partial corpus never counts as complete.

``ROOT/.fetch`` holds the state of every archive by its name: ``NAME.partial`` is a download that a later fetch
resumes, ``NAME`` a checked archive, ``NAME.unpacking`` a folder that is being unpacked, and ``NAME.complete`` a
marker that the whole content is in ROOT.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unmingle.errors import UnmingleError, in_one_line
from unmingle.temporary import exclusive_access, refusal, replace_files

STATE = ".fetch"
ATTEMPTS = 5
"""A fetch ends after this many broken connections in a row without a new byte."""
WAIT_SECONDS = 1.0
"""Wait after the first broken connection; it doubles after each further one."""
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 20
_DEEPEST = 50
"""Maximum depth of nested folders in an archive."""


class _EscapeError(Exception):
    """A member of an archive would be written outside its folder."""


Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded so far and the size of the whole archive (None if unknown)."""


@dataclass(frozen=True)
class Archive:
    """One published file: a ``.tar.gz`` or a ``.zip``."""

    url: str
    checksum: str | None = None
    """``sha256:...`` or ``md5:...`` as published; None if none is published."""
    bytes: int | None = None
    """Its size, if known."""

    @property
    def name(self) -> str:
        """The file's name, which also names its state."""
        return self.url.rsplit("/", 1)[-1]


def fetch(archive: Archive, root: Path, on_progress: Progress | None = None) -> bool:
    """Download an archive and unpack it into ``root``. An interrupted fetch is resumed.

    Returns:
        False if the archive is already complete in ``root``.

    Raises:
        UnmingleError: no connection, a wrong checksum, not enough disk space, or an unsafe archive.
    """
    state = root / STATE
    try:
        state.mkdir(parents=True, exist_ok=True)
        with exclusive_access(state, "fetching"):
            return _fetch(archive, root, state, on_progress)
    except OSError as error:
        raise refusal(root, error, "choose another folder with --root") from error


def _fetch(archive: Archive, root: Path, state: Path, on_progress: Progress | None) -> bool:
    partial, whole = state / f"{archive.name}.partial", state / archive.name
    unpacking, marker = state / f"{archive.name}.unpacking", state / f"{archive.name}.complete"
    done = _is_complete(root, marker)
    if not done:
        marker.unlink(missing_ok=True)
        if not whole.exists():
            _check_room(archive, root, partial)
            _download(archive, partial, on_progress)
            _check(archive, partial)
            partial.replace(whole)
        moved = _unpack(whole, unpacking, root)
        facts = {"url": archive.url, "checksum": archive.checksum, "moved": moved}
        replace_files([(marker, json.dumps(facts, indent=2).encode())])
    whole.unlink(missing_ok=True)
    shutil.rmtree(unpacking, ignore_errors=True)
    return not done


def unfinished(root: Path) -> list[str]:
    """Names of archives whose fetch into ``root`` is not finished."""
    if not (root / STATE).is_dir():
        return []
    # A leading dot is the temporary name of a marker. Without the marker, the archive's own files show its state.
    names = [path.name for path in (root / STATE).iterdir() if not path.name.startswith(".")]
    started = {name.removesuffix(".partial").removesuffix(".unpacking") for name in names}
    return sorted(
        name for name in started if not name.endswith(".complete") and f"{name}.complete" not in names
    )


def _is_complete(root: Path, marker: Path) -> bool:
    """Whether the marker exists and all files that it lists still exist."""
    try:
        return all((root / path).exists() for path in json.loads(marker.read_text(encoding="utf-8"))["moved"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _check_room(archive: Archive, root: Path, partial: Path) -> None:
    if archive.bytes is None:
        return
    # Compressed audio hardly shrinks in an archive, so the unpacked files need about the same space again.
    _need_room(root, archive.name, 2 * archive.bytes - _size(partial))


def _need_room(root: Path, name: str, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UnmingleError(
            f"{name} needs {needed / 1e9:.1f} GB in {root}, where {free / 1e9:.1f} GB are free; "
            "free some space, or choose another folder with --root."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(archive: Archive, partial: Path, on_progress: Progress | None) -> None:
    import requests
    from urllib3.exceptions import HTTPError

    failures = 0
    while True:
        before = _size(partial)
        try:
            return _download_once(archive.url, partial, on_progress, archive.bytes)
        except (requests.RequestException, HTTPError) as error:
            failures = 1 if _size(partial) > before else failures + 1
            if failures >= ATTEMPTS:
                if not _size(partial):
                    raise UnmingleError(
                        f"No connection to {archive.url} after {failures} attempts ({type(error).__name__}); "
                        "check the network and the proxy settings."
                    ) from error
                raise UnmingleError(
                    f"The connection to {archive.url} broke {failures} times; run the same command later, "
                    f"it continues after the {_size(partial) / 1e6:.1f} MB that are already downloaded."
                ) from error
            time.sleep(WAIT_SECONDS * 2 ** (failures - 1))


def _download_once(url: str, partial: Path, on_progress: Progress | None, expected: int | None) -> None:
    """Download ``url`` to the end of ``partial``.

    Bytes are written without decoding. Some servers declare a ``.tar.gz`` as an encoded tar file; decoded, it would
    have another checksum.

    Raises:
        requests.RequestException: the connection broke; another call resumes.
        UnmingleError: the server refuses.
    """
    import requests

    # Published sizes are rounded.
    most = None if expected is None else expected + expected // 20 + _BLOCK
    done = _size(partial)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        status, content_range = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 and content_range == f"bytes */{done}":
            return  # An earlier fetch was stopped after the last byte.
        if status == 416 or (status == 206 and not content_range.startswith(f"bytes {done}-")):
            partial.unlink(missing_ok=True)
            raise requests.ConnectionError(f"{url} has changed since the last fetch")
        if status >= 500 or status == 429:
            raise requests.HTTPError(f"{url} answers {status}")
        if status not in (200, 206):
            raise UnmingleError(
                f"{url} cannot be downloaded: the server answers {status} ({response.reason}); "
                "look for a new address on the page of the corpus (unmingle data list)."
            )
        done = done if status == 206 else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isascii() and length.isdecimal() else None
        with partial.open("ab" if done else "wb") as file:
            for block in response.raw.stream(_BLOCK, decode_content=False):
                file.write(block)
                done += len(block)
                if on_progress:
                    on_progress(done, total)
                if most is not None and done > most:
                    break
    if most is not None and done > most:
        partial.unlink()
        raise UnmingleError(
            f"{url} is larger than the {most / 1e6:.1f} MB that are published; it was deleted."
        )
    if total is not None and done != total:
        raise requests.ConnectionError(f"{url} ended after {done} of {total} bytes")


def _check(archive: Archive, path: Path) -> None:
    """Compare checksums. If none is published, read the whole archive and check its internal checksums."""
    if archive.checksum is None:
        try:
            _read_all(archive.name, path)
            return
        except OSError as error:
            if not isinstance(error, gzip.BadGzipFile):
                raise
            found = "damaged, and no checksum is published"
        except Exception:
            found = "damaged, and no checksum is published"
    else:
        algorithm, _, wanted = archive.checksum.partition(":")
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, algorithm).hexdigest()
        if checksum == wanted:
            return
        found = f"not the published one ({algorithm} {checksum[:12]}..., not {wanted[:12]}...)"
    path.unlink()
    raise UnmingleError(
        f"{archive.url} was downloaded as a file that is {found}; it was deleted, fetch it again."
    )


def _read_all(name: str, path: Path) -> None:
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(member)
    else:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass


def _unpack(whole: Path, unpacking: Path, root: Path) -> list[str]:
    """Unpack into a folder of the state, then move the files into ``root``; return their paths relative to it."""
    # Files of an interrupted fetch may be incomplete.
    shutil.rmtree(unpacking, ignore_errors=True)
    unpacking.mkdir()
    try:
        if whole.name.endswith(".zip"):
            _unpack_zip(whole, unpacking)
        else:
            _unpack_tar(whole, unpacking)
        return [path.relative_to(root).as_posix() for path in _move_into(unpacking, root)]
    except (UnmingleError, OSError) as error:
        if not isinstance(error, gzip.BadGzipFile | tarfile.TarError):
            raise
        raise _unpack_error(whole, error) from error
    except Exception as error:
        # For example damage, a password, an unknown compression method, or a member outside its folder.
        raise _unpack_error(whole, error) from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def _unpack_error(whole: Path, error: Exception) -> UnmingleError:
    whole.unlink()
    message = in_one_line(error)[:200]
    return UnmingleError(
        f"{whole.name} cannot be unpacked ({message}); it was deleted, and nothing was unpacked."
    )


def _unpack_zip(whole: Path, folder: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        for member in archive.infolist():
            _refuse_escape(member.filename)
        _need_room(folder, whole.name, sum(member.file_size for member in archive.infolist()))
        archive.extractall(folder)


def _unpack_tar(whole: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UnmingleError("Unpacking needs Python 3.11.4 or newer; update Python.")

    def inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        _refuse_escape(member.name)
        _need_room(folder, whole.name, member.size)
        return tarfile.data_filter(member, path)

    with tarfile.open(whole, "r:gz") as archive:
        archive.extractall(folder, filter=inside)


def _refuse_escape(member: str) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise _EscapeError(f"it holds {member!r}, which is outside its folder")
    if any(part.lower() == STATE for part in path.parts[:1]):
        raise _EscapeError(f"it holds {member!r}, which is reserved for the state of fetches")
    if len(path.parts) > _DEEPEST:
        raise _EscapeError(f"it holds folders more than {_DEEPEST} deep")


def _move_into(source: Path, target: Path) -> list[Path]:
    """Merge the content of ``source`` into ``target``; return the new paths."""
    moved = []
    for path in sorted(source.iterdir()):
        goal = target / path.name
        if path.is_dir() and goal.is_dir():
            moved += _move_into(path, goal)
        else:
            path.replace(goal)
            moved.append(goal)
    return moved
