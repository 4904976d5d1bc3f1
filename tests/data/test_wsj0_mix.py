"""WSJ0-mix from its lists, on a small WSJ0 made from the packaged speech."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speech_levels import Signal, halved_by_hand, level_by_hand
from unmingle.audio import Samples
from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.data.wsj0_mix import Entry, Mode, mix, read_list, write_wsj0_mix
from unmingle.errors import UnmingleError
from unmingle.shares import Share

FILES = {
    "01t/01to030v": "si_tr_s/01t/01to030v.wav",
    "02a/02ac0101": "SI_TR_S/02A/02AC0101.WV1",
    "40n/40na010x": "si_tr_s/40n/40na010x.wv1",
}
"""Name in the lists, and where it lies under ``wsj0``."""
LISTS = {
    2: "wsj0/si_tr_s/01t/01to030v.wav 1.9857 wsj0/si_tr_s/02a/02ac0101.wav -1.9857\n"
    "wsj0/si_tr_s/40n/40na010x.wav 0.032494 wsj0/si_tr_s/01t/01to030v.wav -0.032494\n",
    3: "wsj0/si_tr_s/01t/01to030v.wav 2.5 wsj0/si_tr_s/02a/02ac0101.wav -2.5 wsj0/si_tr_s/40n/40na010x.wav 0\n",
}


def test_the_rule_of_mixing() -> None:
    first, second = np.array([0.1, -0.2, 0.4]), np.array([0.3, 0.1])
    # 0.1 / 0.5 = 0.2 and so on; 20 dB more than 0.3 / 0.1 is 30.
    mixture, sources = mix([first, second], [0.5, 0.1], [0.0, 20.0], "min")
    scale = 0.9 / 30.2
    np.testing.assert_allclose(sources, scale * np.array([[0.2, -0.4], [30.0, 10.0]]))
    np.testing.assert_allclose(mixture, scale * np.array([30.2, 9.6]))
    mixture, sources = mix([first, second], [0.5, 0.1], [0.0, -20.0], "max")
    scale = 0.9 / 0.8
    np.testing.assert_allclose(sources, scale * np.array([[0.2, -0.4, 0.8], [0.3, 0.1, 0.0]]))
    np.testing.assert_allclose(mixture, scale * np.array([0.5, -0.3, 0.8]))
    # Where they cancel, a source has the largest sample.
    mixture, sources = mix([first, -first, np.zeros(3)], [1.0] * 3, [0.0] * 3, "min")
    assert np.abs(sources).max() == pytest.approx(0.9)
    assert not mixture.any()
    assert not mix([np.zeros(2), np.zeros(2)], [1.0] * 2, [0.0] * 2, "max")[0].any()


@pytest.fixture(scope="session")
def utterances(example_sources: Samples) -> dict[str, Signal]:
    """Three utterances of different lengths, some odd, in 16-bit steps."""
    cuts = (example_sources[0, 8000:26000], example_sources[1, 8000:25001], example_sources[0, 40000:57777])
    return {name: np.rint(cut * 20000.0) / 2**15 for name, cut in zip(FILES, cuts, strict=True)}


@pytest.fixture(scope="session")
def levels(utterances: dict[str, Signal]) -> dict[str, float]:
    return {name: level_by_hand(halved_by_hand(samples)) for name, samples in utterances.items()}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, utterances: dict[str, Signal]) -> Path:
    """A folder with ``wsj0`` in it: converted and as on the discs, with the far microphone beside."""
    root = tmp_path_factory.mktemp("discs")
    for name, place in FILES.items():
        path = root / "wsj0" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "WAV" if path.suffix == ".wav" else "NIST"
        soundfile.write(path, utterances[name], 16000, "PCM_16", format=kind)
        soundfile.write(path.with_suffix(".wv2"), np.zeros(100), 16000, "PCM_16", format="NIST")
    return root


def _list(folder: Path, text: str) -> Path:
    path = folder / "mix_spk_tt.txt"
    path.write_text(text, encoding="utf-8")
    return path


def _expected(
    entry: Entry, utterances: dict[str, Signal], levels: dict[str, float], mode: str, rate: int
) -> Signal:
    """Mixture and sources as 16-bit integers, ``(1 + sources, samples)``."""
    names = [path.removeprefix("wsj0/si_tr_s/").removesuffix(".wav") for path in entry.paths]
    voices = [utterances[name] if rate == 16000 else halved_by_hand(utterances[name]) for name in names]
    lengths = sorted(map(len, voices))
    samples = lengths[0] if mode == "min" else lengths[-1]
    loud = [
        np.append(voice, np.zeros(samples))[:samples] / levels[name] * 10 ** (decibels / 20)
        for voice, name, decibels in zip(voices, names, entry.levels_db, strict=True)
    ]
    parts = np.stack([sum(loud, np.zeros(samples)), *loud])
    return np.round(2**15 * 0.9 * parts / np.abs(parts).max())


@pytest.mark.parametrize("speakers", [2, 3])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_list_becomes_a_folder(
    root: Path,
    utterances: dict[str, Signal],
    levels: dict[str, float],
    tmp_path: Path,
    speakers: int,
    mode: Mode,
    rate: int,
) -> None:
    path, reported = _list(tmp_path, LISTS[speakers]), []
    write_wsj0_mix(path, root, tmp_path / "made", rate, mode, lambda *done: reported.append(done))
    entries = read_list(path)
    assert reported == [(n + 1, len(entries)) for n in range(len(entries))]
    parts = ["mix", *(f"s{n + 1}" for n in range(speakers))]
    assert {each.name for each in (tmp_path / "made").iterdir()} == {*parts, "mixtures.csv", "recipe.json"}
    for entry in entries:
        expected = _expected(entry, utterances, levels, mode, rate)
        for part, signal in zip(parts, expected, strict=True):
            file = tmp_path / "made" / part / f"{entry.name}.wav"
            assert soundfile.info(file).subtype == "PCM_16"
            written, written_rate = soundfile.read(file, dtype="int16")
            assert written_rate == rate
            # The levels are computed differently, so a sample may round to the other side.
            np.testing.assert_allclose(written, signal, atol=1)
            assert (written == signal).mean() > 0.9
    items = read_mixture_folder(tmp_path / "made")
    for item in items:
        mixture, sources, _ = read_item(item)
        np.testing.assert_allclose(sources.sum(axis=0), mixture, atol=2.1 / 2**15)
        assert np.abs([mixture, *sources]).max() == pytest.approx(0.9, abs=1e-4)
    recipe = json.loads((tmp_path / "made" / "recipe.json").read_text())
    assert recipe["list_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (recipe["sample_rate"], recipe["mode"], recipe["speakers"]) == (rate, mode, speakers)


def test_names_and_rows(root: Path, tmp_path: Path) -> None:
    write_wsj0_mix(_list(tmp_path, LISTS[2]), root, tmp_path / "two")
    rows = list(csv.DictReader((tmp_path / "two" / "mixtures.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [
        "01to030v_1.9857_02ac0101_-1.9857",
        "40na010x_0.032494_01to030v_-0.032494",
    ]
    assert rows[0] == {
        "name": "01to030v_1.9857_02ac0101_-1.9857",
        "source_1": "wsj0/si_tr_s/01t/01to030v.wav",
        "corpus_1": "wsj0",
        "speaker_1": "01t",
        "gender_1": "unknown",
        "gain_db_1": "1.9857",
        "source_2": "wsj0/si_tr_s/02a/02ac0101.wav",
        "corpus_2": "wsj0",
        "speaker_2": "02a",
        "gender_2": "unknown",
        "gain_db_2": "-1.9857",
        "snr_db": "3.9714",
        "seconds": "1.063",
    }
    assert read_mixture_folder(tmp_path / "two")[0].gender_pair == "unknown"
    # MATLAB's num2str: five significant digits, six from ten on; no sign before zero.
    levels = (0.97482, -12.345678, 0.0, -0.0, 2.123456)
    name = Entry(("x/a.wav",) * 5, levels, 1).name
    assert name == "a_0.97482_a_-12.3457_a_0_a_0_a_2.1235"


@pytest.mark.parametrize("below", ["", "wsj0"])
def test_utterances_are_found_with_and_without_wsj0(root: Path, tmp_path: Path, below: str) -> None:
    text = LISTS[3]
    for number, lines in enumerate((text, text.replace("wsj0/", ""), text.replace("/", "\\").upper())):
        path = _list(tmp_path, lines)
        write_wsj0_mix(path, root / below, tmp_path / f"{number}", 16000)
    mixtures = [next((tmp_path / f"{number}" / "mix").iterdir()).read_bytes() for number in range(3)]
    assert mixtures[0] == mixtures[1] == mixtures[2]


def test_linked_discs_are_searched_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "11-1.1").symlink_to(root)
    (tmp_path / "linked" / "round").symlink_to(tmp_path / "linked")
    write_wsj0_mix(_list(tmp_path, LISTS[3]), tmp_path / "linked", tmp_path / "made")
    assert len(read_mixture_folder(tmp_path / "made")) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("\n  \n", "empty"),
        ("a.wav 1 b.wav", "Line 1"),
        ("a.wav 1", "two speakers or more"),
        ("\na.wav 1 b.wav -1\nb.wav 1 c.wav x\n", "Line 3"),
        ("1 a.wav -1 b.wav", "Line 1"),
        ("a.wav 1 b.wv2 -1", "Line 1"),
        ("a.wav nan b.wav -1", "Line 1"),
        ("a.wav 1e9 b.wav -1", "Line 1"),
        ("a.wav 1 b.wav -1\na.wav 1.000001 b.wav -1", "repeats line 1"),
        ("a.wav 1 b.wav -1\na.wav 1 b.wav -1 c.wav 0", "3 speakers and line 1 has 2"),
    ],
)
def test_malformed_lists_are_refused(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(UnmingleError, match=word):
        read_list(_list(tmp_path, text))


def test_a_file_that_is_not_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80" * 9)
    for name, word in (("binary.txt", "UTF-8"), ("none.txt", "no such file"), ("", "directory")):
        with pytest.raises(UnmingleError, match=word):
            read_list(tmp_path / name)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(["a.wav", "x/b.WV1", "c.wv2", ".wav", "1.5", "-2", "nan", "\n", "1e400"]),
            max_size=16,
        ).map(" ".join),
    )
)
def test_any_text_is_a_list_or_gives_one_sentence(scratch: Path, text: str) -> None:
    path = scratch / "list.txt"
    path.write_text(text, encoding="utf-8", newline="")
    entries: list[Entry] = []
    sentence = "."
    try:
        entries = read_list(path)
    except UnmingleError as error:
        sentence = str(error)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    for entry in entries:
        assert len(entry.paths) == len(entry.levels_db) == len(entries[0].paths) >= 2
        assert all(map(math.isfinite, entry.levels_db))
        assert "/" not in entry.name
    assert len({entry.name for entry in entries}) == len(entries)


SHORTEN = (
    (
        b"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 16000\nsample_n_bytes -i 2\nsample_count -i 4000\n"
        b"sample_coding -s26 pcm,embedded-shorten-v1.09\nend_head\n"
    ).ljust(1024)
    + b"ajkg\x02"
    + bytes(2000)
)


def _bad_files(folder: Path) -> Iterator[tuple[str, str]]:
    """A function that writes a bad file and returns the error text."""
    noise = np.random.default_rng(0).standard_normal(4000) * 0.1
    soundfile.write(folder / "si_tr_s/x.wv2", noise, 16000, "PCM_16", format="NIST")
    yield "needs wsj0/si_tr_s/x.wav, but .* no such", "only the far microphone"
    (folder / "si_tr_s/x.wv1").write_bytes(SHORTEN)
    yield "compressed with shorten.*sph2pipe", "shorten"
    soundfile.write(folder / "si_tr_s/x.wav", noise, 8000)
    yield "8000 Hz", "rate"
    soundfile.write(folder / "si_tr_s/x.wav", np.stack([noise, noise], axis=1), 16000)
    yield "2 channels", "channels"
    soundfile.write(folder / "si_tr_s/x.wav", 0 * noise, 16000)
    yield "is silent", "silence"
    soundfile.write(folder / "si_tr_s/x.wav", noise, 16000)
    (folder / "si_tr_s/x.wav").write_bytes((folder / "si_tr_s/x.wav").read_bytes()[:5000])
    yield "ends early", "cut"
    (folder / "si_tr_s/x.wav").write_bytes(b"no audio")
    yield "cannot be read as audio", "text"


def test_bad_utterances_are_refused_and_the_folder_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "si_tr_s").mkdir(parents=True)
    soundfile.write(
        tmp_path / "corpus/si_tr_s/y.wav", np.random.default_rng(1).standard_normal(4000) * 0.1, 16000
    )
    path = _list(tmp_path, "wsj0/si_tr_s/y.wav 1 wsj0/si_tr_s/x.wav -1\n")
    for sentence, what in _bad_files(tmp_path / "corpus"):
        with pytest.raises(UnmingleError, match=sentence):
            write_wsj0_mix(path, tmp_path / "corpus", tmp_path / "made")
        assert not (tmp_path / "made").exists(), what
    noise = np.random.default_rng(2).standard_normal(4000) * 0.1
    soundfile.write(tmp_path / "corpus/si_tr_s/x.wav", noise, 16000)
    write_wsj0_mix(path, tmp_path / "corpus", tmp_path / "made")
    assert {each.name for each in tmp_path.iterdir()} == {"corpus", path.name, "made"}


LONG_LIST = "".join(
    f"wsj0/si_tr_s/01t/01to030v.wav {n / 8} wsj0/si_tr_s/02a/02ac0101.wav {-n / 8}\n" for n in range(1, 8)
)
"""Seven mixtures."""


def _bytes(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_shares_and_processes_do_not_change_a_byte(root: Path, tmp_path: Path) -> None:
    path, shared = _list(tmp_path, LONG_LIST), tmp_path / "shared"
    assert write_wsj0_mix(path, root, tmp_path / "whole", processes=2)
    assert len(read_mixture_folder(tmp_path / "whole")) == 7
    # With more shares than mixtures, two do nothing.
    complete = [write_wsj0_mix(path, root, shared, share=Share(i, 9), processes=1) for i in range(9, 0, -1)]
    assert complete == [False] * 8 + [True]
    assert _bytes(shared) == _bytes(tmp_path / "whole")
    assert write_wsj0_mix(path, root, shared, share=Share(4, 9))
    with pytest.raises(UnmingleError, match="not empty"):
        write_wsj0_mix(path, root, shared, 16000, share=Share(1, 9))


def test_an_interrupted_list_goes_on(root: Path, tmp_path: Path) -> None:
    path, done, rest = _list(tmp_path, LONG_LIST), [], []

    def interrupt(*ends: int) -> None:
        done.append(ends)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_wsj0_mix(path, root, tmp_path / "made", on_progress=interrupt, processes=1)
    assert not (tmp_path / "made").exists()
    write_wsj0_mix(path, root, tmp_path / "made", on_progress=lambda *ends: rest.append(ends), processes=1)
    assert rest[0][0] > 3
    assert rest[-1] == (7, 7)
    write_wsj0_mix(path, root, tmp_path / "whole")
    assert _bytes(tmp_path / "made") == _bytes(tmp_path / "whole")


def test_bad_folders_and_rates_are_refused(root: Path, tmp_path: Path) -> None:
    path = _list(tmp_path, LISTS[2])
    with pytest.raises(UnmingleError, match="not 44100 Hz"):
        write_wsj0_mix(path, root, tmp_path / "made", 44100)
    with pytest.raises(UnmingleError, match="none does not exist"):
        write_wsj0_mix(path, tmp_path / "none", tmp_path / "made")
    for folder in (tmp_path, path):
        with pytest.raises(UnmingleError, match="not empty"):
            write_wsj0_mix(path, root, folder)
