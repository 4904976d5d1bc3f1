"""Importers of corpora, and the writing of their manifests.

A corpus of speech gets ``ROOT/speech.csv`` and a corpus of noise ``ROOT/noise.csv``; :mod:`unmingle.data.corpora`
reads both. Mixtures get a ``mixtures.csv`` in the folder of every split, for :mod:`unmingle.data.mixture_folders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmingle.audio import read_header, replace_files
from unmingle.data.corpora import SPLITS
from unmingle.data.fetching import STATE, Archive, unfinished
from unmingle.data.tables import read_table, write_table
from unmingle.errors import UnmingleError

SPEECH_COLUMNS = ("path", "corpus", "speaker", "gender", "seconds", "split", "license", "text")
NOISE_COLUMNS = ("path", "corpus", "class", "seconds", "split", "license")


@dataclass(frozen=True, slots=True)
class SpeechRow:
    """One utterance of a corpus of speech."""

    path: Path
    corpus: str
    speaker: str
    gender: str
    seconds: float
    split: str
    license: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class NoiseRow:
    """One recording of noise."""

    path: Path
    corpus: str
    kind: str
    """The column ``class``."""
    seconds: float
    split: str
    license: str


@dataclass(frozen=True, slots=True)
class Speaker:
    """A speaker of a mixture, as far as known."""

    corpus: str
    name: str = "unknown"
    gender: str = "unknown"


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """One mixture, with its speakers in the order of the sources."""

    name: str
    speakers: Sequence[Speaker]
    seconds: float


@dataclass(frozen=True)
class Count:
    """Counts of one split."""

    split: str
    items: int
    speakers: int
    """For noise: the number of classes."""
    seconds: float


@dataclass(frozen=True)
class Index:
    """The manifests that an importer wrote, with counts."""

    manifests: Sequence[Path]
    counts: Sequence[Count]
    notes: Sequence[str] = ()
    """Sentences about missing or excluded parts."""


@dataclass(frozen=True)
class Importer:
    """A corpus that can be indexed and, in most cases, fetched."""

    name: str
    title: str
    what: Literal["speech", "noise", "mixtures"]
    licence: str
    homepage: str
    read: Callable[[Path], Index]
    """Reads a root folder and writes its manifests. Call :meth:`index` instead, which checks the root first."""
    parts: Mapping[str, Archive] = field(default_factory=dict)
    no_fetch: str = ""
    """Why it cannot be fetched and what to do, as one sentence; empty if it can be fetched."""

    def index(self, root: Path) -> Index:
        """Write the manifests of the corpus under ``root``.

        Raises:
            UnmingleError: the corpus is missing or incomplete, or its fetch is not finished.
        """
        if not root.is_dir():
            raise UnmingleError(
                f"The folder {root} does not exist; give the folder that contains {self.title}."
            )
        if names := unfinished(root):
            raise UnmingleError(
                f"The fetch of {', '.join(names)} into {root} is not finished; "
                f"run it again, or delete {root / STATE / names[0]}*."
            )
        return self.read(root)


def not_found(root: Path, title: str, *looked_for: str) -> UnmingleError:
    """The error for a missing corpus; it names the expected folders."""
    return UnmingleError(f"{title} is not in {root}; looked for {', '.join(looked_for)}.")


def incomplete(root: Path, title: str, missing: str) -> UnmingleError:
    """The error for an incomplete corpus."""
    return UnmingleError(f"{title} in {root} is incomplete: {missing} is missing; unpack or fetch it again.")


def seconds_of(path: Path) -> float:
    """Length in seconds from the file's header.

    Raises:
        UnmingleError: the file cannot be read.
    """
    seconds = seconds_or_none(path)
    if seconds is None:
        raise UnmingleError(f"{path} cannot be read as audio; the file is damaged, unpack or fetch it again.")
    return seconds


def seconds_or_none(path: Path) -> float | None:
    """Length in seconds from the file's header; None if it cannot be read."""
    declared = read_header(path)
    return declared.seconds if declared else None


def find_above(root: Path, *names: str) -> Path | None:
    """The first of the files ``names`` that is in ``root`` or in one of its parent folders."""
    for folder in (root.absolute(), *root.absolute().parents):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def write_speech(root: Path, rows: Iterable[SpeechRow], notes: Sequence[str] = ()) -> Index:
    """Write ``root/speech.csv``, sorted by path."""
    ordered = sorted(rows, key=lambda row: row.path)
    lines = [
        (_inside(root, row.path), row.corpus, row.speaker, row.gender, f"{row.seconds:.3f}", row.split,
         row.license, row.text)
        for row in ordered
    ]  # fmt: skip
    manifest = root / "speech.csv"
    _write(manifest, SPEECH_COLUMNS, lines)
    return Index((manifest,), _count((row.split, row.speaker, row.seconds) for row in ordered), notes)


def write_noise(root: Path, rows: Iterable[NoiseRow], notes: Sequence[str] = ()) -> Index:
    """Write ``root/noise.csv``, sorted by path."""
    ordered = sorted(rows, key=lambda row: row.path)
    lines = [
        (_inside(root, row.path), row.corpus, row.kind, f"{row.seconds:.3f}", row.split, row.license)
        for row in ordered
    ]
    manifest = root / "noise.csv"
    _write(manifest, NOISE_COLUMNS, lines)
    return Index((manifest,), _count((row.split, row.kind, row.seconds) for row in ordered), notes)


def write_mixtures(
    root: Path, folders: Mapping[Path, Sequence[MixtureRow]], notes: Sequence[str] = ()
) -> Index:
    """Write a ``mixtures.csv`` into every folder of ``folders``. Either all appear, or none."""
    contents, counts = [], []
    for folder, rows in sorted(folders.items()):
        columns = ["name"]
        for number in range(1, len(rows[0].speakers) + 1):
            columns += [f"corpus_{number}", f"speaker_{number}", f"gender_{number}"]
        lines = []
        for row in sorted(rows, key=lambda row: row.name):
            cells = [
                cell for speaker in row.speakers for cell in (speaker.corpus, speaker.name, speaker.gender)
            ]
            lines.append((row.name, *cells, f"{row.seconds:.3f}"))
        contents.append((folder / "mixtures.csv", write_table((*columns, "seconds"), lines)))
        speakers = {speaker.name for row in rows for speaker in row.speakers} - {"unknown"}
        where = folder.relative_to(root).as_posix()
        counts.append(Count(where, len(rows), len(speakers), sum(row.seconds for row in rows)))
    replace_files(contents)
    return Index([path for path, _ in contents], counts, notes)


def _inside(root: Path, path: Path) -> str:
    inside = path.relative_to(root).as_posix()
    if not inside.isprintable():  # Also false for bytes that are not UTF-8.
        raise UnmingleError(
            f"The file {inside!r} in {root} has a name that a manifest cannot hold; rename or remove it."
        )
    return inside


def _write(manifest: Path, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    corpus = columns.index("corpus")
    others = _corpora_in(manifest) - {line[corpus] for line in lines}
    if others:
        raise UnmingleError(
            f"{manifest} lists another corpus ({', '.join(sorted(others))}); "
            "keep every corpus in its own folder."
        )
    replace_files([(manifest, write_table(columns, lines))])


def _corpora_in(manifest: Path) -> set[str]:
    if not manifest.is_file():
        return set()
    try:
        return {row.get("corpus") or "unnamed" for row in read_table(manifest)[1]}
    except UnmingleError:
        return {"unreadable"}


def _count(rows: Iterable[tuple[str, str, float]]) -> list[Count]:
    """Counts by split, from ``(split, speaker, seconds)``."""
    groups: dict[str, list[tuple[str, float]]] = {split: [] for split in SPLITS}
    for split, speaker, seconds in rows:
        groups[split].append((speaker, seconds))
    return [
        Count(split, len(group), len({speaker for speaker, _ in group}), sum(seconds for _, seconds in group))
        for split, group in groups.items()
        if group
    ]
