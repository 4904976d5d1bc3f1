"""WHAM! noise: cafés, bars, parks and streets around San Francisco, 16 kHz WAV with two channels."""

from __future__ import annotations

import csv
from pathlib import Path

from unmingle.data.fetching import Archive
from unmingle.data.importers.base import (
    Importer,
    Index,
    NoiseRow,
    incomplete,
    not_found,
    seconds_of,
    write_noise,
)

_TITLE = "WHAM! noise"
_SPLITS = {"tr": "train", "cv": "valid", "tt": "test"}
_MADE_BY_LIBRIMIX = ("sp08", "sp12")
"""LibriMix's scripts write copies at other speeds beside the recordings. They are left out."""

# The address is that of LibriMix's scripts; the old one on storage.googleapis.com answers 403. No checksum is
# published. The size is "17.65 GB" in ESPnet's recipes.
PARTS = {
    "wham-noise": Archive(
        "https://my-bucket-a8b4b49c25c811ee9a7e8bba05fa24c7.s3.amazonaws.com/wham_noise.zip",
        bytes=17_650_000_000,
    )
}


def _index(root: Path) -> Index:
    homes = (root / "wham_noise", root)
    home = next((home for home in homes if any((home / name).is_dir() for name in _SPLITS)), None)
    if home is None:
        raise not_found(root, _TITLE, *(f"wham_noise/{name}" for name in _SPLITS))
    rows, notes = [], []
    for name, split in _SPLITS.items():
        paths = sorted(
            path
            for path in (home / name).glob("*.wav")
            if not path.stem.endswith(_MADE_BY_LIBRIMIX) and not path.name.startswith(".")
        )
        if missing := _listed(home / "metadata" / f"noise_meta_{name}.csv") - {path.name for path in paths}:
            raise incomplete(root, _TITLE, f"{name}/{min(missing)}")
        if not paths:
            notes.append(f"There is nothing in {home / name}.")
        rows += [NoiseRow(path, "wham", "ambient", seconds_of(path), split, "CC-BY-NC-4.0") for path in paths]
    if not rows:
        raise incomplete(root, _TITLE, "wham_noise/tr/*.wav")
    return write_noise(root, rows, notes)


def _listed(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return {row["utterance_id"] for row in csv.DictReader(file) if row.get("utterance_id")}


WHAM_NOISE = Importer(
    name="wham-noise",
    title=_TITLE,
    what="noise",
    licence="CC BY-NC 4.0",
    homepage="http://wham.whisper.ai",
    read=_index,
    parts=PARTS,
)
