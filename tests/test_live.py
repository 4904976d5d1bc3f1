"""Live use: pipes for real, and microphone and loudspeaker through a stand-in at the border to sounddevice."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.live import LIVE_RATE, run_live
from unmingle.separation import load

RATE = 16000


def _noise(samples: int, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def _fake_devices(monkeypatch: pytest.MonkeyPatch, microphone: Samples) -> list[np.ndarray]:
    """A sound device that hears ``microphone``, keeps what is played, and is interrupted at the end."""
    played: list[np.ndarray] = []

    class Stream:
        def __init__(self, **settings: object) -> None:
            self.settings, self.position = settings, 0

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, frames: int) -> tuple[np.ndarray, bool]:
            if self.position + frames > len(microphone):
                raise KeyboardInterrupt
            block = microphone[self.position : self.position + frames, None]
            self.position += frames
            return block, False

        def write(self, block: np.ndarray) -> None:
            channels = self.settings["channels"]
            assert isinstance(channels, tuple)
            assert block.shape[1] == channels[1]
            assert block.flags.c_contiguous
            played.append(block.copy())

    module = types.ModuleType("sounddevice")
    module.Stream, module.PortAudioError = Stream, RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return played


def test_a_pipe_of_raw_samples_is_separated_into_channels(tiny_model: Path) -> None:
    audio = _noise(20000)
    done = subprocess.run(
        [sys.executable, "-m", "unmingle", "separate", "-", "-", "--raw", f"f32le:{RATE}", "--lag", "0.5",
         "--model", str(tiny_model)],
        input=audio.tobytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    channels = np.frombuffer(done.stdout, dtype=np.float32).reshape(-1, 2).T
    stream = load(tiny_model).stream(RATE, 2, 0.5)
    expected = np.concatenate([stream.push(audio), stream.flush()], axis=1)
    np.testing.assert_allclose(channels, expected, atol=1e-4)
    assert b"2 channels" in done.stderr


def test_the_microphone_is_separated_onto_channels_with_levels(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = _noise(3 * LIVE_RATE)
    levels: list[list[float]] = []
    played = _fake_devices(monkeypatch, audio)
    run_live(load(tiny_model).stream(LIVE_RATE, 2, 0.5), on_levels=levels.append)
    heard = np.concatenate(played)
    assert heard.shape[1] == 2
    # Both channels together are the microphone, late by what the stream held back.
    lag = len(audio) // 1536 * 1536 - len(heard)
    assert 0 < lag <= 0.5 * LIVE_RATE + 1536
    np.testing.assert_allclose(heard.sum(axis=1), audio[: len(heard)], atol=2e-3)
    assert len(levels) >= 15
    assert all(-60 < level < 0 for level in levels[-1])


def test_one_speaker_alone_can_be_heard(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = _noise(2 * LIVE_RATE)
    played = _fake_devices(monkeypatch, audio)
    run_live(load(tiny_model).stream(LIVE_RATE, 2, 0.5), speaker=2)
    alone = np.concatenate(played)
    both = _fake_devices(monkeypatch, audio)
    run_live(load(tiny_model).stream(LIVE_RATE, 2, 0.5))
    np.testing.assert_array_equal(alone[:, 0], np.concatenate(both)[:, 1])


def test_without_sounddevice_one_sentence_says_what_to_install(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UnmingleError, match=r"unmingle\[live\]"):
        run_live(load(tiny_model).stream(LIVE_RATE, 2, 0.5))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--live", "x.wav"], "--live takes no files"),
        (["-", "-"], "--raw FORMAT:RATE"),
        (["x.wav", "--raw", "s16le:8000"], "- -"),
        ([], "Name a file"),
        (["-", "-", "--raw", "s16le:8000:2"], "one channel"),
        (["-", "-", "--raw", "s16le:8000", "--speakers", "auto"], "cannot count"),
        (["-", "-", "--raw", "s16le:8000", "--lag", "0"], "lag must lie"),
        (["--live", "--listen", "9"], "between 1 and 2"),
    ],
)
def test_impossible_streams_are_one_sentence(run, tiny_model: Path, arguments: list[str], word: str) -> None:  # type: ignore[no-untyped-def]
    result = run("separate", *arguments, "--model", tiny_model)
    assert result.code == 2
    assert word in result.err
    assert len(result.err.strip().splitlines()) == 1
