"""MUSAN (OpenSLR 17): noise and music, 16 kHz WAV.

Its third part, speech, is left out. As noise, it would teach a model to remove speech. As speech, it lacks
speaker labels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from unmingle.data.corpora import split_of
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

_TITLE = "MUSAN"
_KINDS = ("noise", "music")
_SOURCES = {"free-sound": "train", "sound-bible": "test"}
"""Folders of the part noise: Sivaraman & Kim 2020 train on the first and test on the second."""
_VALID_PERCENT = 5
_FILE_NAME = re.compile(r"\b(?:noise|music|speech)-[a-z-]+-\d{4}\b")

# OpenSLR's md5.
PARTS = {
    "musan": Archive(
        "https://www.openslr.org/resources/17/musan.tar.gz",
        "md5:0c472d4fc0c5141eca47ad1ffeb2a7df",
        11_086_114_085,
    )
}


def _index(root: Path) -> Index:
    home = _find(root, _KINDS)
    rows = _rows(home, _KINDS, lambda path: split_of(path.name))
    return write_noise(root, rows, ["The part speech of MUSAN was left out: it is not noise."])


def _index_by_source(root: Path) -> Index:
    home = _find(root, ("noise",))
    for source in _SOURCES:
        if not (home / "noise" / source).is_dir():
            raise incomplete(root, _TITLE, f"musan/noise/{source}")
    rows = [row for row in _rows(home, ("noise",), _split_by_source) if row.path.parent.name in _SOURCES]
    return write_noise(root, rows, ["The parts music and speech of MUSAN were left out."])


def _split_by_source(path: Path) -> str:
    split = _SOURCES.get(path.parent.name, "train")
    number = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    return "valid" if split == "train" and number % 100 < _VALID_PERCENT else split


def _find(root: Path, kinds: tuple[str, ...]) -> Path:
    for home in (root / "musan", root):
        if all((home / kind).is_dir() for kind in kinds):
            return home
    raise not_found(root, _TITLE, *(f"musan/{kind}" for kind in kinds))


def _rows(home: Path, kinds: tuple[str, ...], split_of_path: Callable[[Path], str]) -> list[NoiseRow]:
    rows: list[NoiseRow] = []
    for kind in kinds:
        folders = sorted(path for path in (home / kind).glob("*") if path.is_dir())
        before = len(rows)
        for folder in folders:
            licences = _read_licences(folder / "LICENSE")
            for path in sorted(folder.glob(f"{kind}-*.wav")):
                licence = licences.get(path.stem, licences.get("", "unknown"))
                split = split_of_path(path)
                rows.append(NoiseRow(path, "musan", kind, seconds_of(path), split, licence))
        if len(rows) == before:
            raise incomplete(home, _TITLE, f"{kind}/*/{kind}-*.wav")
    return rows


def _read_licences(path: Path) -> dict[str, str]:
    """Licence by recording. A licence for all recordings of the folder has the empty name as its key.

    Most files consist of blocks separated by ``====``. Each block starts with the name of a recording.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if not _FILE_NAME.search(text):
        return {"": _licence(text)}
    blocks = re.split(r"^=+\s*$", text, flags=re.MULTILINE)
    return {name: _licence(block) for block in blocks for name in _FILE_NAME.findall(block)}


def _licence(text: str) -> str:
    """The licence named in a free text."""
    words = " ".join(text.lower().split())
    if re.search(r"public domain|\bcc0\b|creative commons (0|zero)\b", words):
        return "public domain"
    if not re.search(r"creative ?commons|attribution|\bcc\b|\bcc-by", words):
        return "unknown"
    terms = [("NC", r"non-?commercial|\bnc\b"), ("ND", r"no-?deriv|\bnd\b"), ("SA", r"share-? ?alike|\bsa\b")]
    version = re.search(r"\b([1-4]\.[05])\b", words)
    names = ["CC", "BY", *(name for name, pattern in terms if re.search(pattern, words))]
    return "-".join([*names, version[1]] if version else names)


MUSAN = Importer(
    name="musan",
    title=_TITLE,
    what="noise",
    licence="by recording: public domain, CC BY and others",
    homepage="https://www.openslr.org/17",
    read=_index,
    parts=PARTS,
)
MUSAN_BY_SOURCE = Importer(
    name="musan-by-source",
    title="MUSAN's noise, split by source",
    what="noise",
    licence=MUSAN.licence,
    homepage=MUSAN.homepage,
    read=_index_by_source,
    parts=PARTS,
)
"""The split of Sivaraman & Kim 2020: free-sound trains, sound-bible tests, 5 % of free-sound validates."""
