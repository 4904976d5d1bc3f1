"""LibriSpeech (OpenSLR 12) and Mini LibriSpeech (OpenSLR 31): read audiobooks, 16 kHz FLAC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unmingle.data.corpora import gender_of
from unmingle.data.fetching import Archive
from unmingle.data.importers.base import (
    Importer,
    Index,
    SpeechRow,
    find_above,
    incomplete,
    not_found,
    seconds_of,
    write_speech,
)

_TITLE = "LibriSpeech"
_URL = "https://www.openslr.org/resources"
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}

# Checksums: sha256 from torchaudio, md5 from OpenSLR 31. Sizes: from Kaldi's recipes.
PARTS = {
    "dev-clean": Archive(
        f"{_URL}/12/dev-clean.tar.gz",
        "sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
        337_926_286,
    ),
    "dev-other": Archive(
        f"{_URL}/12/dev-other.tar.gz",
        "sha256:12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
        314_305_928,
    ),
    "test-clean": Archive(
        f"{_URL}/12/test-clean.tar.gz",
        "sha256:39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
        346_663_984,
    ),
    "test-other": Archive(
        f"{_URL}/12/test-other.tar.gz",
        "sha256:d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
        328_757_843,
    ),
    "train-clean-100": Archive(
        f"{_URL}/12/train-clean-100.tar.gz",
        "sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
        6_387_309_499,
    ),
    "train-clean-360": Archive(
        f"{_URL}/12/train-clean-360.tar.gz",
        "sha256:146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
        23_049_477_885,
    ),
    "train-other-500": Archive(
        f"{_URL}/12/train-other-500.tar.gz",
        "sha256:ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
        30_593_501_606,
    ),
    "train-clean-5": Archive(
        f"{_URL}/31/train-clean-5.tar.gz", "md5:5df7d4e78065366204ca6845bb08f490", 332_954_390
    ),
    "dev-clean-2": Archive(
        f"{_URL}/31/dev-clean-2.tar.gz", "md5:6d7ab67ac6a1d2c993d050e16d61080d", 126_046_265
    ),
}


def find_genders(root: Path) -> dict[str, str] | None:
    """Gender by speaker, from SPEAKERS.TXT in ``root`` or above; None if there is no such file."""
    path = find_above(root, "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
    if path is None:
        return None
    # 14   | F | train-clean-360  | 25.03 | Kristin LeMoine
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if not line.startswith(";")]
    return {row[0]: gender_of(row[1]) for row in cells if len(row) > 2}


def _index(root: Path) -> Index:
    folders = [
        folder for part in PARTS for folder in (root / part, root / "LibriSpeech" / part) if folder.is_dir()
    ]
    if not folders:
        raise not_found(root, _TITLE, *(f"LibriSpeech/{part}" for part in PARTS))
    genders = find_genders(root)
    # Mini LibriSpeech is a part of LibriSpeech, so an utterance may occur twice. It counts once.
    rows: dict[str, SpeechRow] = {}
    for folder in folders:
        for row in _read_part(root, folder, genders or {}):
            rows.setdefault(row.path.stem, row)
    return write_speech(
        root, rows.values(), () if genders else ["There is no SPEAKERS.TXT: genders are unknown."]
    )


def _read_part(root: Path, folder: Path, genders: dict[str, str]) -> Iterator[SpeechRow]:
    chapters = sorted(path for path in folder.glob("*/*") if path.is_dir())
    if not chapters:
        raise incomplete(root, _TITLE, f"{folder.name}/SPEAKER/CHAPTER/*.flac")
    for chapter in chapters:
        speaker = chapter.parent.name
        transcript = chapter / f"{speaker}-{chapter.name}.trans.txt"
        if not transcript.is_file():
            raise incomplete(root, _TITLE, str(transcript.relative_to(root)))
        for line in transcript.read_text(encoding="utf-8-sig").splitlines():
            name, _, text = line.partition(" ")
            path = chapter / f"{name}.flac"
            if not path.is_file():
                raise incomplete(root, _TITLE, str(path.relative_to(root)))
            split = _SPLITS[folder.name.split("-")[0]]
            yield SpeechRow(
                path, "librispeech", speaker, genders.get(speaker, "unknown"), seconds_of(path), split,
                "CC-BY-4.0", text.strip(),
            )  # fmt: skip


LIBRISPEECH = Importer(
    name="librispeech",
    title=_TITLE,
    what="speech",
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/12",
    read=_index,
    parts=PARTS,
)
