"""The inputs of a corpus: files of manifests, folders, globs and URLs, in shards. A tar file is one shard.

A manifest is a CSV file or JSON lines with the column ``path``, relative to the manifest. The optional column ``id``
names the outputs. Every audio file in a tar file is an input.
"""

from __future__ import annotations

import glob
import hashlib
import json
import posixpath
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from unmingle.audio_names import AUDIO_SUFFIXES
from unmingle.data.tables import parse_table
from unmingle.errors import UnmingleError, in_one_line
from unmingle.file_batches import find_inputs, find_roots, without_results
from unmingle.remote import fetch, file_system, is_url, open_binary, read_bytes

_MANIFESTS = (".csv", ".jsonl")
_TAR = ".tar"


@dataclass(frozen=True)
class Item:
    """One file of a corpus."""

    id: str
    """Unique name of its outputs. It may contain folders: ``monday/talk``."""
    source: str
    """Absolute path, URL, or ``TAR!MEMBER``."""


@dataclass(frozen=True)
class Shard:
    """The unit of work: some files, or one tar file."""

    name: str
    """Name of its results, such as ``00012``."""
    items: tuple[Item, ...] = ()
    tar: str | None = None
    """Path or URL of a tar file. Its members are listed when it is read."""
    stem: str = ""
    """Prefix of the ids of the tar file's members."""


def read_corpus(names: Sequence[str], shard_size: int, output: str | None = None) -> list[Shard]:
    """The shards of a corpus, in order. A shard has ``shard_size`` files, or is a tar file.

    Args:
        names: manifests, audio files, folders, globs, tar files; paths, or URLs that fsspec knows.
        shard_size: files per shard.
        output: folder of the outputs. If it lies in a folder of ``names``, its files are left out.

    Raises:
        UnmingleError: a manifest is malformed, an id occurs twice, or a folder or glob holds no file.
    """
    results = None if output is None or is_url(output) else Path(output)
    found = [each for name in names for each in _find(name, results)]
    shards: list[Shard] = []
    waiting: list[Item] = []

    def cut(least: int) -> None:
        while len(waiting) >= least:
            shards.append(Shard(f"{len(shards):05d}", tuple(waiting[:shard_size])))
            del waiting[:shard_size]

    for item in _distinct(found):
        if item.source.lower().endswith(_TAR):
            cut(1)
            shards.append(Shard(f"{len(shards):05d}", tar=item.source, stem=item.id))
        else:
            waiting.append(item)
            cut(shard_size)
    cut(1)
    return shards


def corpus_hash(shards: Sequence[Shard]) -> str:
    """A hash of the ids in their order, 12 digits. It does not depend on the location of the files."""
    digest = hashlib.sha256()
    for shard in shards:
        for line in (shard.name, shard.stem, *(item.id for item in shard.items)):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _Found:
    source: str
    stem: str
    given: bool = False
    """Whether a manifest has the id. Then it is not changed."""


def _find(name: str, output: Path | None) -> Iterator[_Found]:
    if name.lower().endswith(_MANIFESTS):
        yield from _read_manifest(name)
    elif is_url(name):
        yield from _find_remote(name)
    else:
        yield from _find_local(name, output)


def _find_local(name: str, output: Path | None) -> Iterator[_Found]:
    path = Path(name)
    roots = find_roots([name])
    tars = without_results(sorted(path.rglob("*.tar")), path, output) if roots else []
    files, problems = find_inputs([name], output)
    if problems and not tars:
        raise UnmingleError(problems[0].error)
    for file in [*files, *tars]:
        stem = file.relative_to(roots[0]).with_suffix("") if roots else Path(file.stem)
        yield _Found(str(file.absolute()), stem.as_posix())


def _find_remote(name: str) -> Iterator[_Found]:
    files, path = file_system(name)
    try:
        if glob.has_magic(path):
            found, root = sorted(files.glob(path)), None
        elif files.isdir(path):
            found, root = sorted(files.find(path)), path
        else:
            found, root = [path], None
    except Exception as error:
        raise UnmingleError(f"{name} cannot be read ({in_one_line(error)}).") from error
    if found != [path]:
        found = [each for each in found if _suffix(each) in AUDIO_SUFFIXES | {_TAR}]
    if not found:
        raise UnmingleError(f"{name} holds no audio files; check the name.")
    for each in found:
        stem = posixpath.relpath(each, root) if root is not None else posixpath.basename(each)
        yield _Found(files.unstrip_protocol(each), posixpath.splitext(stem)[0])


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _read_manifest(name: str) -> Iterator[_Found]:
    folder = name.rpartition("/")[0] if is_url(name) else str(Path(name).absolute().parent)
    for number, row in _rows(name, read_bytes(name)):
        path, given = row.get("path"), row.get("id") or ""
        if not isinstance(path, str) or not path or not isinstance(given, str):
            raise UnmingleError(
                f"The manifest {name} needs text in the column path (and id); row {number} has none."
            )
        source = path if is_url(path) or path.startswith("/") else f"{folder}/{path}"
        yield _Found(source, given or PurePosixPath(path).stem, bool(given))


def _rows(name: str, content: bytes) -> Iterator[tuple[int, Mapping[str, object]]]:
    if name.lower().endswith(".csv"):
        columns, table = parse_table(content, f"The manifest {name}")
        if "path" not in columns:
            raise UnmingleError(f"The manifest {name} lacks the column path; name it in the first row.")
        yield from enumerate(table, start=2)
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnmingleError(f"The manifest {name} is not in UTF-8; save it as such.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UnmingleError(f"The manifest {name} is not JSON lines; row {number} is not an object.")
        yield number, row


def _distinct(found: Sequence[_Found]) -> Iterator[Item]:
    """Items with the ids of the manifests, and with numbers where files have the same name."""
    taken: set[str] = set()
    for each in found:
        if each.given:
            if each.stem.casefold() in taken:
                raise UnmingleError(
                    f"The id {each.stem!r} occurs twice in the manifests; give every file its own."
                )
            taken.add(each.stem.casefold())
    for each in found:
        yield Item(each.stem if each.given else _numbered(each.stem, taken), each.source)


def _numbered(stem: str, taken: set[str]) -> str:
    # Case is folded because some file systems do.
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return name


def open_files(
    shard: Shard, done: Collection[str], folder: Path
) -> Iterator[tuple[Item, Path | UnmingleError]]:
    """The remaining files of a shard, each with a local path, or with the error if it cannot be read.

    Remote files are copied into ``folder``, one file ahead of the current one. The caller removes each after use.

    Args:
        shard: the shard.
        done: ids to leave out.
        folder: for copies.
    """
    if shard.tar is not None:
        yield from _ahead(_members(shard, done, folder))
    else:
        items = [item for item in shard.items if item.id not in done]
        if any(is_url(item.source) for item in items):
            yield from _ahead(_fetched(items, folder))
        else:
            yield from ((item, Path(item.source)) for item in items)


def _fetched(items: Sequence[Item], folder: Path) -> Iterator[tuple[Item, Path | UnmingleError]]:
    for number, item in enumerate(items):
        if not is_url(item.source):
            yield item, Path(item.source)
            continue
        path = folder / str(number) / (posixpath.basename(item.source) or "file")
        try:
            fetch(item.source, path)
        except UnmingleError as error:
            yield item, error
        else:
            yield item, path


def _members(
    shard: Shard, done: Collection[str], folder: Path
) -> Iterator[tuple[Item, Path | UnmingleError]]:
    assert shard.tar is not None
    taken: set[str] = set()
    whole = Item(shard.stem, shard.tar)
    try:
        with open_binary(shard.tar) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for number, member in enumerate(tar):
                name = PurePosixPath(member.name)
                if not member.isfile() or name.suffix.lower() not in AUDIO_SUFFIXES:
                    continue
                item = Item(
                    _numbered(f"{shard.stem}/{name.with_suffix('')}", taken), f"{shard.tar}!{member.name}"
                )
                if item.id in done:
                    continue
                content = tar.extractfile(member)
                assert content is not None
                path = folder / str(number) / name.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as copy:
                    shutil.copyfileobj(content, copy)
                yield item, path
        if not taken:
            yield whole, UnmingleError(f"{shard.tar} has no audio files; leave it out.")
    except UnmingleError as error:
        yield whole, error
    except Exception as error:
        yield (
            whole,
            UnmingleError(f"{shard.tar} cannot be read to its end as a tar file ({in_one_line(error)})."),
        )


Taken = TypeVar("Taken")


def _ahead(items: Iterator[Taken]) -> Iterator[Taken]:
    """The same items. A thread fetches each one while the caller processes the one before."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
