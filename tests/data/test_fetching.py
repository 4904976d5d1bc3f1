"""Fetching from a test server that cuts connections, refuses requests and damages files."""

from __future__ import annotations

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
from typer.testing import CliRunner

from conftest import tiny_librispeech, write_text
from unmingle.cli.data import app
from unmingle.data import fetching
from unmingle.data.corpora import read_corpora
from unmingle.data.fetching import Archive, fetch, unfinished
from unmingle.data.importers import IMPORTERS, find_importer
from unmingle.errors import UnmingleError
from unmingle.temporary import exclusive_access


class Server:
    """Serves ``files`` by name and logs the requests in ``log``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.log: list[str | None] = []
        self.ranges = True
        self.cuts = 0
        """Number of answers that end in the middle."""
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
                # Some servers declare an encoding. The client must not decode the file.
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
def test_a_fetch_keeps_other_files_and_is_done_once(
    server: Server, tmp_path: Path, kind: str, checksum: str | None
) -> None:
    write_text(tmp_path / "C" / "old.txt", "old")
    archive = server.archive(f"a.{kind}", _pack(kind, **{"C/part/x": NOISE, "C/README": b"new"}), checksum)
    seen: list[tuple[int, int | None]] = []
    assert fetch(archive, tmp_path, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "C" / "part" / "x").read_bytes() == NOISE
    assert (tmp_path / "C" / "old.txt").read_text() == "old"
    assert seen[-1] == (archive.bytes, archive.bytes)
    assert [path.name for path in (tmp_path / ".fetch").iterdir()] == [f"a.{kind}.complete"]
    assert not fetch(archive, tmp_path)
    assert len(server.log) == 1
    (tmp_path / "C" / "README").unlink()  # A deleted part is fetched again.
    assert fetch(archive, tmp_path)


def test_a_cut_download_asks_only_for_the_rest(server: Server, tmp_path: Path) -> None:
    body = _pack("tar.gz", x=NOISE)
    server.cuts = 1
    assert fetch(server.archive("a.tar.gz", body), tmp_path)
    assert server.log == [None, f"bytes={len(body) // 2}-"]
    assert (tmp_path / "x").read_bytes() == NOISE


def test_an_interrupted_fetch_is_resumed_by_the_next_one(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.tar.gz", _pack("tar.gz", x=NOISE))
    body, partial = server.files["a.tar.gz"], tmp_path / ".fetch" / "a.tar.gz.partial"
    partial.parent.mkdir()
    partial.write_bytes(body[:1000])
    assert unfinished(tmp_path) == ["a.tar.gz"]
    with pytest.raises(UnmingleError, match=r"fetch of a\.tar\.gz into .* is not finished"):
        find_importer("folder").index(tmp_path)
    assert fetch(archive, tmp_path)
    assert unfinished(tmp_path) == []
    # First a download that stopped before the check; then a partial file that is longer than the server's file.
    for had in (body, body + b"x"):
        partial.with_suffix(".complete").unlink()
        partial.write_bytes(had)
        assert fetch(archive, tmp_path)
    assert server.log == ["bytes=1000-", f"bytes={len(body)}-", f"bytes={len(body) + 1}-", None]


def test_without_resuming_a_download_restarts_until_it_fails_too_often(
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
def test_an_archive_with_members_outside_its_folder_is_refused(
    server: Server, tmp_path: Path, kind: str, name: str
) -> None:
    archive = server.archive(f"a.{kind}", _pack(kind, **{"good": b"1", name: b"2"}))
    root = tmp_path / "in" / "root"
    with pytest.raises(UnmingleError, match=r"outside its folder.*nothing was unpacked"):
        fetch(archive, root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".fetch", "in", "root"]


def test_a_killed_unpacking_is_done_again(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.tar.gz", _pack("tar.gz", **{"C/x": NOISE, "C/y": b"1"}))
    state = tmp_path / ".fetch"
    write_text(state / "a.tar.gz.unpacking" / "C" / "half", "")
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


def test_missing_files_full_disks_and_bad_roots_give_one_sentence(server: Server, tmp_path: Path) -> None:
    there = server.archive("a.zip", _pack("zip", x=b"1"))
    with pytest.raises(UnmingleError, match=r"answers 404 \(Not Found\)"):
        fetch(Archive(there.url.replace("a.zip", "b.zip")), tmp_path)
    assert len(server.log) == 1
    with pytest.raises(UnmingleError, match=r"needs 2000000\.0 GB"):
        fetch(Archive(there.url, None, 10**15), tmp_path)
    write_text(tmp_path / "file", "")
    with pytest.raises(UnmingleError, match="cannot be written"):
        fetch(there, tmp_path / "file")


def test_fetch_and_index_from_the_command_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_librispeech(tmp_path / "made")
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
    indexed = CliRunner().invoke(app, ["index", *arguments], catch_exceptions=False)
    assert indexed.exit_code == 0
    assert "valid" in indexed.output
    assert len(read_corpora([tmp_path / "root"])) == 8


def _zip(members: dict[str, bytes], flag: int = 0, method: int | None = None) -> bytes:
    """A zip file with the given headers, correct or not."""
    encoded = io.BytesIO()
    with zipfile.ZipFile(encoded, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    data = bytearray(encoded.getvalue())
    for mark, flags, methods in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + flags] |= flag
            if method is not None:
                data[place + methods] = method
    return bytes(data)


def _tar(*names: str) -> bytes:
    encoded = io.BytesIO()
    with tarfile.open(fileobj=encoded, mode="w:gz") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("encrypted.zip", _zip({"a": b"x"}, flag=1)),
        ("method.zip", _zip({"a": b"x"}, method=99)),
        ("state.zip", _zip({".fetch/b.zip.complete": b"{}"})),
        ("state.tar.gz", _tar(".fetch/b.zip.complete")),
        ("deep.tar.gz", _tar("/".join(["d"] * 1000) + "/f")),
        ("nul.tar.gz", _tar("a\nb/../../c")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("checksum", ["sha256", None])
def test_hostile_archives_give_one_sentence_and_leave_nothing(
    server: Server, tmp_path: Path, name: str, body: bytes, checksum: str | None
) -> None:
    root = tmp_path / "root"
    with pytest.raises(UnmingleError) as caught:
        fetch(server.archive(name, body, checksum), root)
    assert "\n" not in str(caught.value)
    assert [path.name for path in root.rglob("*")] == [".fetch"]


def test_a_download_that_is_too_long_is_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_BLOCK", 1000)
    archive = replace(server.archive("a.zip", bytes(100_000)), bytes=10_000)
    with pytest.raises(UnmingleError, match="larger than"):
        fetch(archive, tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").rglob("*")] == [".fetch"]


def test_two_fetches_do_not_write_into_one_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmingle.temporary._PATIENCE_SECONDS", 0.1)
    (tmp_path / "root" / ".fetch").mkdir(parents=True)
    refused = pytest.raises(UnmingleError, match="Another process is fetching")
    with exclusive_access(tmp_path / "root" / ".fetch", "fetching"), refused:
        fetch(server.archive("a.zip", _zip({"a": b"x"})), tmp_path / "root")
