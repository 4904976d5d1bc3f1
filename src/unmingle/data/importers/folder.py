"""Any folder of ``speaker/*.flac`` (or wav, ogg, mp3). A manifest saves scanning it, and contains the lengths."""

from __future__ import annotations

from pathlib import Path

from unmingle.data.corpora import read_speaker_folders
from unmingle.data.importers.base import Importer, Index, SpeechRow, seconds_of, write_speech


def _index(root: Path) -> Index:
    root = root.absolute()  # "." has no name that could name the corpus.
    return write_speech(
        root,
        [
            SpeechRow(
                utterance.path, utterance.corpus, utterance.speaker, utterance.gender,
                seconds_of(utterance.path), utterance.split, utterance.license,
            )
            for utterance in read_speaker_folders(root)
            if not utterance.path.name.startswith(".")
        ],
    )  # fmt: skip


FOLDER = Importer(
    name="folder",
    title="a folder of speaker/*.flac",
    what="speech",
    licence="your own",
    homepage="",
    read=_index,
    no_fetch="Your own folder cannot be fetched; run: unmingle data index folder --root DIR",
)
