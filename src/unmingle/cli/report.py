"""``unmingle report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.cli.options import require


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that `unmingle evaluate` wrote.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Compare what was scored, on one page: tables, paired tests, pictures, worst and best to listen to.

    The others are compared with the first RUN, whose worst and best mixtures, spectrograms and
    embeddings are shown. One HTML file that needs no network.
    """
    require("evaluate", "matplotlib", "jinja2", "scipy")
    from rich.console import Console

    from unmingle.evaluation.report import write_report

    console = Console(stderr=True)
    with console.status("looking into the results"):
        write_report(runs, output)
    print(output)
