"""Options and output of the commands that can process a corpus in shards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from unmingle.cli.options import check_range, require
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.cluster.corpus_run import Progress
    from unmingle.cluster.jobs import Job

Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process share I of N of a corpus, with one thread unless --threads is given; finished files are not "
        "repeated.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|ADDRESS",
        help="Process a corpus on Ray (extra cluster); auto: a cluster that runs here, or this machine.",
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size", metavar="FILES", help="With --shard or --cluster: files per shard (default: 100)."
    ),
]
Tar = Annotated[
    bool,
    typer.Option(
        "--tar", help="With --shard or --cluster: write one tar file per shard, not a folder of files."
    ),
]

_SECONDS_PER_LINE = 10.0


@dataclass(frozen=True)
class CorpusOptions:
    """The options of a run on a corpus."""

    shard: str | None
    cluster: str | None
    shard_size: int | None
    tar: bool

    def in_shards(self) -> bool:
        """Whether the files are a corpus that is processed in shards.

        Raises:
            UnmingleError: the options exclude each other.
        """
        if self.shard is not None and self.cluster is not None:
            raise UnmingleError("--shard and --cluster do not go together; Ray does all shards.")
        if self.shard is None and self.cluster is None:
            if self.tar or self.shard_size is not None:
                raise UnmingleError("--tar and --shard-size go with --shard or --cluster; add --shard 1/1.")
            return False
        check_range("--shard-size", self.shard_size, 1, 1_000_000)
        return True


def model_name(name: str | None, default: str) -> str:
    """A model's name, or its absolute path, so that other processes find it too.

    Raises:
        UnmingleError: there is no such model.
    """
    from unmingle.models import find_model, model_names

    return (
        name or default if (name or default) in model_names() else str(find_model(name or default).absolute())
    )


def do_corpus(
    job: Job, names: Sequence[str], output: str, options: CorpusOptions, *, overwrite: bool, as_json: bool
) -> None:
    """Run a job on a corpus, and show the progress in a line.

    Raises:
        UnmingleError: the options are impossible, or files failed.
    """
    from unmingle.cluster.corpus_run import Options, in_this_process, run_corpus
    from unmingle.shares import WHOLE, parse_share

    engine, share = in_this_process, WHOLE
    if options.shard is not None:
        share = parse_share(options.shard)
    else:
        require("cluster", "ray", "fsspec")
        from unmingle.cluster.ray_pool import RayPool

        engine = RayPool(options.cluster or "auto")
    where = Options(names, output, options.shard_size or 100, options.tar, overwrite)
    show = _Line()
    try:
        progress = run_corpus(job, where, engine, share, show)
    finally:
        show.end()
    if as_json:
        print(
            json.dumps(
                {
                    "shards": progress.shards,
                    "files": progress.files,
                    "failed": progress.failed,
                    "skipped": progress.skipped,
                },
                indent=2,
            )
        )
    else:
        print(progress)
    if progress.failed:
        raise UnmingleError(
            f"{progress.failed} of {progress.files} files failed; {output}/results says why, and the same command "
            "tries them again."
        )
    if progress.skipped:
        raise UnmingleError(
            f"{progress.skipped} of {progress.files} files were skipped, because they end the process that works on "
            f"them; {output}/results names them."
        )


class _Line:
    """Progress of a run: on a terminal one line that is overwritten, elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._last, self._open = 0.0, False

    def __call__(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            print(f"\r{progress}\x1b[K", end="", file=sys.stderr, flush=True)
            self._open = True
        elif time.monotonic() - self._last > _SECONDS_PER_LINE:
            print(progress, file=sys.stderr, flush=True)
            self._last = time.monotonic()

    def end(self) -> None:
        if self._open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
