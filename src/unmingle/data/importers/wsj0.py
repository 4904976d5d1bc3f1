"""WSJ0 (LDC93S6A): read newspaper sentences, 16 kHz SPHERE files, from the user's own copy.

Every sentence was recorded with two microphones. Only the close one, ``.wv1``, is used. A ``.wav`` is a ``.wv1``
converted by sph2pipe, and is used instead of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from unmingle.data.corpora import gender_of
from unmingle.data.importers.base import (
    Importer,
    Index,
    SpeechRow,
    incomplete,
    not_found,
    seconds_of,
    write_speech,
)
from unmingle.errors import UnmingleError

_TITLE = "WSJ0"
_SPLITS = {"si_tr_s": "train", "si_dt_05": "valid", "si_et_05": "test"}
_DOT_LINE = re.compile(r"(?P<text>.*)\((?P<name>\w+)\)\s*$")
_SUFFIXES = (".wv1", ".wav")
_HEADER_BYTES = 1024


def _index(root: Path) -> Index:
    sounds: dict[str, tuple[Path, str]] = {}
    texts: dict[str, str] = {}
    genders: dict[str, str] = {}
    folders = set()
    for folder, names in _walk(root):
        # Copies of the discs have folder names in upper or lower case.
        parts = {part.lower() for part in folder.relative_to(root).parts} | {root.name.lower()}
        split = next((split for name, split in _SPLITS.items() if name in parts), None)
        folders |= parts & set(_SPLITS)
        for name in names:
            stem, dot, suffix = name.lower().rpartition(".")
            if split and dot + suffix in _SUFFIXES:
                if suffix == "wav" or stem not in sounds:
                    sounds[stem] = (folder / name, split)
            elif name.lower().endswith(".dot"):
                texts |= _read_dots(folder / name)
            elif name.lower().endswith("spkrinfo.txt"):
                genders |= read_spkrinfo(folder / name)
    if not folders:
        raise not_found(root, _TITLE, *_SPLITS)
    if not sounds:
        raise incomplete(root, _TITLE, f"every *.wv1 of {' and '.join(sorted(folders))}")
    rows = []
    for name, (path, split) in sounds.items():
        check_sphere(path)
        speaker = name[:3]
        rows.append(
            SpeechRow(
                path, "wsj0", speaker, genders.get(speaker, "unknown"), seconds_of(path), split,
                "LDC User Agreement", texts.get(name, ""),
            )
        )  # fmt: skip
    notes = [] if genders else ["There is no spkrinfo.txt: genders are unknown."]
    return write_speech(root, rows, notes)


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their files. Links are followed, because discs are often linked into one folder."""
    visited = set()
    for folder, below, names in os.walk(root, followlinks=True):
        visited.add(os.path.realpath(folder))
        below[:] = sorted(n for n in below if os.path.realpath(os.path.join(folder, n)) not in visited)
        yield Path(folder), sorted(names)


def check_sphere(path: Path) -> None:
    """Refuse a SPHERE file that libsndfile cannot decode.

    Raises:
        UnmingleError: its samples are compressed.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header.startswith(b"NIST_1A"):
        return
    found = re.search(rb"^sample_coding -s\d+ (\S+)", header, re.MULTILINE)
    coding = found[1].decode("ascii", "replace") if found else "pcm"
    # The compression follows after the comma: pcm,embedded-shorten-v2.00
    if "," in coding:
        raise UnmingleError(
            f"{path} is compressed ({coding}), which cannot be read; convert every .wv1 to a .wav beside it: "
            "sph2pipe -f wav IN.wv1 OUT.wav"
        )


def _read_dots(path: Path) -> dict[str, str]:
    """Texts by utterance, from the file of one session with lines ``TEXT (011c0201)``."""
    lines = path.read_text(encoding="latin-1").splitlines()
    found = [match for line in lines if (match := _DOT_LINE.match(line))]
    return {match["name"].lower(): match["text"].strip() for match in found}


def read_spkrinfo(path: Path) -> dict[str, str]:
    """Gender by speaker: the first two words of every line that is not a comment."""
    lines = path.read_text(encoding="latin-1").splitlines()
    words = [line.split() for line in lines if not line.startswith(";")]
    return {row[0].lower(): gender_of(row[1]) for row in words if len(row) > 1}


WSJ0 = Importer(
    name="wsj0",
    title=_TITLE,
    what="speech",
    licence="LDC User Agreement",
    homepage="https://catalog.ldc.upenn.edu/LDC93S6A",
    read=_index,
    no_fetch=(
        "WSJ0 is licensed by the LDC and cannot be fetched; order LDC93S6A at "
        "https://catalog.ldc.upenn.edu/LDC93S6A, copy the discs into DIR, and run: "
        "unmingle data index wsj0 --root DIR"
    ),
)
