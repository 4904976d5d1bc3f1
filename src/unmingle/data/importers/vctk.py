"""VCTK 0.92: 110 speakers of English, 48 kHz FLAC, each sentence with two microphones. The first one is used."""

from __future__ import annotations

from pathlib import Path

from unmingle.data.corpora import gender_of, split_of
from unmingle.data.fetching import Archive
from unmingle.data.importers.base import (
    Importer,
    Index,
    SpeechRow,
    incomplete,
    not_found,
    seconds_of,
    write_speech,
)

_TITLE = "VCTK 0.92"
_AUDIO = "wav48_silence_trimmed"

# Checksum and size from Edinburgh DataShare.
PARTS = {
    "vctk": Archive(
        "https://datashare.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
        "md5:8a6ba2946b36fcbef0212cad601f4bfa",
        11_747_302_977,
    )
}


def _index(root: Path) -> Index:
    home = next((home for home in (root, root / "VCTK-Corpus-0.92") if (home / _AUDIO).is_dir()), None)
    if home is None:
        raise not_found(root, _TITLE, _AUDIO, f"VCTK-Corpus-0.92/{_AUDIO}")
    info = home / "speaker-info.txt"
    genders = _read_genders(info) if info.is_file() else {}
    rows = []
    for folder in sorted(path for path in (home / _AUDIO).iterdir() if path.is_dir()):
        speaker = folder.name
        paths = sorted(folder.glob(f"{speaker}_*_mic1.flac"))
        if not paths:
            raise incomplete(root, _TITLE, f"{_AUDIO}/{speaker}/{speaker}_*_mic1.flac")
        for path in paths:
            text = home / "txt" / speaker / f"{path.stem.removesuffix('_mic1')}.txt"
            rows.append(
                SpeechRow(
                    path, "vctk", speaker, genders.get(speaker, "unknown"), seconds_of(path),
                    # The corpus has no splits. They depend on the speaker, as in a corpus without a manifest.
                    split_of(speaker), "CC-BY-4.0",
                    text.read_text(encoding="utf-8-sig", errors="replace").strip() if text.is_file() else "",
                )
            )  # fmt: skip
    if not rows:
        raise incomplete(root, _TITLE, f"{_AUDIO}/p225")
    return write_speech(root, rows, () if genders else ["There is no speaker-info.txt: genders are unknown."])


def _read_genders(path: Path) -> dict[str, str]:
    # p225  23  F    English    Southern  England
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[1:]
    cells = [line.split() for line in lines]
    return {row[0]: gender_of(row[2]) for row in cells if len(row) > 2}


VCTK = Importer(
    name="vctk",
    title=_TITLE,
    what="speech",
    licence="CC BY 4.0",
    homepage="https://datashare.ed.ac.uk/handle/10283/3443",
    read=_index,
    parts=PARTS,
)
