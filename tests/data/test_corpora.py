"""Corpora: folders of speakers, splits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from unmingle.data.corpora import read_corpora
from unmingle.errors import UnmingleError


def test_any_folder_of_speakers_is_a_corpus_with_disjoint_splits(tmp_path: Path) -> None:
    for speaker in range(40):
        path = tmp_path / "corpus" / f"speaker{speaker}" / "chapter" / "1.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(100), 8000)
    utterances = read_corpora([tmp_path / "corpus"])
    assert len(utterances) == 40
    splits = {
        split: {u.speaker for u in utterances if u.split == split} for split in ("train", "valid", "test")
    }
    assert all(splits.values())
    assert sum(map(len, splits.values())) == 40
    assert read_corpora([tmp_path / "corpus"]) == utterances


def test_bad_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no_path.csv").write_text("speaker,split\na,train\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 20)
    (tmp_path / "empty").mkdir()
    for name, word in (
        ("no_path.csv", "column"),
        ("binary.csv", "UTF-8"),
        ("empty", "neither"),
        ("none", "exist"),
    ):
        with pytest.raises(UnmingleError, match=word):
            read_corpora([tmp_path / name])
    with pytest.raises(UnmingleError, match="no split 'dev'"):
        read_corpora([tmp_path], "dev")


@pytest.mark.parametrize(
    "folders", [("train-360/mix_both", "train-360/s1"), ("noisy", "clean"), ("mix", "s1", "s2")]
)
def test_finished_mixtures_are_no_speakers(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
        soundfile.write(tmp_path / name / "a.wav", np.zeros(800), 8000)
    with pytest.raises(UnmingleError, match="finished mixtures"):
        read_corpora([tmp_path])
