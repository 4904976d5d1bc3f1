"""MUSAN (OpenSLR 17): noise and music, 16 kHz WAV.

Its third part, speech, is left out: as noise, it would teach a model to remove what another recording of
the same kind teaches it to keep; and as speech, it does not tell its speakers apart.
"""

from __future__ import annotations

import re
from pathlib import Path

from unmingle.data.corpora import split_of
from unmingle.data.fetching import Archive
from unmingle.data.importers.base import (
    Importer,
    Index,
    NoiseRow,
    half_there,
    not_there,
    seconds_of,
    write_noise,
)

_TITLE = "MUSAN"
_KINDS = ("noise", "music")
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
    home = next((home for home in (root / "musan", root) if _is_musan(home)), None)
    if home is None:
        raise not_there(root, _TITLE, "musan/noise", "musan/music")
    rows: list[NoiseRow] = []
    for kind in _KINDS:
        folders = sorted(path for path in (home / kind).glob("*") if path.is_dir())
        before = len(rows)
        for folder in folders:
            licences = _read_licences(folder / "LICENSE")
            for path in sorted(folder.glob(f"{kind}-*.wav")):
                licence = licences.get(path.stem, licences.get("", "unknown"))
                split = split_of(path.name)
                rows.append(NoiseRow(path, "musan", kind, seconds_of(path), split, licence))
        if len(rows) == before:
            raise half_there(root, _TITLE, f"musan/{kind}/*/{kind}-*.wav")
    return write_noise(root, rows, ["The part speech of MUSAN was left out: it is no noise."])


def _is_musan(home: Path) -> bool:
    return all((home / kind).is_dir() for kind in _KINDS)


def _read_licences(path: Path) -> dict[str, str]:
    """Licence by recording; under the empty name what a file says of all recordings of its folder.

    Most of the files are blocks with ``====`` between them, each of which begins with a recording's name.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if not _FILE_NAME.search(text):
        return {"": _licence(text)}
    blocks = re.split(r"^=+\s*$", text, flags=re.MULTILINE)
    return {name: _licence(block) for block in blocks for name in _FILE_NAME.findall(block)}


def _licence(text: str) -> str:
    """The licence that a sentence of free form speaks of."""
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
