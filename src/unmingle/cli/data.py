"""``unmingle data``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmingle.cli.options import require
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.data.fetching import Archive
    from unmingle.data.importers import Importer, Index

app = typer.Typer(
    help="List, fetch and index public corpora.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a corpus; see `unmingle data list`.")]
Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Folder of the corpus.")]


@app.command("list")
def list_corpora() -> None:
    """List the corpora: content, size, licence."""
    from unmingle.cli.tables import print_table
    from unmingle.data.importers import IMPORTERS

    rows = []
    for importer in IMPORTERS.values():
        size = _size(importer.parts) if importer.parts else "not to be fetched"
        rows.append((importer.name, importer.what, size, importer.licence))
    print_table(("name", "what", "size", "licence"), rows)
    print("\nParts, for: unmingle data fetch NAME --part PART --root DIR")
    for importer in IMPORTERS.values():
        if importer.parts:
            print(
                f"  {importer.name}: {', '.join(_with_size(part, importer.parts) for part in importer.parts)}"
            )
        if any(archive.checksum is None for archive in importer.parts.values()):
            print("    (the publisher gives no checksum; the archive's own sums are checked)")


@app.command("fetch")
def fetch_corpus(
    name: Name,
    root: Root,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="PART", help="Fetch only this part; repeatable."),
    ] = None,
) -> None:
    """Download a corpus, check it and unpack it into DIR.

    An interrupted download continues where it stopped; complete parts are not fetched again.
    """
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn

    from unmingle.cli.progress import TerminalProgress
    from unmingle.data.fetching import fetch
    from unmingle.data.importers import find_importer

    importer = find_importer(name)
    chosen = _choose(importer, parts or [])
    require("data", "requests")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with TerminalProgress(*columns) as progress:
        for part, archive in chosen.items():
            task = progress.add_task(part, total=archive.bytes)

            def show(done: int, total: int | None, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            news = "fetched" if fetch(archive, root, show) else "there already"
            progress.remove_task(task)
            print(f"{part}: {news}")
    print(f"Index it with: unmingle data index {name} --root {shlex.quote(str(root))}")


@app.command("index")
def index_corpus(name: Name, root: Root) -> None:
    """Write the manifests of a corpus in DIR.

    They are speech.csv, noise.csv, or a mixtures.csv per split.
    """
    from rich.console import Console

    from unmingle.cli.tables import print_table
    from unmingle.data.importers import find_importer

    importer = find_importer(name)
    with Console(stderr=True).status(f"reading {root}"):
        index = importer.index(root)
    items, who = {
        "speech": ("utterances", "speakers"),
        "noise": ("recordings", "classes"),
        "mixtures": ("mixtures", "speakers"),
    }[importer.what]
    rows = [
        (count.split, str(count.items), str(count.speakers or "unknown"), f"{count.seconds / 3600:.2f}")
        for count in index.counts
    ]
    print_table(("split", items, who, "hours"), rows)
    for note in index.notes:
        print(note)
    print(f"Next: {_next(importer, index, root)}")


def _choose(importer: Importer, parts: list[str]) -> Mapping[str, Archive]:
    """The archives of the wanted parts."""
    if not importer.parts:
        raise UnmingleError(importer.no_fetch)
    choice = f"choose of {', '.join(importer.parts)}"
    for part in parts:
        if part not in importer.parts:
            raise UnmingleError(f"{importer.title} has no part {part!r}; {choice}.")
    if not parts and len(importer.parts) > 1:
        raise UnmingleError(
            f"{importer.title} has {_size(importer.parts)} in {len(importer.parts)} parts; {choice} with --part."
        )
    return {part: importer.parts[part] for part in parts or importer.parts}


def _with_size(part: str, parts: Mapping[str, Archive]) -> str:
    return f"{part} ({_size({part: parts[part]})})" if len(parts) > 1 else part


def _size(parts: Mapping[str, Archive]) -> str:
    known = [archive.bytes for archive in parts.values() if archive.bytes is not None]
    return f"{sum(known) / 1e9:.1f} GB" if known else ""


def _next(importer: Importer, index: Index, root: Path) -> str:
    where = shlex.quote(str(root))
    if importer.what == "speech":
        splits = [count.split for count in index.counts]
        return f"unmingle mix {where} -o mixtures" + (" --split test" if "test" in splits else "")
    if importer.what == "noise":
        return f"unmingle mix SPEECH --noise {where} --speakers 1 -o test"
    folders = [manifest.parent for manifest in index.manifests]
    folder = next((folder for folder in folders if folder.name in ("test", "tt")), folders[0])
    return f"unmingle evaluate {shlex.quote(str(folder))}"
