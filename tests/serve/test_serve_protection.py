"""What the server refuses: too much, too long, from elsewhere, without a token."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from conftest import MIXTURE, tiny_sound
from serving import Client, serving
from unmingle import UnmingleError
from unmingle.serve.jobs import safe_name
from unmingle.serve.routes import STATIC
from unmingle.serve.server import address as printed_address
from unmingle.serve.server import listen
from unmingle.serve.settings import Settings


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_uploads_are_limited(tmp_path: Path) -> None:
    content = MIXTURE.read_bytes()
    bounds = {"upload_bytes": len(content), "session_jobs": 2, "server_jobs": 3}
    with serving(tmp_path, **bounds) as address, Client(address) as client, Client(address) as other:
        assert client.upload(content + b"x").status_code == 413
        # More than a socket's buffer holds; the answer must still arrive.
        for _ in range(5):
            assert "larger than" in client.upload(bytes(8 * 2**20)).json()["error"]

        def pieces() -> Iterator[bytes]:
            yield from (content, b"x")

        assert client.post("/api/jobs?name=a.wav", content=pieces()).status_code == 413
        assert list(tmp_path.iterdir()) == []
        jobs = [client.submit(content) for _ in range(2)]
        assert client.upload(content).status_code == 429
        other.submit(content)
        assert other.upload(content).status_code == 503
        client.delete(f"/api/jobs/{jobs[1]['id']}")
        other.submit(content)


def test_long_recordings_and_long_jobs_are_refused_and_results_expire(
    tmp_path: Path, tiny_denoiser: Path
) -> None:
    settings: dict[str, Any] = {
        "denoiser": str(tiny_denoiser),
        "recording_seconds": 60.0,
        "keep_seconds": 1.0,
    }
    with serving(tmp_path, **settings) as address, Client(address) as client:
        long = tiny_sound(tmp_path / "long.wav", seconds=90)
        failed = client.finish(client.submit(long, task="denoise"))
        assert failed["error"].startswith("long.wav is 2 minutes long and this server allows 1")
        assert (tmp_path / failed["id"]).is_dir()
        time.sleep(2.0)
        assert client.get("/api/jobs").json() == []
        assert not (tmp_path / failed["id"]).exists()
    with serving(tmp_path, job_seconds=0.001) as address, Client(address) as client:
        assert "took more than" in client.finish(client.submit())["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": "192.168.1.5"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_requests_of_other_hosts_and_pages_are_refused(
    client: Client, headers: dict[str, str], status: int
) -> None:
    assert client.get("/api/jobs", headers=headers).status_code == status
    uploaded = client.post("/api/jobs?name=a.wav", headers=headers, content=b"")
    assert uploaded.status_code == (422 if status == 200 else 403)


def test_beyond_this_machine_a_token_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UnmingleError, match="needs a token"):
        Settings(host="0.0.0.0")
    with serving(tmp_path, host="0.0.0.0", token="open sesame") as address, Client(address) as client:
        assert client.get("/").status_code == 401
        assert client.get("/?token=guess").status_code == 401
        assert client.get("/api/jobs").status_code == 401
        assert not client.cookies
        assert client.get("/api/jobs", headers={"Authorization": "Bearer open sesame"}).status_code == 200
    with serving(tmp_path, host="0.0.0.0", token="open sesame") as address, Client(address) as client:
        entered = client.get("/?token=open%20sesame")
        assert entered.status_code == 303
        assert entered.headers["location"] == "/"
        assert client.get("/").status_code == 200
        assert client.get("/api/jobs", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/api/jobs", headers={"Host": "192.168.1.5:80"}).status_code == 200


def test_any_token_survives_the_printed_address(tmp_path: Path) -> None:
    token = "a+b&c#d%20 e"
    settings = Settings(host="127.0.0.1", port=0, token=token)
    listener = listen(settings)
    try:
        printed = printed_address(settings, listener)
    finally:
        listener.close()
    assert parse_qs(urlsplit(printed).query) == {"token": [token]}


@pytest.mark.parametrize("headers", [{"Host": "[::1"}, {"Origin": "http://["}])
def test_malformed_addresses_in_headers_are_refused(client: Client, headers: dict[str, str]) -> None:
    assert client.get("/api/jobs", headers=headers).status_code == 403


def test_the_page_runs_nothing_inline_and_fetches_nothing_from_elsewhere(client: Client) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", answer.text)
    for path in STATIC.iterdir():
        served = client.get(f"/static/{path.name}")
        assert served.headers["content-security-policy"] == policy
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\beval\(|innerHTML|@import", text), path.name
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("talk.wav", "talk.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\music\\a b.mp3", "a b.mp3"),
        ("..", "recording"),
        (".hidden.wav", "hidden.wav"),
        ("-rf.wav", "rf.wav"),
        ("a\x00b\n.wav", "ab.wav"),
        ("", "recording"),
        ("Gespräch.ogg", "Gespräch.ogg"),
        ("x" * 500 + ".flac", "x" * 115 + ".flac"),
    ],
)
def test_names_of_uploads_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe
