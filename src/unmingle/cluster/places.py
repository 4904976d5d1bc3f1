"""Output folders by path or URL: local ones, and with fsspec ``s3://``, ``gs://``, ``memory://`` and others."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from unmingle.errors import UnmingleError, in_one_line
from unmingle.remote import file_system, is_url, refused
from unmingle.temporary import check_writable, is_partial, refusal, replace_files, temporary_folder


class Place(Protocol):
    """An output folder. A file appears when it is complete. Names are relative, with ``/``."""

    name: str
    """Its absolute path or URL."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None if it does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""

    def take(self, path: Path, name: str) -> None:
        """Move a local file from :meth:`staging` into this folder."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder without hidden ones. The list is empty if the folder does not exist."""

    def staging(self) -> AbstractContextManager[Path]:
        """A new local folder for unfinished files. It is removed at the end."""

    def drop_staging(self, name: str) -> None:
        """Remove the staging folder of this name that a killed process has left, if it exists."""


def open_place(name: str) -> Place:
    """An output folder. It is created with the first file.

    Raises:
        UnmingleError: it cannot be written, or fsspec does not know this kind of URL.
    """
    return _Remote(name) if is_url(name) else _Local(Path(name))


class _Local:
    """A folder of this machine, or one that several machines share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.name = str(self._folder)
        check_writable(self._folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnmingleError(f"{self._folder / name} cannot be read ({in_one_line(error)}).") from error

    def write(self, name: str, content: bytes) -> None:
        replace_files([(self._folder / name, content)])

    def take(self, path: Path, name: str) -> None:
        target = self._folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        except OSError as error:
            raise refusal(target, error) from error

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(p.name for p in (self._folder / folder).iterdir() if not p.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def staging(self) -> Iterator[Path]:
        try:
            # In the folder itself, because finished files are renamed, which needs the same file system.
            with temporary_folder(self._folder / "staging") as folder:
                yield folder
        except OSError as error:
            raise refusal(self._folder, error) from error

    def drop_staging(self, name: str) -> None:
        if name and name == Path(name).name and is_partial(name):
            shutil.rmtree(self._folder / name, ignore_errors=True)


class _Remote:
    """A folder of an object store. An object appears when it is complete, so no renaming is needed."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._files, self._root = file_system(url)

    def read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise refused(f"{self.name}/{name}", "read", error) from error
        return content

    def write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, content)
        except Exception as error:
            raise refused(f"{self.name}/{name}", "written", error) from error

    def take(self, path: Path, name: str) -> None:
        target = f"{self._root}/{name}"
        try:
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), target)
        except Exception as error:
            raise refused(f"{self.name}/{name}", "written", error) from error
        path.unlink()

    def remove(self, name: str) -> None:
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise refused(f"{self.name}/{name}", "removed", error) from error

    def names(self, folder: str = "") -> list[str]:
        try:
            self._files.invalidate_cache()
            found = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise refused(f"{self.name}/{folder}", "read", error) from error
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="unmingle-") as folder:
            yield Path(folder)

    def drop_staging(self, name: str) -> None:
        """Nothing to do: staging folders are in the temporary folder of a machine."""
