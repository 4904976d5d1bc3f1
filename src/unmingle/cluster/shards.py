"""Work through one shard: its outputs and its results appear when all of it is done, and what is done is not redone.

In the output folder lie the outputs (or one tar file per shard), ``results/NUMBER.jsonl`` per shard with one row per
file, ``job.json``, and ``results.jsonl`` with the rows of all shards when all are done.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmingle.cluster.isolation import Isolation
from unmingle.cluster.jobs import Job, Work
from unmingle.cluster.manifests import Item, Shard, corpus_hash, open_files
from unmingle.cluster.places import Place
from unmingle.errors import UnmingleError

_JOB, _RESULTS = "job.json", "results"
_FULL = tuple(os.strerror(code).lower() for code in (errno.ENOSPC, errno.EDQUOT))

Row = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """A job over a corpus, as all of its processes see it."""

    job: Job
    key: str
    """Twelve digits that stand for the job and its inputs; every row of the results bears them."""
    tar: bool
    """The outputs of a shard are one tar file."""


def begin(
    place: Place, job: Job, shards: Sequence[Shard], *, tar: bool = False, overwrite: bool = False
) -> Corpus:
    """Write down which job an output folder is for, or find that it is for this one.

    Args:
        place: the output folder.
        job: what is done.
        shards: all of the corpus.
        tar: write the outputs of a shard as one tar file.
        overwrite: let this job replace another one.

    Raises:
        UnmingleError: the folder holds other files, or the results of another job.
    """
    facts = job.describe() | {"inputs": corpus_hash(shards), "shards": len(shards), "tar": tar}
    content = json.dumps(facts, indent=2).encode() + b"\n"
    there = place.read(_JOB)
    if there is None and place.names() and (there := place.read(_JOB)) is None:
        raise UnmingleError(f"{place.name} holds files of something else; name a new folder with -o.")
    if there is not None and there != content and not overwrite:
        raise UnmingleError(
            f"{place.name} holds results of other options, inputs or another model; name a new folder with -o, "
            "or start anew with --overwrite."
        )
    if there != content:
        place.write(_JOB, content)
    return Corpus(job, hashlib.sha256(content).hexdigest()[:12], tar)


def work_through(shard: Shard, corpus: Corpus, place: Place, work: Work) -> list[Row]:
    """Do what is missing of a shard, or failed.

    Args:
        shard: the files.
        corpus: the job.
        place: the output folder.
        work: what is done to a file. Where an earlier process has ended at this shard, the same is done in a
            process of its own.

    Returns:
        The rows of all of its files, in their order.

    Raises:
        UnmingleError: the output folder cannot be written to; the shard is as it was.
    """
    found = {row["id"]: row for row in read_rows(shard, corpus, place)}
    kept = {id for id, row in found.items() if row["status"] != "failed"}
    if found and len(kept) == len(found):
        return list(found.values())
    with ExitStack() as stack:
        folder = stack.enter_context(place.staging())
        if stack.enter_context(_begun(shard, place, folder.name)):
            work = stack.enter_context(Isolation(corpus.job))
        outputs = folder / "out"
        outputs.mkdir()
        if corpus.tar and kept:
            _unpack(place.read(_tar_name(shard)), outputs)
        seen = set(kept)
        for item, path in open_files(shard, kept, folder / "in"):
            found[item.id] = _one_file(item, path, outputs, corpus, work)
            seen.add(item.id)
            if isinstance(path, Path) and folder in path.parents:
                path.unlink(missing_ok=True)
        # Without the error of a tar file that is whole by now.
        rows = [row for id, row in found.items() if id in seen]
        if corpus.tar:
            place.take(_pack(rows, outputs, folder / "packed"), _tar_name(shard))
        else:
            for path in sorted(path for path in outputs.rglob("*") if path.is_file()):
                place.take(path, path.relative_to(outputs).as_posix())
        # Last: it says that all of the shard is there.
        place.write(_rows_name(shard), b"".join(_line(row) for row in rows))
    return rows


def read_rows(shard: Shard, corpus: Corpus, place: Place) -> list[Row]:
    """The results of a shard that were written by this job, none if it is not done."""
    content = place.read(_rows_name(shard))
    if content is None:
        return []
    rows = [json.loads(line) for line in content.splitlines()]
    return rows if all(row["job"] == corpus.key for row in rows) else []


def clear(shard: Shard, place: Place) -> None:
    """Remove a shard's results and outputs, of whatever job."""
    content = place.read(_rows_name(shard))
    for name in (_rows_name(shard), _tar_name(shard)):
        place.remove(name)
    for row in map(json.loads, (content or b"").splitlines()):
        for name in row["outputs"]:
            place.remove(name)


def join_results(shards: Sequence[Shard], place: Place) -> bool:
    """Write ``results.jsonl``, if all shards are done; returns whether they are."""
    there = set(place.names(_RESULTS))
    if not all(f"{shard.name}.jsonl" in there for shard in shards):
        return False
    with place.staging() as folder:
        joined = folder / "results.jsonl"
        with joined.open("wb") as file:
            for shard in shards:
                file.write(place.read(_rows_name(shard)) or b"")
        place.take(joined, joined.name)
    return True


def _rows_name(shard: Shard) -> str:
    return f"{_RESULTS}/{shard.name}.jsonl"


def _tar_name(shard: Shard) -> str:
    return f"{shard.name}.tar"


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _one_file(item: Item, path: Path | UnmingleError, outputs: Path, corpus: Corpus, work: Work) -> Row:
    row: Row = {"id": item.id, "input": item.source, "status": "done", "job": corpus.key, "outputs": []}
    result = {"error": str(path)} if isinstance(path, UnmingleError) else work(path, item.id, outputs)
    # What differs from run to run is left out: the same job gives the same bytes.
    row |= {key: value for key, value in result.items() if key not in ("input", "real_time_factor")}
    if row["error"] is None:
        row["outputs"] = [Path(output).relative_to(outputs).as_posix() for output in row["outputs"]]
        return row
    row["error"] = row["error"].replace(str(path), item.source)
    if any(reason in row["error"].lower() for reason in _FULL):
        raise UnmingleError(f"{row['error']} The same command goes on when there is room.")
    row |= {"outputs": [], "status": "skipped" if row["status"] == "skipped" else "failed"}
    return row


@contextmanager
def _begun(shard: Shard, place: Place, staging: str) -> Iterator[bool]:
    """Notes that a shard is at work; yields whether a process has ended at it before, by ``kill -9`` or a crash."""
    name = f"{_RESULTS}/{shard.name}.begun"
    before = place.read(name)
    if before is not None:
        place.drop_staging(before.decode())
    place.write(name, staging.encode())
    try:
        yield before is not None
    except BaseException:
        # Ctrl-C or a full disk: this process has not ended at a file.
        if before is None:
            with suppress(UnmingleError):
                place.remove(name)
        raise
    place.remove(name)


def _pack(rows: Sequence[Row], outputs: Path, target: Path) -> Path:
    """One tar file of all outputs, each followed by its row, without times and owners."""
    with tarfile.open(target, "w") as tar:
        for row in rows:
            for name in row["outputs"]:
                with (outputs / name).open("rb") as file:
                    tar.addfile(_member(name, (outputs / name).stat().st_size), file)
            content = _line(row)
            tar.addfile(_member(f"{row['id']}.json", len(content)), io.BytesIO(content))
    return target


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _unpack(content: bytes | None, outputs: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content or b"")) as tar:
        tar.extractall(outputs, filter="data")
