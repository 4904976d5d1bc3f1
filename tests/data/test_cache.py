"""The cache of decoded speech."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from conftest import tiny_sound
from unmingle.data.cache import decode
from unmingle.data.corpora import Utterance

_DECODER = """
import sys
from pathlib import Path
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
utterances, done = read_corpora([sys.argv[1]]), []
print("ready", flush=True)
sys.stdin.readline()
speech = decode(utterances, 8000, Path(sys.argv[2]), lambda *ends: done.append(ends))
print(len(done), len(speech))
"""


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


def test_processes_share_one_cache_and_one_decodes(tmp_path: Path) -> None:
    corpus, cache = tmp_path / "corpus", tmp_path / "cache"
    for number in range(20):
        tiny_sound(corpus / f"speaker{number % 4}" / f"{number}.wav")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _DECODER, str(corpus), str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:  # At once: without turns, each would find no cache.
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert sorted(said) == [["0", "20"], ["0", "20"], ["20", "20"]]
    assert len(list(cache.iterdir())) == 1
