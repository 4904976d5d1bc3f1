"""Corpora: lists of utterances with their speakers, read from a manifest or from folders.

A corpus is one of these:

- a CSV manifest with at least the columns ``path`` and ``speaker`` (paths relative to the
  manifest), and optionally ``corpus``, ``gender``, ``seconds``, ``split``, ``license``, ``text``;
- a folder with such a manifest named ``speech.csv``;
- any folder of ``speaker/*.flac`` (or wav, ogg, mp3), with or without subfolders per speaker.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmingle.audio_names import audio_files
from unmingle.data.tables import read_table
from unmingle.errors import UnmingleError

SPLITS = ("train", "valid", "test")
_GENDERS = {"m": "M", "male": "M", "f": "F", "female": "F", "male_masculine": "M", "female_feminine": "F"}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One file of one speaker."""

    path: Path
    corpus: str
    speaker: str
    gender: str
    """``M``, ``F`` or ``unknown``."""
    split: str
    """``train``, ``valid`` or ``test``."""
    license: str = "unknown"
    text: str = ""


def read_corpora(sources: Sequence[Path | str], split: str | None = None) -> list[Utterance]:
    """Read corpora and keep the utterances of ``split`` (default: all).

    Raises:
        UnmingleError: a source is missing or malformed, or the split is empty.
    """
    if split is not None and split not in SPLITS:
        raise UnmingleError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    utterances = [utterance for source in sources for utterance in _read_corpus(Path(source))]
    kept = [utterance for utterance in utterances if split is None or utterance.split == split]
    if not kept:
        names = ", ".join(str(source) for source in sources)
        where = f"the {split} split of " if split else ""
        there = _splits_of(utterances)
        remedy = (
            f", which has {there}; add speakers, or a column split to its speech.csv (`unmingle data index folder "
            "--root FOLDER` writes one)"
        )
        raise UnmingleError(f"There are no utterances in {where}{names}{remedy if there else ''}.")
    return kept


def read_noise(
    sources: Sequence[Path | str], split: str | None = None, *, beside_speech: bool = False
) -> list[Utterance]:
    """Read corpora of noise: manifests, folders with ``noise.csv``, or any folders of audio files.

    The field ``speaker`` holds the noise class. Without a manifest or its column ``split``, the split of a
    recording depends only on its name. With ``beside_speech`` the sources are corpora of speech, and only a
    ``noise.csv`` in or beside one is read.

    Raises:
        UnmingleError: a source is missing or malformed, or the split is empty.
    """
    recordings: list[Utterance] = []
    for source in map(Path, sources):
        if not source.exists():
            raise UnmingleError(f"The noise {source} does not exist; check the path.")
        manifest = source if source.is_file() else source / "noise.csv"
        if beside_speech:
            manifest = manifest.with_name("noise.csv")
        if manifest.is_file():
            recordings += _read_manifest(manifest, "class")
        elif not beside_speech and not (source / "speech.csv").is_file():
            recordings += [
                Utterance(path, source.name, path.parent.name, "unknown", split_of(path.name))
                for path in audio_files(source)
            ]
    kept = [recording for recording in recordings if split is None or recording.split == split]
    if not kept:
        names = ", ".join(str(source) for source in sources)
        where = f"the {split} split of " if split else ""
        remedy = "give noise with --noise" if beside_speech else "it needs noise.csv or audio files"
        if there := _splits_of(recordings):
            remedy = f"there is {there}; add recordings, or a column split to noise.csv"
        raise UnmingleError(f"There is no noise in {where}{names}; {remedy}.")
    return kept


def _splits_of(utterances: Sequence[Utterance]) -> str:
    counts = {name: sum(utterance.split == name for utterance in utterances) for name in SPLITS}
    return ", ".join(f"{count} in {name}" for name, count in counts.items() if count)


def state_of(utterance: Utterance) -> tuple[int, int]:
    """Size in bytes and modification time in seconds of an utterance's file.

    Raises:
        UnmingleError: the file does not exist.
    """
    try:
        found = utterance.path.stat()
    except (OSError, ValueError) as error:
        raise UnmingleError(
            f"{utterance.path} is in the list of its corpus but does not exist; "
            "restore it, or remove it from the list."
        ) from error
    return found.st_size, int(found.st_mtime)


def by_speaker(
    utterances: Sequence[Utterance], leave_out: Collection[int] = ()
) -> dict[str, dict[str, list[int]]]:
    """Indices of ``utterances``, grouped as ``{corpus: {speaker: [index, ...]}}``, without those in ``leave_out``."""
    grouped: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, utterance in enumerate(utterances):
        if index not in leave_out:
            grouped[utterance.corpus][utterance.speaker].append(index)
    return {corpus: dict(speakers) for corpus, speakers in grouped.items()}


def _read_corpus(source: Path) -> list[Utterance]:
    if not source.exists():
        raise UnmingleError(f"The corpus {source} does not exist; check the path.")
    if source.is_file():
        return _read_manifest(source)
    manifest = source / "speech.csv"
    if not manifest.is_file():
        _refuse_mixtures(source)
    return _read_manifest(manifest) if manifest.is_file() else read_speaker_folders(source)


def _refuse_mixtures(source: Path) -> None:
    """Refuse a folder of finished mixtures in a layout that :mod:`unmingle.data.premixed` does not read."""
    for folder in (source, *sorted(path for path in source.iterdir() if path.is_dir())):
        there = [name for name in ("mix", "mix_both", "mix_clean", "noisy") if (folder / name).is_dir()]
        if there and any((folder / name).is_dir() for name in ("s1", "clean")):
            raise UnmingleError(
                f"{folder} holds finished mixtures in a layout that cannot be trained on; give a folder with tr/mix/ "
                "or train/mix_clean/ beside s1/, or a corpus of speech."
            )


def _read_manifest(manifest: Path, speaker: str = "speaker") -> list[Utterance]:
    columns, rows = read_table(manifest, "The manifest")
    if missing := {"path", speaker} - set(columns):
        raise UnmingleError(f"The manifest {manifest} lacks the column {' and '.join(sorted(missing))}.")
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row[speaker]:
            raise UnmingleError(
                f"The manifest {manifest} has a row without path or {speaker}; add the value."
            )
        if not row["path"].isprintable():
            raise UnmingleError(
                f"The path in row {number} of the manifest {manifest} has a line break or another invisible "
                f"character; rename the file: {row['path'][:80]!r}"
            )
    splits = {row["split"] for row in rows if row.get("split")}
    if unknown := sorted(splits - set(SPLITS)):
        raise UnmingleError(
            f"The manifest {manifest} has the split {', '.join(map(repr, unknown[:5]))}; a split must be "
            f"{', '.join(SPLITS)} or empty."
        )
    return [
        Utterance(
            path=manifest.parent / row["path"],
            corpus=row.get("corpus") or manifest.parent.name,
            speaker=row[speaker],
            gender=gender_of(row.get("gender")),
            split=row.get("split") or split_of(row[speaker] if speaker == "speaker" else row["path"]),
            license=row.get("license") or "unknown",
            text=row.get("text") or "",
        )
        for row in rows
    ]


def read_speaker_folders(root: Path) -> list[Utterance]:
    """The utterances of a folder of ``speaker/*.flac``.

    Raises:
        UnmingleError: the folder has no such files.
    """
    utterances = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        speaker = f"{root.name}:{folder.name}"
        for path in audio_files(folder):
            utterances.append(Utterance(path, root.name, speaker, "unknown", split_of(speaker)))
    if not utterances:
        raise UnmingleError(f"{root} has neither speech.csv nor folders speaker/*.flac.")
    return utterances


def gender_of(value: str | None) -> str:
    """``M``, ``F`` or ``unknown``, from the values that corpora use."""
    return _GENDERS.get((value or "").strip().lower(), "unknown")


def split_of(speaker: str) -> str:
    """A split that depends only on the speaker's name: 80 % train, 10 % valid, 10 % test."""
    bucket = hashlib.sha256(os.fsencode(speaker)).digest()[0] % 10
    return "valid" if bucket == 8 else "test" if bucket == 9 else "train"
