from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmingle.audio import active_level, down_mix, encode_audio, read_audio, resample, write_audio
from unmingle.errors import UnmingleError
from unmingle.temporary import Replacement


def _sine(rate: int, seconds: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32) * 0.5


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_bit_depth_reads_as_the_same_samples(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", _sine(16000), 16000, subtype=subtype)
    recording = read_audio(tmp_path / "a.wav")
    tolerance = 0.01 if subtype == "PCM_U8" else 1e-4
    np.testing.assert_allclose(recording.samples[0], _sine(16000), atol=tolerance)
    assert recording.warning is None


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3"])
def test_written_audio_can_be_read(tmp_path: Path, name: str) -> None:
    samples = _sine(16000)
    write_audio(tmp_path / f"a.{name}", samples, 16000)
    recording = read_audio(tmp_path / f"a.{name}")
    assert recording.sample_rate == 16000
    middle = recording.samples[0, 2000:6000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
    if name in ("wav", "flac"):
        np.testing.assert_allclose(recording.samples[0], samples, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [f"a.{name}"]


def test_wav_is_float_and_keeps_samples_beyond_full_scale(tmp_path: Path) -> None:
    write_audio(tmp_path / "loud.wav", 3 * _sine(8000), 8000)
    assert soundfile.info(tmp_path / "loud.wav").subtype == "FLOAT"
    np.testing.assert_array_equal(read_audio(tmp_path / "loud.wav").samples[0], 3 * _sine(8000))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.wav", _sine(8000), 8000)
    before = (tmp_path / "a.wav").read_bytes()

    def full(self: Replacement, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Replacement, "write", full)
    with pytest.raises(UnmingleError, match="no space left on device"):
        write_audio(tmp_path / "a.wav", 0 * _sine(8000), 8000)
    monkeypatch.undo()
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.wav"]


def _bad_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.wav"
    soundfile.write(good, _sine(16000), 16000)
    paths = {
        name: folder / f"{name}.wav"
        for name in ("text", "empty", "header", "zero", "nan", "infinite", "slow")
    }
    paths["text"].write_text("this is no sound\n" * 100)
    paths["empty"].write_bytes(b"")
    paths["header"].write_bytes(good.read_bytes()[:30])
    soundfile.write(paths["zero"], np.zeros(0), 16000)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = _sine(16000).copy()
        samples[100] = value
        soundfile.write(paths[name], samples, 16000, subtype="FLOAT")
    soundfile.write(paths["slow"], _sine(800), 800)
    return paths | {"missing": folder / "missing.wav", "folder": folder}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("text", "cannot be read as audio"),
        ("empty", "0 bytes"),
        ("header", "cannot be read as audio"),
        ("zero", "0 samples"),
        ("nan", "NaN, infinite"),
        ("infinite", "NaN, infinite"),
        ("slow", "800 Hz"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(UnmingleError, match=word) as caught:
        read_audio(_bad_files(tmp_path)[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3"])
def test_a_truncated_file_gives_the_existing_samples(tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(0)
    whole, cut = tmp_path / f"whole.{name}", tmp_path / f"cut.{name}"
    write_audio(whole, (0.1 * generator.standard_normal(32000)).astype(np.float32), 16000)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    recording = read_audio(cut)
    assert 4000 < recording.samples.shape[1] < 24000
    if name != "mp3":  # A stream of MP3 frames does not say how many there should be.
        assert recording.warning is not None
        assert "ends early" in recording.warning


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["wav", "flac", "ogg", "mp3", "m4a", "xyz"]))
def test_random_bytes_never_crash_the_reader(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"random.{suffix}"
    path.write_bytes(content)
    try:
        recording = read_audio(path)
    except UnmingleError:
        return
    assert np.isfinite(recording.samples).all()


def test_m4a_is_read_through_av(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra 'media' is not installed")
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(_sine(16000, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    recording = read_audio(path)
    assert recording.sample_rate == 16000
    assert recording.samples.shape[1] == pytest.approx(16000, abs=3000)
    assert np.sqrt(np.mean(recording.samples[0, 4000:12000] ** 2)) == pytest.approx(
        0.5 / np.sqrt(2), rel=0.05
    )


@pytest.mark.parametrize(("name", "rate"), [("ogg", 384000), ("flac", 700000), ("mp3", 96000)])
def test_rates_that_a_format_cannot_hold_are_refused(tmp_path: Path, name: str, rate: int) -> None:
    with pytest.raises(UnmingleError, match=f"{rate} Hz"):
        write_audio(tmp_path / f"a.{name}", _sine(8000), rate)
    assert list(tmp_path.glob("a.*")) == []


def test_impossible_names_and_headerless_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.raw").write_bytes(b"\0" * 1000)
    for path in (tmp_path / ("x" * 300 + ".wav"), tmp_path / "samples.raw"):
        with pytest.raises(UnmingleError, match="read"):
            read_audio(path)


def test_channels(tmp_path: Path) -> None:
    samples = np.stack([np.full(10, value, dtype=np.float32) for value in (0.1, 0.2, 0.6)])
    assert down_mix(samples, "mix")[0][0] == pytest.approx(0.3)
    for name, value in (("left", 0.1), ("1", 0.1), ("right", 0.2), ("3", 0.6)):
        assert down_mix(samples, name)[0][0] == pytest.approx(value)
    for name in ("0", "4", "-1", "middle", ""):
        with pytest.raises(UnmingleError, match="There is no channel"):
            down_mix(samples, name)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    resampled = resample(_sine(16000), 16000, rate)
    assert len(resampled) == pytest.approx(rate / 2, abs=1)
    expected = _sine(rate)
    np.testing.assert_allclose(resampled[200:3000], expected[200:3000], atol=2e-3)


@given(st.floats(0.01, 1.0), st.integers(0, 40000))
def test_active_level_ignores_pauses(gain: float, pause: int) -> None:
    speech = gain * _sine(8000, 1.0)
    with_pause = np.concatenate([speech, np.zeros(pause // 200 * 200, dtype=np.float32)])
    assert active_level(with_pause, 8000) == pytest.approx(active_level(speech, 8000), rel=1e-4)
    assert active_level(speech, 8000) == pytest.approx(gain * 0.5 / np.sqrt(2), rel=0.01)


def test_the_same_audio_is_the_same_bytes_at_any_time_of_day() -> None:
    samples = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    first = bytes(encode_audio(samples, 8000, "wav"))
    time.sleep(1.1)  # libsndfile stamps float WAV files with the second
    assert bytes(encode_audio(samples, 8000, "wav")) == first
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(first), dtype="float32")[0], samples)
