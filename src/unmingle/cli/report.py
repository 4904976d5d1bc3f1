"""``unmingle report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.cli.options import Threads, require, set_threads


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders written by `unmingle evaluate`.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")
    ] = Path("report.html"),
    threads: Threads = None,
) -> None:
    """Compare scored systems on one page.

    It has tables, paired tests, figures and audio. Every RUN is compared with the first one. For the
    first, the page shows spectrograms, embeddings, and its worst and best mixtures to listen to. The
    page is one HTML file that needs no network.
    """
    require("evaluate", "matplotlib", "jinja2", "scipy")
    from unmingle.cli.progress import TerminalProgress

    set_threads(threads)
    from unmingle.evaluation.report import write_report

    with TerminalProgress() as progress:
        task = progress.add_task("separating the best and worst mixtures", total=None)
        write_report(runs, output, lambda done, total: progress.update(task, completed=done, total=total))
    print(output)
