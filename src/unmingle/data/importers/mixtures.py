"""Mixtures that others made: the layout checked, and a ``mixtures.csv`` for every split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from unmingle.data.importers.base import (
    Index,
    MixtureRow,
    Speaker,
    half_there,
    not_there,
    seconds_of,
    write_mixtures,
)
from unmingle.data.mixture_folders import MixtureItem, read_mixture_folder

_DEPTH = 3
"""``Libri2Mix/wav8k/min`` lie between the root and a split."""


def index_mixtures(
    root: Path,
    title: str,
    splits: Sequence[str],
    speakers: Callable[[MixtureItem], Sequence[Speaker]],
    notes: Sequence[str] = (),
) -> Index:
    """Index every folder of the name of a split, in ``root`` or up to three folders below it.

    Raises:
        UnmingleError: there is none, a reference is missing, or a name is not the corpus's.
    """
    folders = sorted(
        folder
        for depth in range(_DEPTH + 1)
        for split in splits
        for folder in root.glob("*/" * depth + split)
        if (folder / "s1").is_dir()
    )
    if not folders:
        raise not_there(root, title, *(f"{split}/mix and {split}/s1" for split in splits))
    rows = {}
    for folder in folders:
        items = read_mixture_folder(folder)
        for source in items[0].sources:
            sources = {path.name for path in source.parent.iterdir() if not path.name.startswith(".")}
            # A mixture is written after its sources: one that is missing was not made.
            if extra := sorted(sources - {item.mixture.name for item in items}):
                raise half_there(root, title, str(items[0].mixture.with_name(extra[0]).relative_to(root)))
        rows[folder] = [MixtureRow(item.name, speakers(item), seconds_of(item.mixture)) for item in items]
    return write_mixtures(root, rows, notes)
