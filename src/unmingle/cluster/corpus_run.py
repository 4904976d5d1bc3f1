"""Run a job on a corpus: one process's share of the shards, or all shards on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from unmingle.cluster.jobs import Job
from unmingle.cluster.manifests import Shard, read_corpus
from unmingle.cluster.places import Place, open_place
from unmingle.cluster.shards import Corpus, Row, begin, clear, join_results, read_rows, work_through
from unmingle.shares import WHOLE, Share

Engine = Callable[[Sequence[Shard], Corpus, Place], Iterator[list[Row]]]
"""Processes shards in any order and yields the rows of each."""


@dataclass(frozen=True)
class Options:
    """Inputs and output of a run."""

    inputs: Sequence[str]
    """See :func:`~unmingle.cluster.manifests.read_corpus`."""
    output: str
    """A folder, or a URL that fsspec knows."""
    shard_size: int = 100
    """Files per shard."""
    tar: bool = False
    """Write the outputs of a shard as one tar file."""
    overwrite: bool = False
    """Replace existing results."""


@dataclass
class Progress:
    """Progress of a run."""

    all_shards: int
    shards: int = 0
    files: int = 0
    failed: int = 0
    """Files that failed, in this run or before. They are tried again."""
    skipped: int = 0
    """Files that end every process that works on them. They are not tried again."""
    new_shards: int = 0
    """Shards of this run, like the files and seconds below."""
    new_files: int = 0
    new_audio_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, rows: Iterable[Row], *, new: bool) -> None:
        """Count a finished shard by its rows."""
        self.shards += 1
        self.new_shards += new
        for row in rows:
            self.files += 1
            self.failed += row["status"] == "failed"
            self.skipped += row["status"] == "skipped"
            self.new_files += new
            self.new_audio_seconds += new * row.get("seconds", 0.0)

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.began, 1e-9)
        line = f"{self.shards}/{self.all_shards} shards, {self.files} files, {self.failed} failed"
        if self.skipped:
            line += f", {self.skipped} skipped"
        if not self.new_shards:
            return line
        left = (self.all_shards - self.shards) * seconds / self.new_shards
        files, audio = self.new_files / seconds, self.new_audio_seconds / seconds
        return f"{line}, {files:.1f} files/s, {audio:.1f} audio hours/hour, {left / 60:.0f} min left"


def run_corpus(
    job: Job,
    options: Options,
    engine: Engine,
    share: Share = WHOLE,
    tell: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run a job on a corpus, or on a share of it. Finished files are not repeated; failed ones are tried again.

    Args:
        job: the work on every file.
        options: inputs and output.
        engine: :func:`in_this_process`, or Ray.
        share: the shards of this process.
        tell: called after every shard.

    Raises:
        UnmingleError: the options are not valid, or the output folder cannot be written. Call again to continue.
    """
    place = open_place(options.output)
    shards = read_corpus(options.inputs, options.shard_size, options.output)
    corpus = begin(place, job, shards, tar=options.tar, overwrite=options.overwrite)
    mine = share.pick(shards)
    if options.overwrite:
        clear(shards, mine, corpus, place)
    progress, missing = Progress(len(mine)), []
    for shard in mine:
        rows = read_rows(shard, corpus, place)
        if rows and all(row["status"] != "failed" for row in rows):
            progress.add(rows, new=False)
        else:
            missing.append(shard)
    if tell:
        tell(progress)
    for rows in engine(missing, corpus, place) if missing else ():
        progress.add(rows, new=True)
        if tell:
            tell(progress)
    join_results(shards, corpus, place)
    return progress


def in_this_process(shards: Sequence[Shard], corpus: Corpus, place: Place) -> Iterator[list[Row]]:
    """One shard after the other, with one model."""
    work = corpus.job.open()
    for shard in shards:
        yield work_through(shard, corpus, place, work)
