"""Training data from tar files: what is in them, and the window that moves over them."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from unmingle.data.batches import Crops, iterate
from unmingle.data.cache import JoinedSpeech, decode
from unmingle.data.corpora import Utterance, read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.streaming import StreamConfig, StreamedMixtures, check_speakers
from unmingle.data.tar_files import any_tars, find_tars, open_tar
from unmingle.errors import UnmingleError

RATE = 8000


def _sound(seed: int, seconds: float = 1.0) -> bytes:
    encoded = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(encoded, noise, RATE, format="FLAC")
    return encoded.getvalue()


def _pack(path: Path, files: dict[str, bytes]) -> Path:
    """A tar file of these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _corpus(folder: Path, tars: int) -> list[str]:
    """Tar files of two speakers each, who are in no other."""
    for number in range(tars):
        files = {
            f"speaker{number}{name}/{k}.flac": _sound(10 * number + k) for k in range(2) for name in "ab"
        }
        _pack(folder / f"train-{number:03d}.tar", files)
    return find_tars([str(folder)], "train")


def _mixer(utterances: Sequence[Utterance], speech: JoinedSpeech, seed: int) -> Mixer:
    check_speakers(utterances, 2)
    return Mixer(utterances, speech, RATE, MixingConfig(), seed)


def _stream(files: list[str], cache: Path, seed: int = 3, **window: int) -> StreamedMixtures:
    return StreamedMixtures(files, RATE, StreamConfig(**window), seed, _mixer, cache)


def test_every_pass_takes_every_file_once_and_the_window_moves_by_one(tmp_path: Path) -> None:
    tars = _corpus(tmp_path, 5)
    stream = _stream(tars, tmp_path / "cache", tars=2, mixtures=4)
    windows = [stream.window(number) for number in range(11)]
    order = [window[0] for window in windows]
    assert sorted(order[:5]) == sorted(order[5:10]) == tars
    assert order[:5] != order[5:10]
    assert all(window[-1] == following[0] for window, following in pairwise(windows))
    assert _stream(tars, tmp_path / "cache", tars=2).window(7) == windows[7]
    assert _stream(tars, tmp_path / "cache", seed=4, tars=2).window(0) != windows[0]
    assert _stream(tars, tmp_path / "cache", tars=9).window(3) == tars


def test_a_mixture_depends_on_its_number_alone(tmp_path: Path) -> None:
    tars = _corpus(tmp_path / "data", 5)
    stream = partial(_stream, tars, tars=2, mixtures=4)
    once = [stream(tmp_path / "one").example(k, 4000).sources for k in range(0, 30, 7)]
    through = stream(tmp_path / "two")
    for k in range(30):
        example = through.example(k, 4000)
        if k % 7 == 0:
            np.testing.assert_array_equal(example.sources, once[k // 7])
    crops = Crops(stream(tmp_path / "three"), 0.5, 2, first_batch=3, batches=15)
    for number, batch in enumerate(iterate(crops, workers=1), start=3):
        np.testing.assert_array_equal(batch.mixture[1], through.example(2 * number + 1, 4000).mixture)
    # Only speakers of one window are mixed.
    speakers = {
        tar.speaker for tar in open_tar(stream(tmp_path).window(0)[0], RATE, tmp_path / "x").utterances
    }
    assert len(speakers) == 2


def test_the_disk_holds_a_window_and_the_next_file(tmp_path: Path) -> None:
    tars, cache = _corpus(tmp_path / "data", 8), tmp_path / "cache"
    crops = Crops(_stream(tars, cache, tars=3, mixtures=2), 0.5, 2, batches=20)
    most, seen = 0, set[str]()
    for _ in iterate(crops, workers=1):
        (folder,) = cache.glob("stream-*")
        there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        most, seen = max(most, len(there)), seen | there
    assert most <= 4
    assert len(seen) == 8  # All of them were there at some time.
    _stream(tars, cache, seed=9, tars=1, mixtures=2).example(0, 4000)
    # What another run left is removed, but for the next file.
    assert len([path for path in folder.iterdir() if not path.name.startswith(".")]) <= 2


def test_tar_files_give_the_mixtures_of_the_same_corpus_in_folders(
    tmp_path: Path, example_corpus: Path
) -> None:
    utterances = read_corpora([example_corpus], "train")
    files: dict[str, bytes] = {}
    for number, one in enumerate(utterances):
        facts = {"speaker": one.speaker, "corpus": one.corpus, "gender": one.gender, "text": one.text}
        # The order of a sample's members does not matter.
        pair = [
            (f"{number:04d}.json", json.dumps(facts).encode()),
            (f"{number:04d}.flac", one.path.read_bytes()),
        ]
        files |= dict(pair[:: 1 if number % 2 else -1])
    _pack(tmp_path / "corpus" / "train-0.tar", files)
    opened = open_tar(str(tmp_path / "corpus" / "train-0.tar"), RATE, tmp_path / "cache")
    assert [(one.speaker, one.gender, one.text) for one in opened.utterances] == [
        (one.speaker, one.gender, one.text) for one in utterances
    ]
    mixer = Mixer(utterances, decode(utterances, RATE, tmp_path / "cache"), RATE, MixingConfig(), 3)
    stream = _stream([str(tmp_path / "corpus" / "train-0.tar")], tmp_path / "cache")
    for k in range(3):
        np.testing.assert_array_equal(stream.example(k, 4000).sources, mixer.example(k, 4000).sources)


def test_a_bad_utterance_is_left_out_and_a_bad_file_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(RATE), RATE, format="WAV")
    files = {"a/good.flac": _sound(1), "a/noise.txt": b"no audio", "b/._x.flac": b"of a Mac"}
    files |= {
        "a/broken.flac": b"fLaC, but no sound",
        "b/silent.wav": silence.getvalue(),
        "b/last.flac": _sound(2),
    }
    tar = _pack(tmp_path / "train-0.tar", files)
    with caplog.at_level(logging.WARNING):
        opened = open_tar(str(tar), RATE, tmp_path / "cache")
    assert [str(one.path).rpartition("!")[2] for one in opened.utterances] == ["a/good.flac", "b/last.flac"]
    assert len(opened.speech) == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "a/broken.flac" in said[0]
    assert "b/silent.wav is silent" in said[1]

    cut = tmp_path / "train-1.tar"
    cut.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(UnmingleError, match=r"train-1\.tar cannot be read to its end"):
        open_tar(str(cut), RATE, tmp_path / "cache")
    for name, files, error in (
        ("2", {"a.flac": _sound(1)}, "train-2.tar!a.flac has no speaker"),
        ("3", {"a.json": b"[1]", "a.flac": _sound(1)}, "not a JSON object"),
        ("4", {"a/b.txt": b""}, "holds no speech"),
    ):
        with pytest.raises(UnmingleError, match=error):
            open_tar(str(_pack(tmp_path / f"train-{name}.tar", files)), RATE, tmp_path / "cache")
    with pytest.raises(UnmingleError, match="cannot be read"):
        open_tar(str(tmp_path / "train-9.tar"), RATE, tmp_path / "cache")
    # Nothing half-made is left.
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_window_needs_enough_speakers(tmp_path: Path) -> None:
    tars = [str(_pack(tmp_path / f"{name}.tar", {f"{name}/1.flac": _sound(1)})) for name in "ab"]
    with pytest.raises(UnmingleError, match=r"have 1 speakers, but 2 are mixed.*stream\.tars"):
        _stream(tars, tmp_path / "cache", tars=1).example(0, 4000)
    assert len(_stream(tars, tmp_path / "cache", tars=2).example(0, 4000).sources) == 2


def test_tar_files_are_found_by_folder_glob_and_url(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar", "valid-0.tar", "dev-1.tar", "test.tar", "clean-0.tar"):
        _pack(tmp_path / "shards" / name, {"a/1.flac": b""})
    folder = str(tmp_path / "shards")
    trained = [f"{folder}/{name}.tar" for name in ("clean-0", "train-0", "train-1")]
    assert find_tars([folder], "train") == find_tars([f"{folder}/*.tar", trained[1]], "train") == trained
    assert find_tars([folder], "valid") == [f"{folder}/dev-1.tar", f"{folder}/valid-0.tar"]
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/found/train-0.tar", b"")
    assert find_tars(["memory://found/*.tar"], "train") == ["memory:///found/train-0.tar"]
    with pytest.raises(UnmingleError, match=r"valid-0\.tar"):
        find_tars(["memory://found/*.tar"], "valid")
    with pytest.raises(UnmingleError, match="check the name"):
        find_tars([f"{folder}/none-*.tar"], "train")
    assert any_tars([folder])
    assert not any_tars([str(tmp_path)])
    with pytest.raises(UnmingleError, match="cannot be trained on together"):
        any_tars([folder, str(tmp_path)])
