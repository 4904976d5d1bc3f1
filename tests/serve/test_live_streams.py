"""Live streams of `unmingle serve`: over a websocket, the same as the streams of the library."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

import unmingle
from conftest import MIXTURE
from serving import Client, live_stream, serving


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_denoiser: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, model=str(tiny_model), denoiser=str(tiny_denoiser)) as address:
        yield address


def test_a_live_stream_is_the_denoisers_stream(address: str, tiny_denoiser: Path) -> None:
    audio = np.resize(soundfile.read(MIXTURE, dtype="float32")[0], 48000)
    stream = unmingle.load_denoiser(tiny_denoiser).stream(48000)
    expected = np.concatenate([stream.push(audio), stream.flush()])
    with live_stream(address) as live:
        assert json.loads(live.recv())["lag_seconds"] == stream.lag_seconds
        for k in range(0, len(audio), 500):
            live.send(audio[k : k + 500].tobytes())
        live.send("end")
        received = b"".join(part for part in live if isinstance(part, bytes))
    np.testing.assert_allclose(np.frombuffer(received, "<f4"), expected, atol=1e-5)


@pytest.mark.parametrize(("speakers", "lag"), [(None, None), (3, 0.4)])
def test_a_live_stream_is_the_separators_stream(
    address: str, tiny_model: Path, speakers: int | None, lag: float | None
) -> None:
    audio, rate = soundfile.read(MIXTURE, dtype="float32", frames=40_000)
    stream = unmingle.load(tiny_model).stream(rate, speakers, lag)
    expected = np.concatenate([stream.push(audio), stream.flush()], axis=1)
    query = f"&task=separate&speakers={speakers or ''}&lag={lag or ''}"
    with live_stream(address, rate, query=query) as live:
        opening = json.loads(live.recv())
        assert opening == {"lag_seconds": stream.lag_seconds, "model": "tiny", "outputs": speakers or 2}
        data = audio.tobytes()
        for k in range(0, len(data), 3001):  # Samples may be cut between messages.
            live.send(data[k : k + 3001])
        live.send("end")
        messages = [part for part in live if isinstance(part, bytes)]
    assert all(len(message) % (4 * len(expected)) == 0 for message in messages)
    received = np.frombuffer(b"".join(messages), "<f4").reshape(-1, len(expected)).T
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_samples_that_are_no_numbers_do_not_end_a_live_stream(address: str) -> None:
    audio = np.full(16000, 0.1, dtype="<f4")
    audio[[100, 200, 300, 400]] = np.nan, np.inf, -np.inf, 1e20
    with live_stream(address, 16000) as live:
        live.recv()
        live.send(audio.tobytes())
        live.send("end")
        messages = list(live)
    assert all(isinstance(message, bytes) for message in messages)
    received = np.frombuffer(b"".join(message for message in messages if isinstance(message, bytes)), "<f4")
    assert len(received) == len(audio)
    assert np.isfinite(received).all()


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("&task=sing", "choose denoise or separate"),
        ("&task=separate&speakers=auto", "speakers must be a number"),
        ("&task=separate&speakers=9", "can have 1 to 4 speakers"),
        ("&task=separate&lag=soon", "lag must be a number"),
        ("&task=separate&lag=nan", "The lag must lie between"),
        ("&task=separate&lag=0.01", "The lag must lie between"),
    ],
)
def test_impossible_live_streams_are_refused(address: str, query: str, sentence: str) -> None:
    with live_stream(address, query=query) as refused:
        assert sentence in json.loads(refused.recv())["error"]


def test_strength_holds_for_jobs_and_live_streams(address: str, tiny_denoiser: Path) -> None:
    mono = soundfile.read(MIXTURE, dtype="float32")[0][:16000]
    stereo = np.stack([mono, mono / 2])
    expected = unmingle.load_denoiser(tiny_denoiser, attenuation_limit=20.0).denoise(stereo, 16000)
    encoded = io.BytesIO()
    soundfile.write(encoded, stereo.T, 16000, "FLOAT", format="WAV")
    with Client(address) as client:
        job = client.finish(client.submit(encoded.getvalue(), task="denoise", strength=0.9))
        content = client.get(f"/api/jobs/{job['id']}/outputs/denoised.wav").content
    np.testing.assert_allclose(soundfile.read(io.BytesIO(content))[0].T, expected, atol=1e-6)
    with live_stream(address, 16000, "0") as live:
        live.recv()
        live.send(stereo[0].tobytes())
        live.send("end")
        received = b"".join(part for part in live if isinstance(part, bytes))
    np.testing.assert_allclose(np.frombuffer(received, "<f4"), stereo[0], atol=1e-4)
    with live_stream(address, 16000, "much") as refused:
        assert "strength must be a number" in json.loads(refused.recv())["error"]


def test_live_streams_are_limited(tmp_path: Path, tiny_denoiser: Path) -> None:
    with serving(tmp_path, denoiser=str(tiny_denoiser), live_streams=1, live_seconds=0.5) as address:
        with live_stream(address, "fast") as refused:
            assert "sample_rate must lie between" in json.loads(refused.recv())["error"]
        with live_stream(address) as live:
            live.recv()
            with live_stream(address) as second:
                assert "limit of live streams" in json.loads(second.recv())["error"]
            assert "lasted" in json.loads(live.recv())["error"]


def test_a_page_of_another_site_gets_no_live_stream(address: str) -> None:
    with pytest.raises(Exception, match="403"):
        connect(f"{address.replace('http', 'ws')}/api/live?sample_rate=16000", origin="http://evil.example")  # type: ignore[arg-type]
