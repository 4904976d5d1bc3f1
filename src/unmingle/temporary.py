"""Atomic files and folders: they are written under unique temporary names and appear complete or not at all.

A temporary name is random and created with O_EXCL, so threads and containers that share a folder never write into
each other's files. A temporary file is locked (``flock``) while it is written. Files of a killed process have no
lock; the next process that writes into the folder removes them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from unmingle.errors import UnmingleError, reason

try:
    import fcntl
except ImportError:  # Windows: there are no locks, and files of a killed process stay.
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".unmingle-", ".partial"
_STALE_SECONDS = 60.0
"""Younger files are not removed: they may not be locked yet."""
_PATIENCE_SECONDS = 10.0
"""How long to wait for a lock: worker processes of a killed process end within seconds."""
_swept: set[Path] = set()


class Replacement:
    """A file that is written under a temporary name. :meth:`keep` renames it, :meth:`drop` removes it.

    Links are followed. Only regular files are replaced, never a folder, device or pipe. As a context manager, it
    keeps the file if the block succeeds and drops it otherwise.

    Args:
        path: final path of the file; missing folders are created.

    Raises:
        UnmingleError: ``path`` exists and is not a regular file.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = check_target(path)
        self._made = _make_folders(self.path.parent)
        try:
            _remove_stale(self.path.parent)
            self.partial = _exclusively(self.path.parent, _make_file)
            # Unbuffered, because a buffer may be flushed by a seek, where the error of a full disk is not handled.
            self.file = self.partial.open("r+b", buffering=0)
            _lock(self.file.fileno())
        except OSError:
            _remove_empty(self._made)
            raise

    def write(self, content: bytes | memoryview) -> None:
        """Write all of ``content``, even if the system accepts only a part at a time."""
        rest = memoryview(content)
        while rest:
            rest = rest[self.file.write(rest) or 0 :]

    def keep(self) -> None:
        """Close the file and rename it to its final path."""
        self.file.close()
        self.partial.replace(self.path)

    def drop(self) -> None:
        """Remove the file and the folders created for it; do nothing if it was kept."""
        self.file.close()
        self.partial.unlink(missing_ok=True)
        _remove_empty(self._made)

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.keep()
        finally:
            self.drop()


def replace_files(contents: Sequence[tuple[Path, bytes | memoryview]]) -> None:
    """Write files under temporary names, then rename them all. Either all appear, or nothing changes.

    Raises:
        UnmingleError: a folder cannot be created or written, the disk is full, or a path exists and is not a
            regular file.
    """
    written: list[Replacement] = []
    path = Path()
    try:
        try:
            for path, content in contents:
                written.append(Replacement(path))
                written[-1].write(content)
            for replacement in written:
                path = replacement.path
                replacement.keep()
        finally:
            for replacement in reversed(written):
                replacement.drop()
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: OSError, remedy: str = "choose another place") -> UnmingleError:
    """The error for a file or folder that cannot be written."""
    return UnmingleError(f"{path} cannot be written ({reason(error)}); {remedy}.")


def check_target(path: Path) -> Path:
    """The path of a file with links resolved.

    Raises:
        UnmingleError: the path exists and is not a regular file.
    """
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except OSError:
        return real  # Nothing there, or an impossible name; writing gives the error.
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise UnmingleError(f"{path} is {what} and is not replaced; choose another output.")
    return real


def check_writable(folder: Path) -> None:
    """Check before the work starts that a folder exists, or can be created, and is writable.

    Raises:
        UnmingleError: it is not writable.
    """
    there = Path(os.path.realpath(folder))
    try:
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        _exclusively(there, _make_file).unlink()
    except OSError as error:
        raise refusal(folder, error) from error


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``. It is removed at the end unless it was renamed.

    Raises:
        OSError: the folder cannot be created.
    """
    made = _make_folders(target.parent)
    _remove_stale(target.parent)
    folder = _exclusively(target.parent, Path.mkdir)
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)


def is_partial(name: str) -> bool:
    """Whether this is the temporary name of an unfinished file or folder."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def remove_partials(folder: Path) -> None:
    """Remove temporary files of interrupted processes in a folder and below, under :func:`exclusive_access`."""
    for path in folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        path.unlink()


@contextmanager
def exclusive_access(folder: Path, what: str) -> Iterator[None]:
    """Exclusive access to a folder, across processes and containers.

    Without ``flock`` (Windows) it is not enforced.

    Args:
        folder: an existing folder.
        what: the activity, for error texts: ``mixing``.

    Raises:
        UnmingleError: another process has access.
    """
    with _locked(folder, patient=True) as got:
        if not got:
            raise _busy(folder, what)
        yield


@contextmanager
def shared_access(folder: Path, what: str) -> Iterator[None]:
    """Access to a folder beside others who share it, while nobody has exclusive access.

    Args:
        folder: an existing folder.
        what: the activity, for error texts: ``mixing``.

    Raises:
        UnmingleError: another process has exclusive access.
    """
    with _locked(folder, patient=True, shared=True) as got:
        if not got:
            raise _busy(folder, what)
        yield


def _busy(folder: Path, what: str) -> UnmingleError:
    return UnmingleError(
        f"Another process is {what} in {folder}; wait until it ends, or choose another folder."
    )


@contextmanager
def access_if_alone(folder: Path) -> Iterator[bool]:
    """Exclusive access to a folder, if it is there and nobody else has access; yields whether that is so."""
    if not folder.is_dir():
        yield False
        return
    with _locked(folder, patient=True) as got:
        yield got


@contextmanager
def taking_turns(target: Path) -> Iterator[None]:
    """Wait until no other process of this machine is in this context for the same target.

    Used where the first makes what all need. Without ``flock`` (Windows, some file systems) nobody waits.

    Raises:
        OSError: the folder of the target cannot be written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    descriptor = _turn(path)
    try:
        yield
    finally:
        # While it is held. Those who wait for it make a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _turn(path: Path) -> int:
    """The descriptor of a lock file that is there and that this process holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:
            return descriptor
        with suppress(OSError):  # A file system without locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # Its last holder has removed it.


@contextmanager
def _locked(folder: Path, *, patient: bool = False, shared: bool = False) -> Iterator[bool]:
    """Lock a folder or file; yields whether that succeeded.

    ``patient`` waits for the lock, because worker processes end shortly after their parent.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        last = time.monotonic() + (_PATIENCE_SECONDS if patient else 0.0)
        while not (got := _lock(descriptor, shared=shared)) and time.monotonic() < last:
            time.sleep(0.05)
        yield got
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks.
    return True


def _exclusively(folder: Path, make: Callable[[Path], None]) -> Path:
    """Create something in ``folder`` under a new random name."""
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        with suppress(FileExistsError):
            make(path)
            return path


def _make_file(path: Path) -> None:
    # Not mkstemp, whose files only the owner can read. These files follow the umask.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the new ones, the innermost first."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # Fails if a folder is not empty.
        for folder in folders:
            folder.rmdir()


def _remove_stale(folder: Path) -> None:
    """Remove files of killed processes, which are old and not locked; once per folder and process."""
    if fcntl is None or folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _STALE_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)
