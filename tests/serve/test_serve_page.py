"""The page in Chromium: upload, progress, play, solo, download, cancel, live."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from conftest import EXAMPLES, MIXTURE
from serving import BROWSER, FLAGS, serving
from unmingle.audio import Samples
from unmingle.separation import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this system; apt-get install chromium, and run again"
)
PLAYER = "document.querySelector('track-player')"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_denoiser: Path) -> Iterator[str]:
    home = tmp_path_factory.mktemp("served")
    with serving(home, model=str(tiny_model), denoiser=str(tiny_denoiser)) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    # Chromium plays this file instead of a microphone.
    samples, rate = soundfile.read(EXAMPLES / "in_noise" / "noisy" / "reader_in_wind.flac")
    microphone = tmp_path_factory.mktemp("microphone") / "speech.wav"
    soundfile.write(microphone, samples, rate, "PCM_16")
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@contextmanager
def _opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page in a new browser; any error on the page fails the test."""
    context = browser.new_context(viewport={"width": 1250, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)  # A busy machine takes long to import PyTorch.
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with _opened(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def separated(browser: Browser, address: str) -> Iterator[Page]:
    """The example, separated."""
    with _opened(browser, address) as page:
        page.set_input_files("#choose", MIXTURE)
        page.wait_for_selector("track-player")
        yield page


def _until(page: Page, condition: str) -> None:
    """Wait until a condition holds. The page's security policy forbids Playwright's `wait_for_function`."""
    for _ in range(2400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def _gains(page: Page) -> list[float]:
    page.wait_for_timeout(100)
    return [round(gain, 3) for gain in page.evaluate(f"{PLAYER}.player.gains")]


def test_solo_mute_and_the_original_set_the_gains(separated: Page) -> None:
    from playwright.sync_api import expect

    page = separated
    assert page.locator(".track strong").all_inner_texts() == ["Original", "Speaker 1", "Speaker 2"]
    assert re.fullmatch(
        r"2 speakers( \(\d+ % confidence\))?, 0:07", page.locator("#jobs .status").inner_text()
    )
    page.get_by_role("button", name="Play", exact=True).click()
    _until(page, f"{PLAYER}.player.position > 1")
    expect(page.locator(".time")).to_have_text(re.compile("^0:01"))  # Drawn a moment later.
    assert page.evaluate(f"{PLAYER}.player.level") > -60
    assert _gains(page) == [0, 1, 1]
    page.get_by_role("button", name="Solo Speaker 2").click()
    assert _gains(page) == [0, 0, 1]
    page.keyboard.press("1")
    page.keyboard.press("2")
    assert _gains(page) == [0, 1, 0]
    page.get_by_role("button", name="Mute Speaker 1").click()
    assert _gains(page) == [0, 0, 0]
    page.keyboard.press("0")
    assert _gains(page) == [1, 0, 0]
    page.get_by_role("slider", name="Level of Original").fill("-20")
    assert _gains(page) == [0.1, 0, 0]
    page.keyboard.press("Space")
    assert not page.evaluate(f"{PLAYER}.player.playing")


def test_tracks_play_in_sync_across_chunks_and_switches(separated: Page) -> None:
    page = separated
    page.reload()
    page.get_by_role("button", name="Show").click()
    page.evaluate(f"""async () => {{
        const player = {PLAYER}.player;
        const context = player._open();
        await context.audioWorklet.addModule("/static/worklet.js");
        const capture = new AudioWorkletNode(context, "capture");
        window.heard = [];
        capture.port.onmessage = ({{ data }}) => window.heard.push(...data);
        player._analyser.connect(capture).connect(context.destination);
        player.seek(3.6);
        await player.play();
    }}""")
    for second in (3.8, 4.2, 4.6):  # Samples are fetched in chunks of 4 s.
        _until(page, f"{PLAYER}.player.position > {second}")
        page.evaluate(f"{PLAYER}.compare()")
    heard = np.array(page.evaluate("window.heard"), dtype=np.float32)
    page.evaluate(f"{PLAYER}.player.pause()")
    # The speakers add up to the original, so the output is the original to the sample, from any choice of tracks.
    heard = heard[np.flatnonzero(heard)[0] :]
    original, rate = soundfile.read(MIXTURE, dtype="float32")
    assert len(heard) > 0.8 * rate
    np.testing.assert_allclose(heard, original[round(3.6 * rate) :][: len(heard)], atol=1e-4)


def test_a_click_seeks_and_zooming_works(separated: Page) -> None:
    page = separated
    page.locator(".track.speaker1 .picture").click(position={"x": 300, "y": 20})
    width = page.locator(".track.speaker1 .picture").bounding_box()["width"]  # type: ignore[index]
    assert page.evaluate(f"{PLAYER}.player.position") == pytest.approx(7.1 * 300 / width, abs=0.02)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{PLAYER}.player.position") == 0
    page.keyboard.press("+")
    assert page.evaluate(f"{PLAYER}.view") == {"start": 0, "end": pytest.approx(3.55)}


def test_downloads_are_the_estimates(separated: Page, run, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    page = separated
    run("separate", MIXTURE, "--model", tiny_model, "--speakers", "auto", "--threads", 1, "-o", "out")
    expected = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    with page.expect_download() as one:
        page.get_by_role("link", name="Download Speaker 1").click()
    assert one.value.suggested_filename == f"{MIXTURE.stem}_speaker1.wav"
    assert one.value.path().read_bytes() == expected[one.value.suggested_filename]
    with page.expect_download() as all_:
        page.get_by_role("link", name="Download all").click()
    archive = zipfile.ZipFile(io.BytesIO(all_.value.path().read_bytes()))
    assert {name: archive.read(name) for name in archive.namelist()} == expected


def test_another_browser_does_not_see_the_jobs(separated: Page, page: Page) -> None:
    _until(page, "document.querySelector('#bounds').textContent !== ''")
    page.wait_for_timeout(200)
    assert page.locator("#jobs li").count() == 0
    separated.reload()
    separated.wait_for_selector("#jobs [data-state=done]")


def test_the_pictures_are_drawn_and_fit_a_phone(page: Page) -> None:
    page.locator("#files").get_by_text("Remove noise").click()
    page.set_input_files("#choose", EXAMPLES / "in_noise" / "noisy" / "reader_in_wind.flac")
    page.wait_for_selector("track-player")
    # Columns that arrive while the tab is hidden are drawn when it is shown.
    page.get_by_role("tab", name="Live").click()
    page.wait_for_timeout(1000)
    page.get_by_role("tab", name="Files").click()
    drawn = """number => {
        const canvas = document.querySelectorAll(".picture canvas")[number];
        if (!canvas.width || !canvas.height) return 0;  // The tab was shown just now.
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, k) => k % 4 === 3 && value > 0).length / (canvas.width * canvas.height);
    }"""
    for number in (0, 1):
        _until(page, f"({drawn})({number}) > 0.2")
    page.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Live", "Files"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("tab", name="Live").click()
    page.locator("#live").get_by_text("Separate speakers").click()
    page.locator("#live-options [name=speakers]").select_option("4")
    for choice in page.locator("#live-hear span").all():
        box = choice.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_bad_files_show_an_error_and_jobs_can_be_cancelled(page: Page) -> None:
    dropped = page.evaluate_handle("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["no sound"], "text.wav"));
        return data;
    }""")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.set_input_files("#choose", MIXTURE)
    bar = page.wait_for_selector(".bar:visible")
    assert bar
    assert bar.get_attribute("aria-valuetext") in ("uploading", "waiting", "loading", "reading")
    page.wait_for_selector("[data-state=failed]")
    error = page.locator("[data-state=failed] .status").inner_text()
    assert error == "text.wav cannot be read as audio; is it really a complete .wav file?"
    mixture = page.locator("#jobs li", has_text=MIXTURE.name)
    mixture.get_by_role("button", name="Cancel").click()
    mixture.wait_for(state="detached")
    page.get_by_role("button", name="Remove").click()
    _until(page, "document.querySelector('#jobs').children.length === 0")
    assert page.locator("track-player").count() == 0


def _lag(page: Page) -> tuple[int, int]:
    """The lag that is shown, when it is, and that of the model, in milliseconds."""
    _until(page, "/^\\d+ ms/.test(document.querySelector('#live-lag').textContent)")
    words = page.locator("#live-lag").inner_text().split()
    lag, model = [int(word) for word in words if word.isdecimal()][:2]
    return lag, model


def test_live_sound_is_cleaned_and_its_lag_is_shown(page: Page) -> None:
    page.get_by_role("tab", name="Live").click()
    page.keyboard.press("Space")
    lag, model = _lag(page)
    _until(page, "document.querySelectorAll('#live-levels meter')[1].value > -55")
    assert model <= lag < 2000
    assert page.get_by_role("radio", name="Separate speakers").is_disabled()
    page.get_by_role("button", name="Stop").click()
    assert page.locator("#live-status").inner_text() == "stopped"


_LISTEN = """
    window.sent = []; window.heard = [[], []];
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (data) {
        window.sent.push(...data);
        send.call(this, data);
    };
    const { connect } = AudioNode.prototype;
    AudioNode.prototype.connect = function (to) {
        if (to === this.context.destination) {
            // One node for both channels: two nodes may begin blocks apart.
            const capture = this.context.createScriptProcessor(4096, 2, 1);
            capture.onaudioprocess = ({ inputBuffer }) =>
                window.heard.forEach((heard, channel) => heard.push(...inputBuffer.getChannelData(channel)));
            connect.call(this, capture);
            connect.call(capture, to);
        }
        return connect.call(this, to);
    };
"""
"""Keeps what the page sends, and what comes to its left and right."""


def test_live_speakers_come_out_left_and_right_or_alone(page: Page, tiny_model: Path) -> None:
    page.evaluate(f"() => {{ {_LISTEN} }}")
    page.get_by_role("tab", name="Live").click()
    page.locator("#live").get_by_text("Separate speakers").click()
    page.get_by_label("Look ahead").select_option("2")
    page.get_by_role("button", name="Start").click()
    lag, model = _lag(page)
    assert 1900 < model <= 2000 < lag
    assert page.locator("#live-levels dt").all_inner_texts() == ["Microphone", "Speaker 1", "Speaker 2"]
    _until(page, "[...document.querySelectorAll('#live-levels meter')].every(meter => meter.value > -55)")
    slow = "document.querySelector('#live-status').textContent.includes('cannot keep up')"
    heard: list[list[Samples]] = []
    for key in ("", "2", "2", "0"):  # Left and right, speaker 2 alone, left and right again, the microphone.
        if key:
            page.keyboard.press(key)
        begin = page.evaluate("window.heard[0].length")
        _until(page, f"window.heard[0].length > {begin + 24000} || {slow}")
        if page.evaluate(slow):
            pytest.skip("this machine is too busy for live audio")
        kept = page.evaluate(f"window.heard.map(each => each.slice({begin}, {begin + 24000}))")
        heard.append([np.array(each, np.float32) for each in kept])
    sent = np.array(page.evaluate("window.sent"), np.float32)
    rate = page.evaluate("new AudioContext().sampleRate")
    page.get_by_role("button", name="Stop").click()
    stream = load(tiny_model).stream(rate, 2, 2.0)
    first, second = np.concatenate([stream.push(sent), stream.flush()], axis=1)
    mixes = ((first, second), (second, second), (first, second), (sent, sent))
    for channels, expected in zip(heard, mixes, strict=True):
        # Both channels are in step.
        assert _places(channels[0], expected[0]) & _places(channels[1], expected[1])


def _places(heard: Samples, played: Samples) -> set[int]:
    """Where in a signal pieces of a tenth of a second of what is heard come from, less where they are heard."""
    size, found = 4800, set()
    for start in range(0, len(heard) - size, size):
        piece = heard[start : start + size]
        if np.square(piece).mean() < 1e-6:
            continue  # Silence is everywhere.
        places = np.arange(len(played) - size)
        for k in range(0, size, 48):
            places = places[np.abs(played[places + k] - piece[k]) < 1e-4]
        found |= {int(place) - start for place in places}
    return found


def test_the_microphone_is_recorded(page: Page) -> None:
    page.locator("#files").get_by_text("Remove noise").click()
    page.get_by_role("button", name="Record").click()
    _until(page, "document.querySelector('#record').textContent === 'Stop 0:01'")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("track-player")
    assert page.evaluate(f"{PLAYER}.player.duration") >= 1
