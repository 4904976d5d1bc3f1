"""Index mixtures made by other programs: check the layout and write a ``mixtures.csv`` for every split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from unmingle.data.importers.base import (
    Index,
    MixtureRow,
    Speaker,
    incomplete,
    not_found,
    seconds_of,
    write_mixtures,
)
from unmingle.data.mixture_folders import MixtureItem, read_mixture_folder

_DEPTH = 3
"""Folders between the root and a split, such as ``Libri2Mix/wav8k/min``."""


def index_mixtures(
    root: Path,
    title: str,
    splits: Sequence[str],
    speakers: Callable[[MixtureItem], Sequence[Speaker]],
    notes: Sequence[str] = (),
) -> Index:
    """Index every folder that is named like a split, in ``root`` or up to three levels below.

    Raises:
        UnmingleError: there is no such folder, a reference is missing, or a file name does not fit the corpus.
    """
    folders = sorted(
        folder
        for depth in range(_DEPTH + 1)
        for split in splits
        for folder in root.glob("*/" * depth + split)
        if (folder / "s1").is_dir()
    )
    if not folders:
        raise not_found(root, title, *(f"{split}/mix and {split}/s1" for split in splits))
    rows = {}
    for folder in folders:
        items = read_mixture_folder(folder)
        for source in items[0].sources:
            sources = {path.name for path in source.parent.iterdir() if not path.name.startswith(".")}
            # The scripts write a mixture after its sources, so a source without a mixture means an unfinished run.
            if extra := sorted(sources - {item.mixture.name for item in items}):
                raise incomplete(root, title, str(items[0].mixture.with_name(extra[0]).relative_to(root)))
        rows[folder] = [MixtureRow(item.name, speakers(item), seconds_of(item.mixture)) for item in items]
    return write_mixtures(root, rows, notes)
