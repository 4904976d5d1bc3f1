"""Importers on tiny corpora with the layout of the real ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from typer.testing import Result as CliResult

from conftest import tiny_librispeech, tiny_sound, write_text
from unmingle.cli.data import app
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.importers import IMPORTERS, find_importer
from unmingle.data.mixture_folders import read_mixture_folder
from unmingle.data.premixed import PremixedMixtures
from unmingle.errors import UnmingleError


def _index(name: str, root: Path) -> CliResult:
    result = CliRunner().invoke(app, ["index", name, "--root", str(root)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def _refused(name: str, root: Path, words: str) -> None:
    with pytest.raises(UnmingleError, match=words) as error:
        find_importer(name).index(root)
    assert "\n" not in str(error.value)


def _rows(manifest: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))


def test_librispeech_is_split_by_folder_and_counts_an_utterance_once(tmp_path: Path) -> None:
    root = tiny_librispeech(tmp_path / "corpora")
    tiny_sound(root / "other" / "a.flac")  # Not a part of the corpus.
    out = _index("librispeech", root).output
    assert "unmingle mix" in out
    first = (root / "speech.csv").read_bytes()
    utterances = read_corpora([root])
    assert len(utterances) == 8
    assert {(u.split, u.speaker, u.gender) for u in utterances} == {
        ("train", "14", "F"), ("valid", "84", "F"), ("valid", "174", "M"), ("test", "61", "M"),
    }  # fmt: skip
    assert all(u.path.is_file() and u.corpus == "librispeech" for u in utterances)
    assert {u.text for u in utterances} == {"IT WAS, SO", "OH"}
    assert all(float(row["seconds"]) == 0.5 for row in _rows(root / "speech.csv"))
    _index("librispeech", root)
    assert (root / "speech.csv").read_bytes() == first


def test_an_incomplete_corpus_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    root = tiny_librispeech(tmp_path / "corpora")
    (root / "LibriSpeech" / "dev-clean" / "174" / "2" / "174-2-0001.flac").unlink()
    _refused("librispeech", root, r"incomplete: .*174-2-0001\.flac")
    tiny_sound(root / "LibriSpeech" / "dev-clean" / "174" / "2" / "174-2-0001.flac").write_bytes(b"fLaC")
    _refused("librispeech", root, "damaged")
    assert not (root / "speech.csv").exists()


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name != "folder"])
def test_a_missing_corpus_gives_one_sentence_with_the_expected_folders(name: str, tmp_path: Path) -> None:
    _refused(name, tmp_path / "none", "does not exist")
    _refused(name, tmp_path, "looked for")


def test_every_corpus_is_listed_and_those_without_archives_say_why() -> None:
    out = CliRunner().invoke(app, ["list"]).output
    assert all(name in out for name in IMPORTERS)
    assert "gives no checksum" in out
    for importer in IMPORTERS.values():
        assert bool(importer.parts) != bool(importer.no_fetch)
    for name, words in (("wsj0", "LDC93S6A"), ("librispeech", "--part"), ("x", "no corpus 'x'")):
        with pytest.raises(UnmingleError, match=words):
            CliRunner().invoke(app, ["fetch", name, "--root", "x"], catch_exceptions=False)
    with pytest.raises(UnmingleError, match="no part 'p'"):
        CliRunner().invoke(app, ["fetch", "vctk", "--part", "p", "--root", "x"], catch_exceptions=False)


def test_vctk_takes_one_microphone(tmp_path: Path) -> None:
    root = tmp_path / "vctk"
    for speaker in ("p225", "s5"):
        for microphone in (1, 2):
            tiny_sound(root / "wav48_silence_trimmed" / speaker / f"{speaker}_001_mic{microphone}.flac")
    write_text(root / "wav48_silence_trimmed" / "log.txt", "")
    write_text(root / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    write_text(
        root / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \np225  23  F    English    Southern\n",
    )
    _index("vctk", root)
    utterances = read_corpora([root])
    assert [(u.speaker, u.gender, u.text) for u in utterances] == [
        ("p225", "F", "Please call Stella."), ("s5", "unknown", ""),
    ]  # fmt: skip
    assert all(u.path.name.endswith("_mic1.flac") for u in utterances)
    tiny_librispeech(root)
    _refused("librispeech", root, r"lists another corpus \(vctk\)")


@pytest.mark.parametrize("inside", [True, False])
def test_common_voice_keeps_held_out_speakers_out_of_the_training_data(tmp_path: Path, inside: bool) -> None:
    home = tmp_path / "cv-corpus" / "cy"
    tables = {
        "train": [("a" * 8, "1.mp3", "male_masculine")],
        "dev": [("b" * 8, "2.mp3", "female")],
        "test": [("c" * 8, "3.mp3", "")],
        # An extra clip of a training speaker, one of a speaker of the test, a new speaker, an empty file.
        "validated": [("a" * 8, "1.mp3", ""), ("a" * 8, "4.mp3", ""), ("c" * 8, "5.mp3", ""),
                      ("d" * 8, "6.mp3", ""), ("d" * 8, "7.mp3", "")],
    }  # fmt: skip
    for name, clips in tables.items():
        lines = [f'{speaker}\t{path}\tShw "mae\t{gender}' for speaker, path, gender in clips]
        write_text(home / f"{name}.tsv", "\n".join(["client_id\tpath\tsentence\tgender", *lines]) + "\n")
    for number in range(1, 7):
        tiny_sound(home / "clips" / f"{number}.mp3", rate=16000)
    (home / "clips" / "7.mp3").touch()
    write_text(home / "clip_durations.tsv", "clip\tduration[ms]\n1.mp3\t1234\n")
    root = home if inside else home.parent
    out = _index("common-voice", root).output
    assert "1 clips cannot be read" in out
    found = {u.path.name: (u.split, u.gender, u.corpus) for u in read_corpora([root])}
    assert found == {
        "1.mp3": ("train", "M", "common-voice-cy"), "2.mp3": ("valid", "F", "common-voice-cy"),
        "3.mp3": ("test", "unknown", "common-voice-cy"), "4.mp3": ("train", "unknown", "common-voice-cy"),
        "6.mp3": ("train", "unknown", "common-voice-cy"),
    }  # fmt: skip
    assert _rows(root / "speech.csv")[0]["seconds"] == "1.234"
    assert _rows(root / "speech.csv")[0]["text"] == 'Shw "mae'
    (home / "clips" / "3.mp3").unlink()
    _refused("common-voice", root, r"incomplete: .*3\.mp3")


def _sphere(path: Path, coding: str = "pcm") -> None:
    """A SPHERE file written by hand, as NIST describes it."""
    samples = (1000 * np.sin(np.arange(4000) / 9)).astype("<i2")
    header = (
        "NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i 4000\nsample_rate -i 16000\nsample_n_bytes -i 2\n"
        f"sample_byte_format -s2 01\nsample_sig_bits -i 16\nsample_coding -s{len(coding)} {coding}\nend_head\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode().ljust(1024) + samples.tobytes())


def test_wsj0_takes_the_close_microphone_only(tmp_path: Path) -> None:
    root, wsj0 = tmp_path / "csr", tmp_path / "csr" / "wsj0"
    _sphere(root / "11-1.1" / "WSJ0" / "SI_TR_S" / "011" / "011C0201.WV1")
    _sphere(root / "11-1.1" / "WSJ0" / "SI_TR_S" / "011" / "011C0201.WV2")
    tiny_sound(wsj0 / "si_dt_05" / "050" / "050c0101.wv1", 0.25, 16000, "NIST")
    tiny_sound(wsj0 / "si_dt_05" / "050" / "050c0101.wv2", 0.25, 16000, "NIST")
    _sphere(wsj0 / "si_et_05" / "440" / "440c0101.wv1", "pcm,embedded-shorten-v2.00")
    _sphere(wsj0 / "sd_tr_s" / "00a" / "00ac0101.wv1")  # From a part that is not used.
    write_text(wsj0 / "transcrp" / "dots" / "011c0200.dot", "THE SALE (OF THE) HOTELS (011c0201)\n")
    write_text(wsj0 / "doc" / "spkrinfo.txt", ";id sex\n011  F  x\n440 M\n--- ---\n")
    (wsj0 / "loop").symlink_to(root)
    _refused("wsj0", root, r"440c0101\.wv1 is compressed \(pcm,embedded-shorten-v2\.00\).*sph2pipe")
    tiny_sound(wsj0 / "si_et_05" / "440" / "440c0101.wav", 0.25, 16000)
    _index("wsj0", root)
    utterances = read_corpora([root])
    assert {(u.path.name, u.split, u.speaker, u.gender, u.text) for u in utterances} == {
        ("011C0201.WV1", "train", "011", "F", "THE SALE (OF THE) HOTELS"),
        ("050c0101.wv1", "valid", "050", "unknown", ""),
        ("440c0101.wav", "test", "440", "M", ""),
    }
    assert {float(row["seconds"]) for row in _rows(root / "speech.csv")} == {0.25}
    (tmp_path / "none" / "si_tr_s").mkdir(parents=True)
    _refused("wsj0", tmp_path / "none", r"every \*\.wv1 of si_tr_s")


def test_a_folder_of_speakers_gets_the_splits_that_it_has_without_a_manifest(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for speaker in range(12):
        tiny_sound(root / f"t{speaker}" / "deep" / "a.flac")
    before = read_corpora([root])
    _index("folder", root)
    assert read_corpora([root]) == sorted(before, key=lambda u: u.path)
    _index("folder", root)


def test_musan_without_its_speech_and_with_its_licences(tmp_path: Path) -> None:
    home = tmp_path / "musan"
    for path in ("noise/free-sound/noise-free-sound-0000", "music/fma/music-fma-0000", "music/fma/music-fma-0001",
                 "music/fma/music-fma-0002", "speech/librivox/speech-librivox-0000"):  # fmt: skip
        tiny_sound(home / f"{path}.wav")
    write_text(
        home / "noise/free-sound/LICENSE", "All selected recordings were marked as in the Public Domain\n"
    )
    write_text(
        home / "music/fma/LICENSE",
        f"music-fma-0000\nA (B)\nCreative Commons Attribution-NonCommercial-ShareAlike 3.0\n{'=' * 30}\n"
        "music-fma-0001\nC\nhttp://creativecommons.org/licenses/by/4.0/\n",
    )
    out = _index("musan", tmp_path).output
    assert "speech" in out
    recordings = read_noise([tmp_path])
    assert {(n.path.stem, n.speaker, n.license) for n in recordings} == {
        ("noise-free-sound-0000", "noise", "public domain"), ("music-fma-0000", "music", "CC-BY-NC-SA-3.0"),
        ("music-fma-0001", "music", "CC-BY-4.0"), ("music-fma-0002", "music", "unknown"),
    }  # fmt: skip
    # The same split as for a folder without a manifest.
    (tmp_path / "noise.csv").rename(tmp_path / "away.csv")
    splits = {n.path.name: n.split for n in read_noise([home / "music", home / "noise"])}
    assert {n.path.name: n.split for n in recordings} == splits


def test_musan_split_by_source_trains_on_one_and_tests_on_the_other(tmp_path: Path) -> None:
    home = tmp_path / "musan" / "noise"
    _refused("musan-by-source", tmp_path, "looked for musan/noise")
    for number in range(60):
        tiny_sound(home / "free-sound" / f"noise-free-sound-{number:04d}.wav", 0.05)
    _refused("musan-by-source", tmp_path, "musan/noise/sound-bible is missing")
    for number in range(3):
        tiny_sound(home / "sound-bible" / f"noise-sound-bible-{number:04d}.wav", 0.05)
    tiny_sound(tmp_path / "musan" / "music" / "fma" / "music-fma-0000.wav", 0.05)
    _index("musan-by-source", tmp_path)
    recordings = read_noise([tmp_path])
    assert {n.split for n in recordings if "sound-bible" in n.path.name} == {"test"}
    splits = [n.split for n in recordings if "free-sound" in n.path.name]
    assert set(splits) == {"train", "valid"}
    assert 1 <= splits.count("valid") <= 7
    assert len(recordings) == 63


def test_wham_noise_has_its_own_splits(tmp_path: Path) -> None:
    home = tmp_path / "wham_noise"
    for folder in ("tr", "cv", "tt"):
        tiny_sound(home / folder / f"{folder}_1.3_x_-1.3.wav")
    tiny_sound(home / "tr" / "tr_1.3_x_-1.3sp08.wav")  # LibriMix's.
    write_text(home / "metadata" / "noise_meta_tr.csv", "utterance_id,Noise Band\ntr_1.3_x_-1.3.wav,1\n")
    for root in (tmp_path, home):
        _index("wham-noise", root)
        assert sorted((n.path.parent.name, n.split) for n in read_noise([root])) == [
            ("cv", "valid"), ("tr", "train"), ("tt", "test"),
        ]  # fmt: skip
    write_text(home / "metadata" / "noise_meta_tt.csv", "utterance_id\nb.wav\n")
    _refused("wham-noise", tmp_path, r"incomplete: tt/b\.wav")


def _mixtures(folder: Path, name: str, mix: str = "mix", sources: int = 2) -> Path:
    for part in (mix, *(f"s{number}" for number in range(1, sources + 1))):
        tiny_sound(folder / part / f"{name}.wav")
    return folder


def test_librimix_has_speakers_and_genders(tmp_path: Path) -> None:
    home = tmp_path / "Libri2Mix" / "wav8k" / "min"
    for split in ("train-360", "dev", "test"):
        _mixtures(home / split, "14-208-0001_61-70968-0065", "mix_clean")
    write_text(tmp_path / "LibriSpeech" / "SPEAKERS.TXT", "14   | F | x | 1 | A\n61 | M | x | 2 | B\n")
    out = _index("librimix", home).output
    assert f"unmingle evaluate {home / 'test'}" in out
    (item,) = read_mixture_folder(home / "test")
    assert item.gender_pair == "different"
    assert (item.details["speaker_2"], item.details["corpus_1"]) == ("61", "librispeech")
    assert item.details["seconds"] == "0.500"
    assert PremixedMixtures([home], "train", 8000, 2, 0).example(0, 100).sources.shape == (2, 100)
    tiny_sound(home / "dev" / "s1" / "174-1-0000_61-70968-0065.wav")
    _refused("librimix", tmp_path, r"incomplete: .*dev/mix_clean/174-1-0000")


def test_mixtures_of_wsj0_have_speakers_and_others_are_refused(tmp_path: Path) -> None:
    folder = _mixtures(
        tmp_path / "3speakers/wav8k/min/tt", "050a0501_1.5_22go0101_-0.2_440c0201_-1.3", sources=3
    )
    write_text(tmp_path / "wsj0-train-spkrinfo.txt", "050 F\n22g f\n440 M\n")
    _index("wsj0-mix", tmp_path)
    (item,) = read_mixture_folder(folder)
    assert [item.details[f"speaker_{n}"] for n in (1, 2, 3)] == ["050", "22g", "440"]
    assert item.gender_pair == "different"
    _mixtures(tmp_path / "test", "00000_a_b")
    _refused("librimix", tmp_path, "is not named like a mixture of LibriMix")


def test_realtalklibri_is_put_into_folders_of_mixtures(tmp_path: Path) -> None:
    for recording in (7, 12):
        for name in ("2_701_mixed_a", "2_701_left", "2_701_right", "2_70_mixed", "2_70_p", "2_70_q"):
            tiny_sound(tmp_path / "RTL" / f"extracted_{recording}" / "libri" / "one" / f"{name}.wav")
    for _ in range(2):
        _index("realtalklibri", tmp_path)
        items = read_mixture_folder(tmp_path / "mixtures" / "test")
        assert [item.name for item in items] == ["7_one_2_70", "7_one_2_701"]
        assert items[0].gender_pair == "unknown"
    assert len(read_mixture_folder(tmp_path / "mixtures" / "train")) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["RTL", "mixtures"]


def test_realtalklibri_with_two_mixtures_of_one_number_is_refused(tmp_path: Path) -> None:
    for name in ("2_701_mixed_a", "2_701_mixed_b", "2_701_left", "2_701_right"):
        tiny_sound(tmp_path / "RTL" / "extracted_7" / "libri" / "one" / f"{name}.wav")
    _refused("realtalklibri", tmp_path, "has two mixtures of the same number")
    assert [path.name for path in tmp_path.iterdir()] == ["RTL"]
