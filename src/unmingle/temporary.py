"""Files and folders that appear whole or not at all, under temporary names that nobody else can have.

A temporary name is random and made with O_EXCL, so neither threads nor containers that share a folder can write
into each other's files. What is being written is locked (``flock``, where the system has it): what a killed process
left has no lock any more, and the next one that writes into the folder removes it.
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

from unmingle.errors import UnmingleError

try:
    import fcntl
except ImportError:  # Windows: no locks, and what a killed process left stays.
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".unmingle-", ".partial"
_STALE_SECONDS = 60.0
"""Between making a file and locking it, others must not take it for left behind."""
_PATIENCE_SECONDS = 10.0
"""Worker processes of a killed one notice its end within seconds."""
_swept: set[Path] = set()


class Replacement:
    """A file that is written under a temporary name; :meth:`keep` gives it its own, :meth:`drop` removes it.

    A link is followed. What is not a regular file (a folder, a device, a pipe) is never replaced. Used as a
    context, it is kept if the block ends well and dropped otherwise.

    Args:
        path: the file's own name; missing folders are made.

    Raises:
        UnmingleError: ``path`` is something else than a regular file.
        OSError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = check_target(path)
        self._made = _make_folders(self.path.parent)
        try:
            _remove_left_behind(self.path.parent)
            self.partial = _exclusively(self.path.parent, _make_file)
            # Unbuffered: a buffer would meet a full disk in a seek, where nobody waits for an error.
            self.file = self.partial.open("r+b", buffering=0)
            _lock(self.file.fileno())
        except OSError:
            _unmake(self._made)
            raise

    def write(self, content: bytes | memoryview) -> None:
        """All of ``content``, however little the system takes at a time."""
        rest = memoryview(content)
        while rest:
            rest = rest[self.file.write(rest) or 0 :]

    def keep(self) -> None:
        """Close the file and give it its own name."""
        self.file.close()
        self.partial.replace(self.path)

    def drop(self) -> None:
        """Remove the file, and the folders that were made for it; nothing if it was kept."""
        self.file.close()
        self.partial.unlink(missing_ok=True)
        _unmake(self._made)

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
    """Write files under temporary names, then rename them all: all appear, or everything stays as it was.

    Raises:
        UnmingleError: a folder cannot be made or written to, the disk is full, or a name is that of something
            else than a regular file.
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


def refusal(path: Path, error: OSError, mend: str = "choose another folder with -o") -> UnmingleError:
    """The sentence about a file or folder that the disk refuses."""
    reason = (error.strerror or str(error)).lower()
    return UnmingleError(f"{path} cannot be written ({reason}); {mend}.")


def check_target(path: Path) -> Path:
    """Where a file of this name would lie, links followed.

    Raises:
        UnmingleError: something else than a regular file has this name.
    """
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except OSError:
        return real  # Nothing there; or a name that nothing can have, which writing will say.
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UnmingleError(f"{path} is {what} and is not replaced; name another output.")
    return real


def check_writable(folder: Path) -> None:
    """Find out before the work whether a folder, made where it is missing, can be written into.

    Raises:
        UnmingleError: it cannot.
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
    """A new folder beside ``target``, removed at the end if it was not renamed.

    Raises:
        OSError: the disk refuses.
    """
    made = _make_folders(target.parent)
    _remove_left_behind(target.parent)
    folder = _exclusively(target.parent, Path.mkdir)
    try:
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unmake(made)


def is_partial(name: str) -> bool:
    """Whether a file or folder of this name is half-written."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def remove_partials(folder: Path) -> None:
    """Remove what stopped processes left half-written in a folder and below it, where :func:`alone` holds."""
    for path in folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        path.unlink()


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Nobody else is inside this block with the same folder, whatever process or container it runs in.

    Where the system has no ``flock`` (Windows) this is not watched.

    Args:
        folder: exists.
        what: is going on, for the sentence: ``mixing``.

    Raises:
        UnmingleError: somebody else is.
    """
    with _held(folder, patient=True) as got:
        if not got:
            raise UnmingleError(
                f"Another process is {what} in {folder} now; wait until it ends, or name another folder."
            )
        yield


@contextmanager
def _held(folder: Path, *, patient: bool = False) -> Iterator[bool]:
    """A lock on a folder, and whether it was free, or became so soon: worker processes end after their parent."""
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        last = time.monotonic() + (_PATIENCE_SECONDS if patient else 0.0)
        while not (got := _lock(descriptor)) and time.monotonic() < last:
            time.sleep(0.05)
        yield got
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks.
    return True


def _exclusively(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make something in ``folder`` under a random name that nothing had."""
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        with suppress(FileExistsError):
            make(path)
            return path


def _make_file(path: Path) -> None:
    # Not mkstemp, whose files only their owner may read: the system takes the umask off these.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns those that were missing, the innermost first."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _unmake(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # Something is in it by now.
        for folder in folders:
            folder.rmdir()


def _remove_left_behind(folder: Path) -> None:
    """Remove what killed processes left: old enough, and locked by nobody. Once per folder and process."""
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
