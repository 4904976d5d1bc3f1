"""The server behind the page, over real sockets: jobs, limits, protection."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import unmingle
from conftest import MIXTURE, ROOT, Result
from serving import Client, live_stream, serving, worker_processes
from unmingle.audio import Samples
from unmingle.file_batches import Output
from unmingle.separation import separate_files
from unmingle.serve.routes import STATIC, application
from unmingle.serve.settings import Settings
from unmingle.serve.views import BANDS, draw, read_samples


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(home: Path, tiny_model: Path, tiny_denoiser: Path) -> Iterator[str]:
    with serving(home, model=str(tiny_model), denoiser=str(tiny_denoiser)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_downloads_are_what_the_command_line_writes(
    client: Client, home: Path, run, tiny_model: Path
) -> None:  # type: ignore[no-untyped-def]
    job = client.finish(client.submit(task="separate", speakers=2))
    assert job["error"] is None
    tracks = [track["name"] for track in job["result"]["tracks"]]
    assert tracks == ["original", "speaker1", "speaker2"]
    for format in ("wav", "flac"):
        run(
            "separate",
            MIXTURE,
            "--model",
            tiny_model,
            "--speakers",
            2,
            "--threads",
            1,
            "--format",
            format,
            "-o",
            format,
        )
        expected = [Path(format, f"{MIXTURE.stem}_speaker{n}.{format}").read_bytes() for n in (1, 2)]
        for n in (1, 2):
            answer = client.get(f"/api/jobs/{job['id']}/outputs/speaker{n}.{format}")
            assert answer.content == expected[n - 1]
            assert f"{MIXTURE.stem}_speaker{n}.{format}" in answer.headers["content-disposition"]
        archive = zipfile.ZipFile(
            io.BytesIO(client.get(f"/api/jobs/{job['id']}/outputs.zip?format={format}").content)
        )
        assert [archive.read(name) for name in archive.namelist()] == expected
        # A second request must not write into a file that the first one may still be sending.
        (packed,) = home.rglob(f"{format}.zip")
        before = packed.stat()
        client.get(f"/api/jobs/{job['id']}/outputs.zip?format={format}")
        after = packed.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(client.get(f"/api/jobs/{job['id']}/outputs/speaker1.mp3").content) > 1000
    for name, sentence in {
        "speaker3.wav": "There is no track 'speaker3'",
        "speaker1.aiff": "Cannot write 'aiff'",
        "..%2F..%2Finput.wav": "Not Found",
    }.items():
        assert sentence in client.get(f"/api/jobs/{job['id']}/outputs/{name}").text
    refused = client.get(
        f"/api/jobs/{job['id']}/outputs.zip", params={"format": "/../../tracks/original.wav"}
    )
    assert "Cannot write" in refused.json()["error"]


def test_both_cleans_each_speaker_and_reports_its_stages(
    client: Client, tiny_model: Path, tiny_denoiser: Path, tmp_path: Path
) -> None:
    job = client.submit(task="both")
    stages: list[tuple[str, str]] = []
    with client.stream("GET", "/api/events") as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                (now,) = json.loads(line[6:])
                stages.append((now["state"], now["stage"]))
                if now["state"] == "done":
                    break
    steps = list(dict.fromkeys(stage for state, stage in stages if state == "running"))
    assert steps == [step for step in job["stages"] if step in steps]
    assert {"loading", "separating"} <= set(steps)
    clean = unmingle.load_denoiser(tiny_denoiser).file_stream
    (expected,) = separate_files([MIXTURE], unmingle.load(tiny_model), Output(tmp_path), clean=clean)
    for n, path in enumerate(expected.outputs, start=1):
        content = client.get(f"/api/jobs/{job['id']}/outputs/speaker{n}.wav").content
        np.testing.assert_allclose(soundfile.read(io.BytesIO(content))[0], soundfile.read(path)[0], atol=1e-6)


@pytest.fixture(scope="module")
def stereo() -> Samples:
    """``(2, samples)`` at 16 kHz, one channel half as loud."""
    mono = soundfile.read(MIXTURE, dtype="float32")[0][:16000]
    return np.stack([mono, mono / 2])


@pytest.fixture(scope="module")
def owner(address: str, stereo: Samples) -> Iterator[Client]:
    """A browser with one stereo recording, cleaned."""
    encoded = io.BytesIO()
    soundfile.write(encoded, stereo.T, 16000, "FLOAT", format="WAV")
    with Client(address) as owner:
        owner.finish(owner.submit(encoded.getvalue(), task="denoise"))
        yield owner


def test_a_stereo_recording_is_cleaned_in_stereo(owner: Client, stereo: Samples, tiny_denoiser: Path) -> None:
    (job,) = owner.get("/api/jobs").json()
    content = owner.get(f"/api/jobs/{job['id']}/outputs/denoised.wav").content
    expected = unmingle.load_denoiser(tiny_denoiser).denoise(stereo, 16000)
    np.testing.assert_allclose(soundfile.read(io.BytesIO(content))[0].T, expected, atol=1e-6)
    data = owner.get(f"/api/jobs/{job['id']}/tracks/original/samples?start=100&count=50").content
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(-1, 2).T, stereo[:, 100:150])


def test_the_examples_in_the_documentation_run(address: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    shutil.copy(MIXTURE, tmp_path / "meeting.flac")
    for language, program in (("bash", ["bash", "-euc"]), ("python", [sys.executable, "-c"])):
        (code,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        code = code.replace("http://127.0.0.1:8765", address)
        subprocess.run([*program, code], check=True, cwd=tmp_path, timeout=120)
    by_curl, by_python = (soundfile.read(tmp_path / name)[0] for name in ("by_curl.wav", "speaker1.wav"))
    np.testing.assert_array_equal(by_curl, by_python)


def test_errors_are_those_of_the_command_line(client: Client, run, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text.wav").write_text("no sound")
    job = client.finish(client.submit(tmp_path / "text.wav"))
    assert job["state"] == "failed"
    assert run("separate", "text.wav", "--model", tiny_model).err == f"unmingle: {job['error']}\n"
    assert client.get(f"/api/jobs/{job['id']}/outputs/speaker1.wav").json() == {"error": job["error"]}
    for query, sentence in {
        "task=mix": "There is no task 'mix'",
        "speakers=some": "speakers must be a number or auto",
        "strength=2": "strength must be a number from 0 to 1",
    }.items():
        answer = client.post(f"/api/jobs?name=a.wav&{query}", content=b"x")
        assert answer.status_code == 422
        assert sentence in answer.json()["error"]
    assert client.post("/api/jobs?name=a.wav").json()["error"].startswith("a.wav is empty")


def test_the_queue_shows_positions_and_cancelling_kills_the_process(
    client: Client, address: str, home: Path
) -> None:
    first, second = client.submit(), client.submit()
    with Client(address) as other:
        third = other.submit()
        assert client.get(f"/api/jobs/{second['id']}").json()["jobs_ahead"] == 1
        assert other.get(f"/api/jobs/{third['id']}").json()["jobs_ahead"] == 2
        client.wait(first, lambda job: job["state"] == "running")
        workers = worker_processes()
        assert client.delete(f"/api/jobs/{second['id']}").status_code == 204
        assert other.get(f"/api/jobs/{third['id']}").json()["jobs_ahead"] == 1
        assert client.delete(f"/api/jobs/{first['id']}").status_code == 204
        assert not set(workers) <= set(worker_processes())
        assert client.get("/api/jobs").json() == []
        assert not (home / first["id"]).exists()
        assert other.finish(third)["state"] == "done"


def test_a_job_whose_process_dies_has_an_error(client: Client) -> None:
    job = client.submit()
    client.wait(job, lambda now: now["state"] == "running")
    for process in worker_processes():
        os.kill(process, signal.SIGKILL)
    assert "memory runs out" in client.finish(job)["error"]


def test_two_browsers_do_not_see_each_others_files(owner: Client, address: str) -> None:
    (job,) = owner.get("/api/jobs").json()
    path = f"/api/jobs/{job['id']}"
    with Client(address) as other:
        assert other.get("/api/jobs").json() == []
        for place in (
            "",
            "/outputs/denoised.wav",
            "/outputs.zip",
            "/tracks/original/samples?start=0&count=9",
        ):
            assert other.get(path + place).status_code == 404
        assert other.delete(path).status_code == 404
        # A forged cookie does not help either.
        ((name, value),) = owner.cookies.items()
        forged = value[:32] + "." + "0" * 64
        assert other.get(path, headers={"Cookie": f"{name}={forged}"}).status_code == 404
    assert owner.get(f"{path}/outputs/denoised.wav").status_code == 200


def test_the_description_of_the_api_has_every_route(tmp_path: Path) -> None:
    described = json.loads((STATIC / "openapi.json").read_text())["paths"]
    found: dict[str, set[str]] = {}
    for route in application(Settings(), tmp_path).routes:
        path = str(getattr(route, "path", ""))
        if path.startswith("/api"):
            methods = getattr(route, "methods", None) or {"GET"}
            found.setdefault(path, set()).update(method.lower() for method in methods - {"HEAD"})
    assert {path: set(methods) - {"parameters"} for path, methods in described.items()} == found


def _tone(path: Path, hertz: float, rate: int = 16000, seconds: float = 2.0) -> Samples:
    tone: Samples = (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )
    tone[: len(tone) // 2] *= 0.1
    soundfile.write(path, tone, rate, "FLOAT")
    return tone


@pytest.mark.parametrize(("start", "count", "width"), [(0, 32000, 100), (15000, 2000, 40), (100, 30, 60)])
def test_pictures_show_what_the_track_holds(tmp_path: Path, start: int, count: int, width: int) -> None:
    tone = _tone(tmp_path / "tone.wav", 2000.0)
    data = draw(tmp_path / "tone.wav", start, count, width, loudest=(0.5 * 512 / 4) ** 2)
    low, high = np.frombuffer(data[: 8 * width], "<f4").reshape(2, width)
    edges = start + np.linspace(0, count, width + 1).astype(int)
    for column in range(width):
        inside = tone[edges[column] : max(edges[column + 1], edges[column] + 1)]
        assert low[column] == inside.min()
        assert high[column] == inside.max()
    shades = np.frombuffer(data[8 * width :], np.uint8).reshape(width, BANDS).astype(float)
    # 2 kHz of 8 kHz: a quarter of the way up; 20 dB less in the first half.
    assert abs(int(shades.mean(axis=0).argmax()) - BANDS / 4) <= 1
    if count == 32000:
        peaks = shades.max(axis=1)
        assert peaks[70] - peaks[20] == pytest.approx(255 * 20 / 70, abs=3)
        assert peaks[70] > 240


def test_samples_are_the_tracks(tmp_path: Path) -> None:
    tone = _tone(tmp_path / "tone.wav", 440.0)
    np.testing.assert_array_equal(
        np.frombuffer(read_samples(tmp_path / "tone.wav", 31990, 100), "<f4"), tone[31990:]
    )
    assert read_samples(tmp_path / "tone.wav", 99999, 100) == b""


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unmingle", "serve", "--port", "0", "--no-browser", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip


def test_ctrl_c_ends_the_program_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with _start(tmp_path) as program:
        assert program.stdout
        address = program.stdout.readline().split()[0].rstrip("/")
        # An open page and an open live stream must not delay the end.
        with Client(address) as client, client.stream("GET", "/api/events"), live_stream(address) as live:
            client.submit()
            live.send(b"1234")
            (folder,) = tmp_path.glob("unmingle-serve-*")
            assert folder.stat().st_mode & 0o077 == 0
            assert list(folder.iterdir())
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=20)
    assert (program.returncode, errors) == (0, "")
    assert not folder.exists()


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    with _start(tmp_path) as program:
        assert program.stdout
        program.stdout.readline()
        (folder,) = tmp_path.glob("unmingle-serve-*")
        program.terminate()
        _, errors = program.communicate(timeout=20)
    assert (program.returncode, errors) == (143, "")
    assert not folder.exists()


def test_bad_options_give_a_one_sentence_error(run) -> None:  # type: ignore[no-untyped-def]
    def refused(*arguments: object) -> str:
        result: Result = run("serve", "--no-browser", *arguments)
        assert result.code == 2
        assert len(result.err.strip().splitlines()) == 1
        return result.err

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another --port" in refused("--port", taken.getsockname()[1])
    assert "--port must lie" in refused("--port", 99999)
    assert "There is no model" in refused("--model", "none")
    assert "--threads" in refused("--threads", 0)
    assert "Cannot listen on 203.0.113.7" in refused("--host", "203.0.113.7")
