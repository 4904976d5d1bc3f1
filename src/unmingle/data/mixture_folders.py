"""Folders of mixtures in the layout of WSJ0-mix and LibriMix.

    DIR/mix/NAME.wav   DIR/s1/NAME.wav   DIR/s2/NAME.wav [ DIR/s3/NAME.wav ]
    DIR/mixtures.csv   one row per mixture: sources, speakers, genders, gains, SNR, seconds
    DIR/recipe.json    how the folder was made; README.md describes it for readers

Without ``mix/``, LibriMix's ``mix_clean/`` is read, and without both, ``mix_both/``. Folders with one speaker in
noise have the layout of VoiceBank-DEMAND, whose names ``noisy_testset_wav/`` and ``clean_testset_wav/`` are read too:

    DIR/noisy/NAME.wav   DIR/clean/NAME.wav   DIR/noise/NAME.wav
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmingle.audio import Samples, read_audio
from unmingle.data.tables import read_table
from unmingle.errors import UnmingleError


@dataclass(frozen=True)
class MixtureItem:
    """One mixture of a folder, with its references."""

    name: str
    mixture: Path
    sources: tuple[Path, ...]
    details: dict[str, str]
    """Its row of ``mixtures.csv``; empty if there is none."""
    noisy: bool = False
    """One speaker in noise."""

    @property
    def gender_pair(self) -> str:
        """``same``, ``different``, or ``unknown``."""
        genders = [self.details.get(f"gender_{n}", "unknown") for n in range(1, len(self.sources) + 1)]
        if any(gender not in ("M", "F") for gender in genders):
            return "unknown"
        return "same" if len(set(genders)) == 1 else "different"


def read_mixture_folder(folder: Path, *, fewest: int | None = None) -> list[MixtureItem]:
    """The mixtures of a folder with their references, sorted by name.

    Args:
        folder: in one of the layouts above.
        fewest: minimum number of references per mixture; any after it may be missing (default: none may be missing).

    Raises:
        UnmingleError: the folder has neither ``mix/`` (or ``mix_clean/``) and ``s1/`` nor ``noisy/`` and ``clean/``,
            or a reference is missing.
    """
    if not folder.is_dir():
        raise UnmingleError(f"The folder {folder} does not exist.")
    mixes = next(
        (folder / name for name in ("mix", "mix_clean", "mix_both") if (folder / name).is_dir()), None
    )
    source_folders: list[Path] = []
    while (path := folder / f"s{len(source_folders) + 1}").is_dir():
        source_folders.append(path)
    noisy = _noisy_folders(folder) if mixes is None else None
    if noisy is not None:
        mixes, source_folders = noisy[0], [noisy[1]]
    if mixes is None or not source_folders:
        raise UnmingleError(
            f"{folder} needs the folders mix/ (or mix_clean/), s1/, s2/ ..., or noisy/ and clean/, "
            "with the same file names in all."
        )
    details = _read_details(folder / "mixtures.csv")
    items = []
    for mixture in sorted(
        path for path in mixes.iterdir() if path.is_file() and not path.name.startswith(".")
    ):
        sources = tuple(source_folder / mixture.name for source_folder in source_folders)
        while fewest is not None and len(sources) > fewest and not sources[-1].is_file():
            sources = sources[:-1]
        missing = [source for source in sources if not source.is_file()]
        if missing:
            raise UnmingleError(
                f"{mixture} has no reference {missing[0]}; all folders need the same file names."
            )
        items.append(
            MixtureItem(mixture.stem, mixture, sources, details.get(mixture.stem, {}), noisy is not None)
        )
    if not items:
        raise UnmingleError(f"{mixes} is empty; give a folder with mixtures.")
    return items


def _noisy_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders ``noisy...`` and ``clean...`` with the same ending, if they exist."""
    for noisy in sorted(folder.glob("noisy*")):
        clean = folder / noisy.name.replace("noisy", "clean", 1)
        if noisy.is_dir() and clean.is_dir():
            return noisy, clean
    return None


def _read_details(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    columns, rows = read_table(path)
    if "name" not in columns:
        raise UnmingleError(f"{path} lacks the column name, which says to which mixture a row belongs.")
    return {row["name"]: row for row in rows}


def read_item(item: MixtureItem) -> tuple[Samples, Samples, int]:
    """Mixture ``(samples,)``, sources ``(sources, samples)`` and their sample rate.

    Raises:
        UnmingleError: rates or lengths differ, or a file has more than one channel.
    """
    recordings = [read_audio(path) for path in (item.mixture, *item.sources)]
    for path, recording in zip((item.mixture, *item.sources), recordings, strict=True):
        if recording.sample_rate != recordings[0].sample_rate:
            raise UnmingleError(f"{path} has another sample rate than {item.mixture}; resample one of them.")
        if recording.samples.shape != recordings[0].samples.shape or len(recording.samples) != 1:
            raise UnmingleError(
                f"{path} must have one channel and the same length as {item.mixture}; "
                f"it has {len(recording.samples)} channels and {recording.samples.shape[1]} samples."
            )
    sources = np.concatenate([recording.samples for recording in recordings[1:]])
    return recordings[0].samples[0], sources, recordings[0].sample_rate


def list_hash(items: Sequence[MixtureItem]) -> str:
    """A hash of the names and bytes of the mixtures and their references, as twelve hexadecimal digits."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(os.fsencode(item.name))
        for path in (item.mixture, *item.sources):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
