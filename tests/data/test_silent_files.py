"""Silent files of a corpus are skipped and named once; whatever else the corpus holds is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import tiny_sound
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.mixture_folders import list_hash, read_mixture_folder
from unmingle.data.mixture_plans import MixturePlanner
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.noise import NoiseConfig, NoiseMaker
from unmingle.errors import UnmingleError

RATE = 8000
SILENT = frozenset({1, 3, 4, 5})


def _corpus(folder: Path, offset: float = 0.0) -> Path:
    """Three speakers of two files each. The second file of two speakers is silent, and both of the third."""
    rows = ["path,speaker,split"]
    for number in range(6):
        path = folder / f"s{number // 2}" / f"{number}.wav"
        tiny_sound(path)
        if number in SILENT:
            soundfile.write(path, np.full(4000, offset), RATE)
        rows.append(f"{path.relative_to(folder)},s{number // 2},train")
    (folder / "speech.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_silent_files_are_named_when_the_cache_is_made(
    tmp_path: Path, offset: float, caplog: pytest.LogCaptureFixture
) -> None:
    utterances = read_corpora([_corpus(tmp_path / "corpus", offset)])
    for _ in range(2):
        assert decode(utterances, RATE, tmp_path / "cache").silent == SILENT
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert message.startswith("4 of 6 files are silent and are skipped: ")
    assert [name for name in map(str, range(6)) if f"{name}.wav" in message] == ["1", "3", "4", "5"]


def test_no_more_than_ten_silent_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        (tmp_path / "corpus" / "s").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "corpus" / "s" / f"{number}.wav", np.zeros(400), RATE)
    decode(read_corpora([tmp_path / "corpus"]), RATE, tmp_path / "cache")
    assert caplog.text.count(".wav") == 10
    assert "12 of 12 files" in caplog.text


def test_no_mixture_contains_a_silent_file(tmp_path: Path) -> None:
    utterances = read_corpora([_corpus(tmp_path / "corpus")])
    speech = decode(utterances, RATE, tmp_path / "cache")
    mixer = Mixer(utterances, speech, RATE, MixingConfig(), 0)
    for index in range(40):
        assert sorted(mixer.picked(index)) == [0, 2]
        plan = mixer.crop(index, 9000)
        assert {part.utterance for voice in plan.voices for part in voice.segments} == {0, 2}
        assert (np.abs(mixer.example(index, 2000).sources).max(axis=1) > 0.01).all()


def test_a_speaker_of_silent_files_only_is_no_speaker(tmp_path: Path) -> None:
    utterances = read_corpora([_corpus(tmp_path / "corpus")])
    speech = decode(utterances, RATE, tmp_path / "cache")
    with pytest.raises(UnmingleError, match=r"3 speakers .* the data has 2 that are not silent"):
        Mixer(utterances, speech, RATE, MixingConfig(speakers=3), 0)


def test_a_plan_depends_only_on_the_silent_files_that_it_meets(tmp_path: Path) -> None:
    utterances = read_corpora([_corpus(tmp_path / "corpus")])
    every = MixturePlanner(utterances, None, RATE, MixingConfig(), 0, SILENT)
    none = MixturePlanner(utterances, None, RATE, MixingConfig(), 0)
    alike = [index for index in range(2000) if not SILENT & set(none.picked(index))]
    assert len(alike) > 20
    assert all(every.picked(index) == none.picked(index) for index in alike)


def test_a_list_of_mixtures_is_the_same_whatever_the_cache_holds(tmp_path: Path) -> None:
    corpus, cache = _corpus(tmp_path / "corpus"), tmp_path / "whole"
    config = MixtureFolderConfig(corpora=[str(corpus)], count=5, seed=1)
    write_mixture_folder(tmp_path / "picked", config, tmp_path / "cache")
    decode(read_corpora([corpus]), RATE, cache)
    write_mixture_folder(tmp_path / "all", config, cache)
    picked, all_ = (read_mixture_folder(tmp_path / name) for name in ("picked", "all"))
    assert list_hash(picked) == list_hash(all_)
    assert {item.details[f"source_{n}"][-5:] for item in picked for n in (1, 2)} == {"0.wav", "2.wav"}


def test_silent_recordings_are_no_noise(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    for number in range(3):
        noise = 0.1 * np.random.default_rng(0).standard_normal(4000) * (number == 1)
        soundfile.write(tmp_path / "noise" / f"{number}.wav", noise, RATE)
    recordings = read_noise([tmp_path / "noise"])
    maker = NoiseMaker(recordings, decode(recordings, RATE), None, RATE, NoiseConfig())
    assert {maker.draw(np.random.default_rng(k), 1000)[1] for k in range(20)} == {"noise/1"}
    silent = [recordings[0], recordings[2]]
    with pytest.raises(UnmingleError, match="All recordings of noise are silent"):
        NoiseMaker(silent, decode(silent, RATE), None, RATE, NoiseConfig())
