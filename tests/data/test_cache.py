"""The cache of decoded speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from unmingle.data.cache import decode
from unmingle.data.corpora import Utterance


def test_the_cache_is_made_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(1000)), 8000)
    utterances = [Utterance(path, "c", "s", "F", "train")]
    decode(utterances, 8000, tmp_path / "cache")
    folders = list((tmp_path / "cache").iterdir())
    assert len(decode(utterances, 8000, tmp_path / "cache")) == 1
    assert list((tmp_path / "cache").iterdir()) == folders
    soundfile.write(path, 0.1 * np.sin(np.arange(2000)), 8000)
    assert decode(utterances, 8000, tmp_path / "cache").length(0) == 2000
