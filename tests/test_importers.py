"""Importers on tiny corpora of the shape of the real ones, and fetches from a server of our own."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner
from typer.testing import Result as CliResult

from unmingle.cli.data import app
from unmingle.data import fetching
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.fetching import Archive, fetch, unfinished
from unmingle.data.importers import IMPORTERS, find_importer
from unmingle.data.mixture_folders import read_mixture_folder
from unmingle.data.premixed import PremixedMixtures
from unmingle.errors import UnmingleError

# Corpora -------------------------------------------------------------------------------------------------


def _sound(path: Path, seconds: float = 0.5, rate: int = 8000, format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.sin(np.arange(round(seconds * rate)) / 9)
    soundfile.write(path, samples.astype(np.float32), rate, format=format)
    return path


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


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


def _librispeech(root: Path) -> Path:
    home = root / "LibriSpeech"
    for part, talker, chapter in (
        ("train-clean-5", "14", "208"), ("dev-clean-2", "84", "1"), ("dev-clean", "84", "1"),
        ("dev-clean", "174", "2"), ("test-clean", "61", "3"),
    ):  # fmt: skip
        stem = f"{talker}-{chapter}"
        folder = home / part / talker / chapter
        for number in range(2):
            _sound(folder / f"{stem}-{number:04d}.flac")
        _text(folder / f"{stem}.trans.txt", f"{stem}-0000 IT WAS, SO\n{stem}-0001 OH\n")
    _text(
        home / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET\n14   | F | train-clean-360  | 25.03 | Kristin\n84 | F | dev-clean | 8 | X\n"
        "174 | M | dev-clean | 8 | Y | Z\n61   | M | test-clean | 8.1 | Müller\n",
    )
    return root


def test_librispeech_is_split_by_folder_and_counts_an_utterance_once(tmp_path: Path) -> None:
    root = _librispeech(tmp_path / "corpora")
    _sound(root / "other" / "a.flac")  # Of no corpus that was asked for.
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


def test_a_corpus_that_is_not_whole_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    root = _librispeech(tmp_path / "corpora")
    (root / "LibriSpeech" / "dev-clean" / "174" / "2" / "174-2-0001.flac").unlink()
    _refused("librispeech", root, r"not whole: .*174-2-0001\.flac")
    _sound(root / "LibriSpeech" / "dev-clean" / "174" / "2" / "174-2-0001.flac").write_bytes(b"fLaC")
    _refused("librispeech", root, "damaged")
    assert not (root / "speech.csv").exists()


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name != "folder"])
def test_an_absent_corpus_is_one_sentence_that_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    _refused(name, tmp_path / "none", "does not exist")
    _refused(name, tmp_path, "looked for")


def test_every_corpus_can_be_listed_and_those_without_archives_say_why() -> None:
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
    for talker in ("p225", "s5"):
        for microphone in (1, 2):
            _sound(root / "wav48_silence_trimmed" / talker / f"{talker}_001_mic{microphone}.flac")
    _text(root / "wav48_silence_trimmed" / "log.txt", "")
    _text(root / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    _text(
        root / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \np225  23  F    English    Southern\n",
    )
    _index("vctk", root)
    utterances = read_corpora([root])
    assert [(u.speaker, u.gender, u.text) for u in utterances] == [
        ("p225", "F", "Please call Stella."), ("s5", "unknown", ""),
    ]  # fmt: skip
    assert all(u.path.name.endswith("_mic1.flac") for u in utterances)
    _librispeech(root)
    _refused("librispeech", root, r"lists another corpus \(vctk\)")


@pytest.mark.parametrize("inside", [True, False])
def test_common_voice_keeps_held_out_talkers_out_of_the_training_data(tmp_path: Path, inside: bool) -> None:
    home = tmp_path / "cv-corpus" / "cy"
    tables = {
        "train": [("a" * 8, "1.mp3", "male_masculine")],
        "dev": [("b" * 8, "2.mp3", "female")],
        "test": [("c" * 8, "3.mp3", "")],
        # An extra clip of a training talker, one of a talker of the test, a new talker, an empty file.
        "validated": [("a" * 8, "1.mp3", ""), ("a" * 8, "4.mp3", ""), ("c" * 8, "5.mp3", ""),
                      ("d" * 8, "6.mp3", ""), ("d" * 8, "7.mp3", "")],
    }  # fmt: skip
    for name, clips in tables.items():
        lines = [f'{talker}\t{path}\tShw "mae\t{gender}' for talker, path, gender in clips]
        _text(home / f"{name}.tsv", "\n".join(["client_id\tpath\tsentence\tgender", *lines]) + "\n")
    for number in range(1, 7):
        _sound(home / "clips" / f"{number}.mp3", rate=16000)
    (home / "clips" / "7.mp3").touch()
    _text(home / "clip_durations.tsv", "clip\tduration[ms]\n1.mp3\t1234\n")
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
    _refused("common-voice", root, r"not whole: .*3\.mp3")


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
    _sound(wsj0 / "si_dt_05" / "050" / "050c0101.wv1", 0.25, 16000, "NIST")
    _sound(wsj0 / "si_dt_05" / "050" / "050c0101.wv2", 0.25, 16000, "NIST")
    _sphere(wsj0 / "si_et_05" / "440" / "440c0101.wv1", "pcm,embedded-shorten-v2.00")
    _sphere(wsj0 / "sd_tr_s" / "00a" / "00ac0101.wv1")  # Of a part that is not taken.
    _text(wsj0 / "transcrp" / "dots" / "011c0200.dot", "THE SALE (OF THE) HOTELS (011c0201)\n")
    _text(wsj0 / "doc" / "spkrinfo.txt", ";id sex\n011  F  x\n440 M\n--- ---\n")
    (wsj0 / "loop").symlink_to(root)
    _refused("wsj0", root, r"440c0101\.wv1 is compressed \(pcm,embedded-shorten-v2\.00\).*sph2pipe")
    _sound(wsj0 / "si_et_05" / "440" / "440c0101.wav", 0.25, 16000)
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
    for talker in range(12):
        _sound(root / f"t{talker}" / "deep" / "a.flac")
    before = read_corpora([root])
    _index("folder", root)
    assert read_corpora([root]) == sorted(before, key=lambda u: u.path)
    _index("folder", root)


def test_musan_without_its_speech_and_with_its_licences(tmp_path: Path) -> None:
    home = tmp_path / "musan"
    for path in ("noise/free-sound/noise-free-sound-0000", "music/fma/music-fma-0000", "music/fma/music-fma-0001",
                 "music/fma/music-fma-0002", "speech/librivox/speech-librivox-0000"):  # fmt: skip
        _sound(home / f"{path}.wav")
    _text(home / "noise/free-sound/LICENSE", "All selected recordings were marked as in the Public Domain\n")
    _text(
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
    # As the folder without a manifest would be split.
    (tmp_path / "noise.csv").rename(tmp_path / "away.csv")
    splits = {n.path.name: n.split for n in read_noise([home / "music", home / "noise"])}
    assert {n.path.name: n.split for n in recordings} == splits


def test_wham_noise_has_its_own_splits(tmp_path: Path) -> None:
    home = tmp_path / "wham_noise"
    for folder in ("tr", "cv", "tt"):
        _sound(home / folder / f"{folder}_1.3_x_-1.3.wav")
    _sound(home / "tr" / "tr_1.3_x_-1.3sp08.wav")  # LibriMix's.
    _text(home / "metadata" / "noise_meta_tr.csv", "utterance_id,Noise Band\ntr_1.3_x_-1.3.wav,1\n")
    for root in (tmp_path, home):
        _index("wham-noise", root)
        assert sorted((n.path.parent.name, n.split) for n in read_noise([root])) == [
            ("cv", "valid"), ("tr", "train"), ("tt", "test"),
        ]  # fmt: skip
    _text(home / "metadata" / "noise_meta_tt.csv", "utterance_id\nb.wav\n")
    _refused("wham-noise", tmp_path, r"not whole: tt/b\.wav")


def _mixtures(folder: Path, name: str, mix: str = "mix", sources: int = 2) -> Path:
    for part in (mix, *(f"s{number}" for number in range(1, sources + 1))):
        _sound(folder / part / f"{name}.wav")
    return folder


def test_librimix_tells_talkers_and_genders(tmp_path: Path) -> None:
    home = tmp_path / "Libri2Mix" / "wav8k" / "min"
    for split in ("train-360", "dev", "test"):
        _mixtures(home / split, "14-208-0001_61-70968-0065", "mix_clean")
    _text(tmp_path / "LibriSpeech" / "SPEAKERS.TXT", "14   | F | x | 1 | A\n61 | M | x | 2 | B\n")
    out = _index("librimix", home).output
    assert f"unmingle evaluate {home / 'test'}" in out
    (item,) = read_mixture_folder(home / "test")
    assert item.gender_pair == "different"
    assert (item.details["talker_2"], item.details["corpus_1"]) == ("61", "librispeech")
    assert item.details["seconds"] == "0.500"
    assert PremixedMixtures(home, "train", 8000, 2, 0).example(0, 100).sources.shape == (2, 100)
    _sound(home / "dev" / "s1" / "174-1-0000_61-70968-0065.wav")
    _refused("librimix", tmp_path, r"not whole: .*dev/mix_clean/174-1-0000")


def test_mixtures_of_wsj0_tell_talkers_and_others_are_refused(tmp_path: Path) -> None:
    folder = _mixtures(
        tmp_path / "3speakers/wav8k/min/tt", "050a0501_1.5_22go0101_-0.2_440c0201_-1.3", sources=3
    )
    _text(tmp_path / "wsj0-train-spkrinfo.txt", "050 F\n22g f\n440 M\n")
    _index("wsj0-mix", tmp_path)
    (item,) = read_mixture_folder(folder)
    assert [item.details[f"talker_{n}"] for n in (1, 2, 3)] == ["050", "22g", "440"]
    assert item.gender_pair == "different"
    _mixtures(tmp_path / "test", "00000_a_b")
    _refused("librimix", tmp_path, "has not the name of a mixture of LibriMix")


def test_realtalklibri_is_put_into_folders_of_mixtures(tmp_path: Path) -> None:
    for recording in (7, 12):
        for name in ("2_701_mixed_a", "2_701_left", "2_701_right", "2_70_mixed", "2_70_p", "2_70_q"):
            _sound(tmp_path / "RTL" / f"extracted_{recording}" / "libri" / "one" / f"{name}.wav")
    for _ in range(2):
        _index("realtalklibri", tmp_path)
        items = read_mixture_folder(tmp_path / "mixtures" / "test")
        assert [item.name for item in items] == ["7_one_2_70", "7_one_2_701"]
        assert items[0].gender_pair == "unknown"
    assert len(read_mixture_folder(tmp_path / "mixtures" / "train")) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["RTL", "mixtures"]


# Fetches -------------------------------------------------------------------------------------------------


class Server:
    """Serves ``files`` by name; what it was asked for is in ``log``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.log: list[str | None] = []
        self.ranges = True
        self.cuts = 0
        """So many answers end in the middle."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted, body = self.headers.get("Range"), server.files.get(self.path.strip("/"))
                server.log.append(wanted)
                if body is None:
                    return self.send_error(404)
                start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
                if start >= len(body):
                    return self._answer(416, b"", f"*/{len(body)}")
                # Some servers name an encoding; it is no reason to unpack the file on the way.
                status, where = (206, f"{start}-{len(body) - 1}/{len(body)}") if start else (200, "")
                cut, server.cuts = server.cuts > 0, max(0, server.cuts - 1)
                self._answer(status, body[start:], where, (len(body) - start) // 2 if cut else None)

            def _answer(self, status: int, body: bytes, where: str, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(body)))
                if where:
                    self.send_header("Content-Range", f"bytes {where}")
                self.end_headers()
                self.wfile.write(body[:length])

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def archive(self, name: str, body: bytes, checksum: str | None = "sha256") -> Archive:
        self.files[name] = body
        url = f"http://127.0.0.1:{self._http.server_port}/{name}"
        return Archive(url, checksum and f"{checksum}:{hashlib.new(checksum, body).hexdigest()}", len(body))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.close()


def _pack(kind: str, **members: bytes) -> bytes:
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


NOISE = np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("checksum", ["sha256", "md5", None])
def test_a_fetch_unpacks_beside_what_is_there_and_is_done_once(
    server: Server, tmp_path: Path, kind: str, checksum: str | None
) -> None:
    _text(tmp_path / "C" / "old.txt", "old")
    archive = server.archive(f"a.{kind}", _pack(kind, **{"C/part/x": NOISE, "C/README": b"new"}), checksum)
    seen: list[tuple[int, int | None]] = []
    assert fetch(archive, tmp_path, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "C" / "part" / "x").read_bytes() == NOISE
    assert (tmp_path / "C" / "old.txt").read_text() == "old"
    assert seen[-1] == (archive.bytes, archive.bytes)
    assert [path.name for path in (tmp_path / ".fetch").iterdir()] == [f"a.{kind}.complete"]
    assert not fetch(archive, tmp_path)
    assert len(server.log) == 1
    (tmp_path / "C" / "README").unlink()  # Whoever deletes a part of it gets it again.
    assert fetch(archive, tmp_path)


def test_a_cut_download_asks_only_for_the_rest(server: Server, tmp_path: Path) -> None:
    body = _pack("tar.gz", x=NOISE)
    server.cuts = 1
    assert fetch(server.archive("a.tar.gz", body), tmp_path)
    assert server.log == [None, f"bytes={len(body) // 2}-"]
    assert (tmp_path / "x").read_bytes() == NOISE


def test_a_stopped_fetch_is_gone_on_with_by_the_next_one(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.tar.gz", _pack("tar.gz", x=NOISE))
    body, partial = server.files["a.tar.gz"], tmp_path / ".fetch" / "a.tar.gz.partial"
    partial.parent.mkdir()
    partial.write_bytes(body[:1000])
    assert unfinished(tmp_path) == ["a.tar.gz"]
    _refused("folder", tmp_path, r"fetch of a\.tar\.gz into .* is unfinished")
    assert fetch(archive, tmp_path)
    assert unfinished(tmp_path) == []
    # Stopped between the last byte and the check; then one that has more than the server: another file.
    for had in (body, body + b"x"):
        partial.with_suffix(".complete").unlink()
        partial.write_bytes(had)
        assert fetch(archive, tmp_path)
    assert server.log == ["bytes=1000-", f"bytes={len(body)}-", f"bytes={len(body) + 1}-", None]


def test_a_server_that_cannot_go_on_starts_anew_until_it_fails_too_often(
    server: Server, tmp_path: Path
) -> None:
    archive = server.archive("a.zip", _pack("zip", x=NOISE))
    server.ranges, server.cuts = False, 99
    with pytest.raises(UnmingleError, match="broke 5 times; run the same command later"):
        fetch(archive, tmp_path)
    assert unfinished(tmp_path) == ["a.zip"]
    assert not (tmp_path / "x").exists()
    server.cuts = 1
    assert fetch(archive, tmp_path)
    assert (tmp_path / "x").read_bytes() == NOISE


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("checksum", ["sha256", None])
def test_a_damaged_archive_is_deleted_and_nothing_is_unpacked(
    server: Server, tmp_path: Path, kind: str, checksum: str | None
) -> None:
    archive = server.archive(f"a.{kind}", _pack(kind, x=NOISE), checksum)
    body = server.files[archive.name]
    server.files[archive.name] = body[:50_000] + bytes([body[50_000] ^ 1]) + body[50_001:]
    with pytest.raises(UnmingleError, match=r"deleted, fetch it again\.$") as error:
        fetch(archive, tmp_path)
    assert "published" in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == [".fetch"]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil"])
def test_an_archive_that_reaches_outside_is_refused(
    server: Server, tmp_path: Path, kind: str, name: str
) -> None:
    archive = server.archive(f"a.{kind}", _pack(kind, **{"good": b"1", name: b"2"}))
    root = tmp_path / "in" / "root"
    with pytest.raises(UnmingleError, match=r"outside of its folder.*nothing was unpacked"):
        fetch(archive, root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".fetch", "in", "root"]


def test_a_killed_unpacking_is_done_again(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.tar.gz", _pack("tar.gz", **{"C/x": NOISE, "C/y": b"1"}))
    state = tmp_path / ".fetch"
    _text(state / "a.tar.gz.unpacking" / "C" / "half", "")
    (state / "a.tar.gz").write_bytes(server.files["a.tar.gz"])
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "x").write_bytes(NOISE)  # Moved before the stop.
    assert unfinished(tmp_path) == ["a.tar.gz"]
    assert fetch(archive, tmp_path)
    assert server.log == []
    assert sorted(path.name for path in (tmp_path / "C").iterdir()) == ["x", "y"]
    # Stopped after the marker, before the archive was deleted.
    (state / "a.tar.gz").write_bytes(b"")
    assert unfinished(tmp_path) == []
    assert not fetch(archive, tmp_path)
    assert [path.name for path in state.iterdir()] == ["a.tar.gz.complete"]


def test_absent_files_full_disks_and_odd_roots_are_one_sentence(server: Server, tmp_path: Path) -> None:
    there = server.archive("a.zip", _pack("zip", x=b"1"))
    with pytest.raises(UnmingleError, match=r"answers 404 \(Not Found\)"):
        fetch(Archive(there.url.replace("a.zip", "b.zip")), tmp_path)
    assert len(server.log) == 1
    with pytest.raises(UnmingleError, match=r"needs 2000000\.0 GB"):
        fetch(Archive(there.url, None, 10**15), tmp_path)
    _text(tmp_path / "file", "")
    with pytest.raises(UnmingleError, match="cannot be written"):
        fetch(there, tmp_path / "file")


def test_fetch_and_index_from_the_command_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _librispeech(tmp_path / "made")
    body = _pack(
        "tar.gz", **{str(p.relative_to(made)): p.read_bytes() for p in sorted(made.rglob("*")) if p.is_file()}
    )
    parts = {"dev-clean": server.archive("dev-clean.tar.gz", body)}
    monkeypatch.setitem(IMPORTERS, "librispeech", replace(IMPORTERS["librispeech"], parts=parts))
    arguments = ["librispeech", "--root", str(tmp_path / "root")]
    for news in ("dev-clean: fetched", "dev-clean: there already"):
        out = CliRunner().invoke(app, ["fetch", *arguments], catch_exceptions=False).output
        assert news in out
        assert "unmingle data index librispeech" in out
    assert "valid" in _index("librispeech", tmp_path / "root").output
    assert len(read_corpora([tmp_path / "root"])) == 8
