"""Mozilla Common Voice: sentences that volunteers read into their own microphones, 32 or 48 kHz MP3."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from unmingle.data.corpora import gender_of
from unmingle.data.importers.base import (
    Importer,
    Index,
    SpeechRow,
    incomplete,
    not_found,
    seconds_or_none,
    write_speech,
)
from unmingle.errors import UnmingleError

_TITLE = "Common Voice"
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_TABLES = (*_SPLITS, "validated")

Clip = dict[str, str]


def _index(root: Path) -> Index:
    # The search does not enter a language's folder, which may hold a million clips.
    one = (root / "clips").is_dir()
    candidates = [root] if one else sorted((*root.glob("*"), *root.glob("*/*")))
    languages = [folder for folder in candidates if (folder / "clips").is_dir() and _tables(folder)]
    if not languages:
        raise not_found(root, _TITLE, *(f"LANGUAGE/{name}.tsv" for name in _TABLES), "LANGUAGE/clips")
    rows: list[SpeechRow] = []
    unreadable = 0
    for folder in languages:
        for row in _read_language(root, folder):
            if row.seconds > 0:  # Some releases have clips of 0 bytes.
                rows.append(row)
            else:
                unreadable += 1
    notes = [f"{unreadable} clips cannot be read as audio and were left out."] if unreadable else []
    if not rows:
        raise incomplete(root, _TITLE, "every clip")
    return write_speech(root, rows, notes)


def _tables(folder: Path) -> list[Path]:
    return [path for name in _TABLES if (path := folder / f"{name}.tsv").is_file()]


def _read_language(root: Path, folder: Path) -> Iterator[SpeechRow]:
    corpus = f"common-voice-{folder.resolve().name}"
    clips = {path.name for path in (folder / "clips").iterdir()}
    lengths = {clip["clip"]: _length(clip) for clip in _read(folder / "clip_durations.tsv", "clip")}
    for split, clip in _with_splits(folder):
        name = clip["path"] if "." in clip["path"] else f"{clip['path']}.mp3"
        path = folder / "clips" / name
        if name not in clips:
            raise incomplete(root, _TITLE, str(path.relative_to(root)))
        yield SpeechRow(
            path, corpus, clip["client_id"], gender_of(clip.get("gender")),
            lengths.get(name) or seconds_or_none(path) or 0.0, split, "CC0-1.0", clip.get("sentence") or "",
        )  # fmt: skip


def _with_splits(folder: Path) -> Iterator[tuple[str, Clip]]:
    """The clips of the three tables, and the other validated clips as training data.

    Clips of speakers in the validation and test tables are left out of training.
    """
    seen, held_out = set(), set()
    for name, split in _SPLITS.items():
        for clip in _read(folder / f"{name}.tsv", "client_id", "path"):
            if clip["path"] not in seen:
                seen.add(clip["path"])
                if split != "train":
                    held_out.add(clip["client_id"])
                yield split, clip
    for clip in _read(folder / "validated.tsv", "client_id", "path"):
        if clip["path"] not in seen and clip["client_id"] not in held_out:
            yield "train", clip


def _read(path: Path, *columns: str) -> Iterator[Clip]:
    if not path.is_file():
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := set(columns) - set(reader.fieldnames or ()):
                raise UnmingleError(
                    f"{path} lacks the column {' and '.join(sorted(missing))}; fetch it again."
                )
            for row in reader:
                if any(not row[column] for column in columns):
                    raise UnmingleError(f"{path} ends in the middle of a line; unpack it again.")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnmingleError(f"{path} is not a table of Common Voice ({error}); unpack it again.") from error


def _length(clip: Clip) -> float:
    """Seconds from ``clip_durations.tsv``, which newer releases have."""
    value = clip.get("duration[ms]") or clip.get("duration") or ""
    return int(value) / 1000 if value.isdecimal() else 0.0


COMMON_VOICE = Importer(
    name="common-voice",
    title=_TITLE,
    what="speech",
    licence="CC0 1.0",
    homepage="https://commonvoice.mozilla.org/datasets",
    read=_index,
    no_fetch=(
        "Common Voice requires that you accept its terms; download a language from "
        "https://commonvoice.mozilla.org/datasets, unpack it into DIR, and run: "
        "unmingle data index common-voice --root DIR"
    ),
)
