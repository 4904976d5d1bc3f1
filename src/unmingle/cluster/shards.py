"""Process one shard. Its outputs and results appear when it is complete. Finished files are not repeated.

The output folder contains the outputs (or one tar file per shard), ``results/NUMBER.jsonl`` for each shard with one
row per file, ``job.json``, and in the end ``results.jsonl`` with the rows of all shards.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Container, Iterator, Sequence
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
    """A job on a corpus. All processes have the same value."""

    job: Job
    key: str
    """Hash of the job and its inputs, 12 digits. It is in every row of the results."""
    tar: bool
    """The outputs of a shard are one tar file."""


def begin(
    place: Place, job: Job, shards: Sequence[Shard], *, tar: bool = False, overwrite: bool = False
) -> Corpus:
    """Write ``job.json`` into the output folder, or check that the folder belongs to this job.

    Args:
        place: the output folder.
        job: the work on every file.
        shards: all shards of the corpus.
        tar: write the outputs of a shard as one tar file.
        overwrite: replace another job.

    Raises:
        UnmingleError: the folder contains other files, or the results of another job.
    """
    facts = job.describe() | {"inputs": corpus_hash(shards), "shards": len(shards), "tar": tar}
    content = json.dumps(facts, indent=2).encode() + b"\n"
    there = place.read(_JOB)
    if there is None and place.names() and (there := place.read(_JOB)) is None:
        raise UnmingleError(f"{place.name} holds files of something else; name a new folder with -o.")
    if there is not None and there != content and not overwrite:
        raise UnmingleError(
            f"{place.name} has results of other options, inputs or another model; name a new folder with -o, or "
            "replace them with --overwrite."
        )
    if there != content:
        place.write(_JOB, content)
    return Corpus(job, hashlib.sha256(content).hexdigest()[:12], tar)


def work_through(shard: Shard, corpus: Corpus, place: Place, work: Work) -> list[Row]:
    """Process the missing and failed files of a shard.

    Args:
        shard: the files.
        corpus: the job.
        place: the output folder.
        work: processes a file. If an earlier process has crashed at this shard, a separate process does the same.

    Returns:
        The rows of all files of the shard, in order.

    Raises:
        UnmingleError: the output folder cannot be written. The shard does not change.
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
            _unpack(place.read(_tar_name(shard)), outputs, f"{place.name}/{_tar_name(shard)}")
        seen = set(kept)
        for item, path in open_files(shard, kept, folder / "in"):
            found[item.id] = _one_file(item, path, outputs, corpus, work)
            seen.add(item.id)
            if isinstance(path, Path) and folder in path.parents:
                path.unlink(missing_ok=True)
        # An earlier error of a tar file is left out if the file is complete now.
        rows = [row for id, row in found.items() if id in seen]
        if corpus.tar:
            place.take(_pack(rows, outputs, folder / "packed"), _tar_name(shard))
        else:
            # A process that crashed may have left an incomplete file; no row lists it.
            for name in (name for row in rows for name in row["outputs"] if (outputs / name).is_file()):
                place.take(outputs / name, name)
        # Written last: it marks the shard as complete.
        place.write(_rows_name(shard), b"".join(_line(row) for row in rows))
    return rows


def read_rows(shard: Shard, corpus: Corpus, place: Place) -> list[Row]:
    """The results of a shard by this job. The list is empty if the shard is not complete."""
    content = place.read(_rows_name(shard))
    if content is None:
        return []
    rows = [json.loads(line) for line in content.splitlines()]
    return rows if all(row["job"] == corpus.key for row in rows) else []


def clear(shards: Sequence[Shard], mine: Sequence[Shard], corpus: Corpus, place: Place) -> None:
    """Remove results and outputs of any job, but not what other processes have finished of the new one.

    Args:
        shards: all shards of the new job. What an earlier job with more shards has left goes, too.
        mine: the shards to remove.
        corpus: the new job.
        place: the output folder.
    """
    new = {shard.name for shard in shards}
    old = {name.partition(".")[0] for name in place.names(_RESULTS)} - new
    others = [shard for shard in shards if shard not in mine]
    # An output may have been in another shard of the earlier job.
    finished = {
        name for shard in others for row in read_rows(shard, corpus, place) for name in row["outputs"]
    }
    for name in [*(shard.name for shard in mine), *sorted(old)]:
        _clear(name, finished, place)


def _clear(shard: str, finished: Container[str], place: Place) -> None:
    content = place.read(f"{_RESULTS}/{shard}.jsonl")
    for name in (f"{_RESULTS}/{shard}.jsonl", f"{_RESULTS}/{shard}.begun", f"{shard}.tar"):
        place.remove(name)
    for row in map(json.loads, (content or b"").splitlines()):
        for name in row["outputs"]:
            if name not in finished:
                place.remove(name)


def join_results(shards: Sequence[Shard], corpus: Corpus, place: Place) -> bool:
    """Write ``results.jsonl`` if all shards are complete by this job. Returns whether they are."""
    there = set(place.names(_RESULTS))
    if not all(f"{shard.name}.jsonl" in there for shard in shards):
        return False
    with place.staging() as folder:
        joined = folder / "results.jsonl"
        with joined.open("wb") as file:
            for shard in shards:
                rows = read_rows(shard, corpus, place)
                if not rows:
                    return False
                file.write(b"".join(_line(row) for row in rows))
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
    # Values that differ between runs are left out, so that the same job gives the same bytes.
    row |= {key: value for key, value in result.items() if key not in ("input", "real_time_factor")}
    if row["error"] is None:
        row["outputs"] = [Path(output).relative_to(outputs).as_posix() for output in row["outputs"]]
        return row
    if isinstance(path, Path):
        row["error"] = row["error"].replace(str(path), item.source)
    if any(reason in row["error"].lower() for reason in _FULL):
        raise UnmingleError(
            f"{row['error']} The same command without --overwrite goes on when there is room."
        )
    row |= {"outputs": [], "status": "skipped" if row["status"] == "skipped" else "failed"}
    return row


@contextmanager
def _begun(shard: Shard, place: Place, staging: str) -> Iterator[bool]:
    """Mark a shard as started. Yields whether an earlier process was killed or crashed at this shard."""
    name = f"{_RESULTS}/{shard.name}.begun"
    before = place.read(name)
    if before is not None:
        place.drop_staging(before.decode())
    place.write(name, staging.encode())
    try:
        yield before is not None
    except BaseException:
        # Ctrl-C or a full disk is not a crash at a file.
        if before is None:
            with suppress(UnmingleError):
                place.remove(name)
        raise
    place.remove(name)


def _pack(rows: Sequence[Row], outputs: Path, target: Path) -> Path:
    """One tar file of all outputs, each followed by its row. It has no times and owners."""
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


def _unpack(content: bytes | None, outputs: Path, name: str) -> None:
    if content is None:
        raise UnmingleError(f"{name} is missing; put it back, or start anew with --overwrite.")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(outputs, filter="data")
