"""The page without a server, in the system's Chromium: what it separates and cleans is what Python does."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch

from conftest import EXAMPLES, MIXTURE, ROOT
from serving import BROWSER, FLAGS
from unmingle.audio import Samples, read_audio, resample
from unmingle.denoising import load_denoiser
from unmingle.metrics import si_sdr
from unmingle.separation import load
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.tracking import WindowSources, assign_speakers
from unmingle.separation.windows import Tracks
from unmingle.systems import MaskingSystem

if TYPE_CHECKING:
    from playwright.sync_api import Page

WEB, SITE = ROOT / "web", ROOT / "web" / "site"
NOISY = EXAMPLES / "in_noise" / "noisy" / "reader_in_wind.flac"


def _missing() -> str:
    """Why the page cannot be tried; empty if it can."""
    if BROWSER is None:
        return "no Chromium on this system; apt-get install chromium, and run again"
    if not (SITE / "models" / "denoise" / "model.json").is_file():
        return "web/site is not built; run make web, which needs npm"
    for path in WEB.glob("*.js"):
        built = SITE / path.name
        if not built.is_file() or built.read_bytes() != path.read_bytes():
            return "web/site is older than web; run make web"
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Any static host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with _opened(address) as page:
        yield page


@contextmanager
def _opened(address: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1250, "height": 900})
        page.set_default_timeout(120_000)
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # Nothing comes from anywhere else.
        page.on("request", lambda sent: complaints.append(sent.url) if not _ours(sent.url, address) else None)
        page.goto(address)
        yield page
        browser.close()
        assert complaints == []


def _ours(url: str, address: str) -> bool:
    return url.startswith((address, "blob:", "data:"))


def _at_rate(path: Path, rate: int, target: Path) -> Samples:
    """Real audio at the model's rate, so that the browser has nothing to convert."""
    recording = read_audio(path)
    samples = resample(recording.samples[0], recording.sample_rate, rate)
    soundfile.write(target, samples, rate, "FLOAT")
    return samples


def _downloaded(page: Page, name: str) -> tuple[str, Samples]:
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {name}", exact=True).click()
    samples, _ = soundfile.read(download.value.path(), dtype="float32")
    return download.value.suggested_filename, samples


def _separated_without_voices(system: MaskingSystem, mixture: Samples) -> tuple[Samples, Tracks]:
    """Estimates of two speakers as the page makes them: it does not recognize voices."""
    with RecordingSeparation(system, 8000, 2, by_voice=False) as separation:
        separation.push(mixture)
        tracks = separation.finish()
        return np.concatenate(list(separation.estimates([mixture])), axis=1), tracks


@pytest.mark.usefixtures("in_float32")
def test_the_example_is_separated_as_in_python(page: Page, tmp_path: Path) -> None:
    mixture = _at_rate(MIXTURE, 8000, tmp_path / "talk.wav")
    page.set_input_files("#choose", tmp_path / "talk.wav")
    page.wait_for_selector("track-player")
    status = page.locator("#jobs .status").inner_text()
    factor = re.fullmatch(r"0:07, real-time factor (\d+\.\d{3}) \(one thread\)", status)
    assert factor is not None, status
    print(f"real-time factor of separating in the browser: {factor[1]}")
    expected = _separated_without_voices(load().system, mixture)[0]
    for speaker in (1, 2):
        name, samples = _downloaded(page, f"Speaker {speaker}")
        assert name == f"talk_speaker{speaker}.wav"
        np.testing.assert_allclose(samples, expected[speaker - 1], atol=1e-3)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["talk_speaker1.wav", "talk_speaker2.wav"]
        zipped, _ = soundfile.read(io.BytesIO(archive.read("talk_speaker2.wav")), dtype="float32")
    np.testing.assert_array_equal(zipped, samples)


def test_the_example_at_its_own_rate_scores_the_same(page: Page, example_sources: Samples) -> None:
    """Where the browser converts the rate, a little differs."""
    page.set_input_files("#choose", MIXTURE)
    page.wait_for_selector("track-player")
    recording = read_audio(MIXTURE)
    expected = load().separate(recording.samples[0], recording.sample_rate, 2).estimates
    for source, estimate, speaker in zip(example_sources, expected, (1, 2), strict=True):
        _, samples = _downloaded(page, f"Speaker {speaker}")
        lowered = torch.from_numpy(resample(np.stack([source, estimate]), 16000, 8000))
        ours, theirs = si_sdr(torch.from_numpy(samples), lowered[0]), si_sdr(lowered[1], lowered[0])
        assert float(ours) == pytest.approx(float(theirs), abs=0.3)


def test_noise_is_removed_as_in_python(page: Page, tmp_path: Path) -> None:
    noisy = _at_rate(NOISY, 16000, tmp_path / "noisy.wav")
    page.get_by_text("Remove noise").click()
    page.set_input_files("#choose", tmp_path / "noisy.wav")
    page.wait_for_selector("track-player")
    name, samples = _downloaded(page, "Cleaned")
    assert name == "noisy_denoised.wav"
    np.testing.assert_allclose(samples, load_denoiser().denoise(noisy, 16000), atol=1e-3)
    factor = page.locator("#jobs .status").inner_text()
    print(f"removing noise in the browser: {factor}")


def test_nearly_clean_speech_stays_as_in_python(page: Page, tmp_path: Path) -> None:
    speech = _at_rate(NOISY.parent.parent / "clean" / NOISY.name, 16000, tmp_path / "clean.wav")
    page.get_by_text("Remove noise").click()
    page.set_input_files("#choose", tmp_path / "clean.wav")
    page.wait_for_selector("track-player")
    _, samples = _downloaded(page, "Cleaned")
    np.testing.assert_allclose(samples, load_denoiser().denoise(speech, 16000), atol=1e-3)


def test_a_long_recording_is_separated_as_by_the_exported_model(page: Page, tmp_path: Path) -> None:
    """Three windows: one overlap is full of speech, in the other nobody speaks, so that only attractors tell."""
    talk = _at_rate(MIXTURE, 8000, tmp_path / "talk.wav")
    pause = 1e-4 * np.random.default_rng(0).standard_normal(24 * 8000, dtype=np.float32)
    mixture = np.concatenate([np.tile(talk, 5), talk[: 8000 * 6], pause, np.roll(talk, 30000), talk]) + 0.01
    assert 58 < len(mixture) / 8000 < 84
    soundfile.write(tmp_path / "long.wav", mixture, 8000, "FLOAT")
    page.set_input_files("#choose", tmp_path / "long.wav")
    page.wait_for_selector("track-player", timeout=240_000)
    exported = load(SITE / "models" / "separate").system
    expected, tracks = _separated_without_voices(exported, mixture.astype(np.float32))
    for speaker in (1, 2):
        _, samples = _downloaded(page, f"Speaker {speaker}")
        np.testing.assert_allclose(samples, expected[speaker - 1], atol=1e-3)
    doubtful = tracks.join_confidence < 0.8
    assert page.get_by_text("Note: in parts no voice was recognized").count() == int(doubtful)


def test_windows_are_joined_as_in_python(page: Page) -> None:
    """On windows of random sources, some of them silent, in overlaps that say much, little or nothing."""
    rng = np.random.default_rng(0)
    assigned = []
    for sources, count in ((1, 4), (2, 2), (2, 9), (2, 40), (3, 12), (3, 30)):
        points = rng.standard_normal((sources, 5))
        windows = []
        for number in range(count):
            order = rng.permutation(sources)
            power = rng.random((sources, 20)) * 10.0 ** rng.integers(-3, 2)
            attractors = points[order] + 0.7 * rng.standard_normal((sources, 5))
            agreement = rng.random((sources, sources)) * 10.0 ** rng.integers(-9, 2) if number else None
            windows.append(WindowSources(power, attractors, agreement))
        assigned.append(assign_speakers(windows))
        found = page.evaluate(
            """async (windows) => (await import("./tracking.js")).assignSpeakers(windows.map((each) => (
                {...each, power: each.power.map((own) => Float64Array.from(own))})))""",
            [
                {
                    "power": window.power.tolist(),
                    "attractors": None if window.attractors is None else window.attractors.tolist(),
                    "agreement": None if window.agreement is None else window.agreement.tolist(),
                }
                for window in windows
            ],
        )
        assert found["speakers"] == [each.tolist() for each in assigned[-1].speakers]
        assert found["confidence"] == pytest.approx(assigned[-1].confidence)
    assert any(0 < each.confidence < 1 for each in assigned)


def test_a_long_recording_is_cleaned_in_pieces(page: Page, tmp_path: Path) -> None:
    """Beyond one look-ahead of the gate."""
    noisy = np.tile(_at_rate(NOISY, 16000, tmp_path / "noisy.wav"), 4)
    soundfile.write(tmp_path / "long_noisy.wav", noisy, 16000, "FLOAT")
    page.get_by_text("Remove noise").click()
    page.set_input_files("#choose", tmp_path / "long_noisy.wav")
    page.wait_for_selector(".track.denoised", timeout=240_000)
    _, samples = _downloaded(page, "Cleaned")
    np.testing.assert_allclose(samples, load_denoiser().denoise(noisy, 16000), atol=1e-3)


def test_it_plays_and_says_what_is_wrong(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#choose", MIXTURE)
    page.wait_for_selector("track-player")
    player = "document.querySelector('track-player').player"
    page.keyboard.press("Space")
    for _ in range(400):
        if page.evaluate(f"{player}.position > 0.5 && {player}.level > -60"):
            break
        page.wait_for_timeout(50)
    assert page.evaluate(f"{player}.playing")
    page.keyboard.press("2")
    page.wait_for_timeout(100)
    assert [round(gain, 2) for gain in page.evaluate(f"{player}.gains")] == [0, 0, 1]
    page.keyboard.press("Space")
    (tmp_path / "notes.txt").write_text("no audio")
    page.set_input_files("#choose", tmp_path / "notes.txt")
    page.wait_for_selector("#jobs [data-state=failed]")
    wrong = "notes.txt is no audio that this browser can decode."
    assert page.locator("#jobs .status").inner_text() == wrong
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 8000)
    page.set_input_files("#choose", tmp_path / "silence.wav")
    page.get_by_text("silence.wav is silent.").wait_for()


def test_the_microphone_is_recorded_and_work_can_be_cancelled(page: Page) -> None:
    page.set_input_files("#choose", MIXTURE)
    page.get_by_role("button", name="Cancel").click()
    assert page.locator("#jobs li").count() == 0
    page.get_by_text("Remove noise").click()
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Stop 0:01").click()
    page.wait_for_selector(".track.denoised")
    assert page.locator("#jobs .name").inner_text() == "microphone.wav"
    assert page.evaluate("document.querySelector('track-player').recording.sampleRate") == 16000
