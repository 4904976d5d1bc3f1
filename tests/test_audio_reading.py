"""The audio reader: any problem of a file that loses audio gives a warning."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unmingle import audio_decoders, audio_reading
from unmingle.audio import down_mix, down_mixer, resample, to_mono
from unmingle.audio_containers import inspect
from unmingle.audio_names import AUDIO_SUFFIXES, audio_files
from unmingle.audio_reading import AudioFile, read_audio, read_header
from unmingle.errors import UnmingleError

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"), "rf64": ("RF64", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"), "au": ("AU", "PCM_16"), "sph": ("NIST", "PCM_16"), "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
}  # fmt: skip


def _noise(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((round(seconds * RATE), channels))).astype(np.float32)


def _written(path: Path, audio: np.ndarray) -> bytes:
    container, subtype = FORMATS[path.suffix[1:]]
    soundfile.write(path, audio, RATE, format=container, subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_joined_files_are_read_to_the_end(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / f"a.{name}", tmp_path / f"b.{name}"
    content = _written(first, _noise(2)) + _written(second, _noise(3, seed=1))
    (tmp_path / f"joined.{name}").write_bytes(content)
    joined = read_audio(tmp_path / f"joined.{name}")
    expected = np.concatenate([read_audio(first).samples, read_audio(second).samples], axis=1)
    np.testing.assert_allclose(joined.samples, expected, atol=1e-6)
    assert "2 recordings joined" in (joined.warning or "")
    header = read_header(tmp_path / f"joined.{name}")
    assert header is not None
    assert header.seconds == pytest.approx(5, abs=0.2)


def test_joined_files_of_other_rates_are_converted_with_a_warning(tmp_path: Path) -> None:
    content = _written(tmp_path / "a.mp3", _noise(2))
    soundfile.write(tmp_path / "b.mp3", _noise(2, channels=2), 8000)
    (tmp_path / "c.mp3").write_bytes(content + (tmp_path / "b.mp3").read_bytes())
    recording = read_audio(tmp_path / "c.mp3")
    assert recording.samples.shape[1] == pytest.approx(6 * RATE, rel=0.03)
    assert "2 channels at 8000 Hz" in (recording.warning or "")


def test_a_joined_file_of_another_rate_is_resampled_as_a_whole(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * 8000) / 8000).astype(np.float32)
    soundfile.write(tmp_path / "b.flac", tone, 8000)
    first = _written(tmp_path / "a.flac", _noise(1))
    (tmp_path / "c.flac").write_bytes(first + (tmp_path / "b.flac").read_bytes())
    recording = read_audio(tmp_path / "c.flac")
    expected = resample(tone, 8000, RATE)
    np.testing.assert_allclose(recording.samples[0, RATE:], expected, atol=1e-3)
    assert "ends early" not in (recording.warning or "")


def test_a_chosen_channel_that_is_silent_while_another_is_not_is_named() -> None:
    silent, sound = np.zeros((1, 800), np.float32), _noise(0.05).T
    blocks = [np.concatenate([sound, silent])] * 3
    assert len(down_mixer(blocks, 2, "right")[1]) == 1
    assert down_mixer(blocks, 2, "left")[1] == ()
    assert down_mixer([np.concatenate([silent, silent])], 2, "left")[1] == ()
    assert down_mixer([*blocks, np.concatenate([silent, sound])], 2, "right")[1] == ()


@pytest.mark.parametrize("tail", [bytes(24), bytes(1000), b"junk".ljust(16) + (5).to_bytes(8, "little")])
def test_a_w64_file_with_padding_after_its_audio_is_read(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "a.w64").write_bytes(_written(tmp_path / "b.w64", _noise(1)) + tail)
    # libsndfile takes the padding for a few more samples.
    expected = read_audio(tmp_path / "b.w64").samples
    np.testing.assert_array_equal(read_audio(tmp_path / "a.w64").samples[:, :RATE], expected)


def test_a_sphere_header_that_states_no_length_is_one_recording(tmp_path: Path) -> None:
    fields = "sample_count -i 0\nchannel_count -i 1\nsample_n_bytes -i 2\nsample_rate -i 16000\nend_head\n"
    (tmp_path / "a.sph").write_bytes(("NIST_1A\n      0\n" + fields).encode().ljust(1024) + bytes(32000))
    with (tmp_path / "a.sph").open("rb", buffering=0) as file:
        layout = inspect(file)
    assert [(piece.start, piece.end) for piece in layout.pieces] == [(0, 33024)]


@pytest.mark.parametrize(
    "size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x80000024, 0xFFFFFFFF, 0xFFFFFFDB, 4096]
)
def test_a_wav_whose_recorder_was_killed_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    whole = bytearray(_written(tmp_path / "a.wav", _noise(2)))
    place = whole.find(b"data") + 4
    whole[place : place + 4] = struct.pack("<I", size)
    (tmp_path / "b.wav").write_bytes(whole)
    recording = read_audio(tmp_path / "b.wav")
    np.testing.assert_array_equal(recording.samples, read_audio(tmp_path / "a.wav").samples)
    assert "how long" in (recording.warning or "")
    header = read_header(tmp_path / "b.wav")
    assert header is not None
    assert header.seconds == 2


@pytest.mark.parametrize(
    ("name", "chunk", "place", "width", "order"),
    [("aiff", b"SSND", 4, 4, "big"), ("w64", b"data", 16, 8, "little"), ("caf", b"data", 4, 8, "big"),
     ("rf64", b"ds64", 16, 8, "little"), ("au", b".snd", 8, 4, "big")],
)  # fmt: skip
def test_other_formats_without_a_length_are_read_to_their_end(
    tmp_path: Path, name: str, chunk: bytes, place: int, width: int, order: str
) -> None:
    whole = bytearray(_written(tmp_path / f"a.{name}", _noise(2)))
    start = whole.find(chunk) + place
    whole[start : start + width] = bytes(width)
    (tmp_path / f"b.{name}").write_bytes(whole)
    recording = read_audio(tmp_path / f"b.{name}")
    assert recording.samples.shape[1] == 2 * RATE
    assert "how long" in (recording.warning or "")


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_gives_a_warning(tmp_path: Path, name: str) -> None:
    whole = _written(tmp_path / f"a.{name}", _noise(40))
    (tmp_path / f"b.{name}").write_bytes(whole[: len(whole) * 6 // 10])
    recording = read_audio(tmp_path / f"b.{name}")
    assert 0.4 * 40 * RATE < recording.samples.shape[1] < 0.7 * 40 * RATE
    assert "ends early" in (recording.warning or "")


@pytest.mark.parametrize("name", FORMATS)
def test_a_complete_file_has_no_warning_and_its_blocks_are_the_whole(tmp_path: Path, name: str) -> None:
    _written(tmp_path / f"a.{name}", _noise(2, channels=2))
    recording = read_audio(tmp_path / f"a.{name}")
    assert recording.warnings == ()
    with AudioFile(tmp_path / f"a.{name}") as file:
        np.testing.assert_array_equal(np.concatenate(list(file.blocks(7777)), axis=1), recording.samples)


def test_mp3_in_blocks_equals_the_whole_with_any_suffix(tmp_path: Path) -> None:
    _written(tmp_path / "a.mp3", _noise(4))
    (tmp_path / "a.mp3").rename(tmp_path / "a.wav")
    whole = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    with AudioFile(tmp_path / "a.wav") as file:
        np.testing.assert_allclose(np.concatenate(list(file.blocks(5000)), axis=1)[0], whole, atol=1e-6)


def test_gsm_cannot_seek_and_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", _noise(1), RATE, subtype="GSM610")
    soundfile.write(tmp_path / "b.au", _noise(1), RATE, subtype="G721_32")
    for name in ("a.wav", "b.au"):
        assert read_audio(tmp_path / name).samples.shape[1] == pytest.approx(RATE, abs=400)


def test_a_file_that_is_replaced_while_it_is_read_is_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    _written(path, _noise(4))
    whole = read_audio(path).samples
    with AudioFile(path) as file:
        blocks = file.blocks(RATE)
        parts = [next(blocks)]
        _written(tmp_path / "b.wav", _noise(4, seed=1))
        (tmp_path / "b.wav").replace(path)
        np.testing.assert_array_equal(np.concatenate([*parts, *blocks], axis=1), whole)
    with AudioFile(path) as file:
        blocks = file.blocks(RATE)
        next(blocks)
        with path.open("ab") as growing:
            growing.write(b"x" * 100)
        list(blocks)
        assert "changed while it was read" in " ".join(file.warnings)


def test_names_are_bytes(tmp_path: Path) -> None:
    content = _written(tmp_path / "a.wav", _noise(1))
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(content)
    assert read_audio(odd).samples.shape == (1, RATE)
    with pytest.raises(UnmingleError, match="not a possible file name"):
        read_audio(tmp_path / "a\0b.wav")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    content = _written(tmp_path / "a.wav", _noise(1))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert read_audio(tmp_path / "pipe").samples.shape == (1, RATE)
    writer.join()
    with pytest.raises(UnmingleError, match="is not a file"):
        read_audio("/dev/zero")


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_silence_gives_a_warning(tmp_path: Path, offset: float) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((RATE, 2), offset), RATE)
    assert read_audio(tmp_path / "a.wav").warnings == ("a.wav is silent",)


@pytest.mark.parametrize("value", [1e11, 1e19, 3e38, np.nan, np.inf])
def test_absurd_samples_are_refused(tmp_path: Path, value: float) -> None:
    audio = _noise(1)
    audio[9000] = value
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    with pytest.raises(UnmingleError, match="NaN, infinite or beyond"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("gain", [-0.99, -0.8, -0.6])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_channels_that_cancel_are_not_mixed(gain: float, offset: float) -> None:
    one = _noise(1)[:, 0]
    samples = np.stack([gain * one, one]) + np.float32(offset)
    mono, warnings = down_mix(samples)
    np.testing.assert_array_equal(mono, samples[1])
    assert "channel 2 was used" in warnings[0]
    np.testing.assert_array_equal(to_mono(samples), samples[1])


@pytest.mark.parametrize("other", ["same", "independent", "silent"])
def test_channels_that_do_not_cancel_are_mixed(other: str) -> None:
    one = _noise(1)[:, 0]
    second = {"same": one, "independent": _noise(1, seed=1)[:, 0], "silent": 0 * one}[other]
    samples = np.stack([one, second])
    mono, warnings = down_mix(samples)
    np.testing.assert_allclose(mono, samples.mean(axis=0))
    assert warnings == ()
    if other == "silent":
        (warning,) = down_mix(samples, "right")[1]
        assert warning == "channel right is silent, and others are not (--channel picks another)"


def _video(path: Path, tracks: int, title: bytes = b"") -> None:
    av = pytest.importorskip("av", reason="the extra 'media' is not installed")
    with av.open(str(path), "w") as container:
        if title:
            container.metadata["title"] = "The title here"[: len(title)]
        streams = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(tracks)]
        for number, stream in enumerate(streams):
            audio = (number + 1) * 0.1 * np.sin(np.arange(2 * RATE) / 5).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    if title:
        path.write_bytes(path.read_bytes().replace(b"The title here"[: len(title)], title))


def test_the_tracks_of_a_video_are_counted_and_named(tmp_path: Path) -> None:
    _video(tmp_path / "a.mp4", 2)
    first = read_audio(tmp_path / "a.mp4")
    assert "2 audio tracks" in (first.warning or "")
    second = read_audio(tmp_path / "a.mp4", track=2)
    assert second.warnings == ()
    assert np.std(second.samples) == pytest.approx(2 * np.std(first.samples), rel=0.05)
    for track in (0, 3):
        with pytest.raises(UnmingleError, match=f"no track {track}"):
            read_audio(tmp_path / "a.mp4", track=track)


def test_a_title_in_any_encoding_and_a_suffix_of_any_kind_are_read(tmp_path: Path) -> None:
    _video(tmp_path / "a.m4a", 1, title=b"Caf\xe9 M\xfcller")
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.m4a").read_bytes())
    for name in ("a.m4a", "b.wav"):
        assert read_audio(tmp_path / name).samples.shape[1] == pytest.approx(2 * RATE, abs=3000)


@pytest.mark.parametrize("suffix", ["m4a", "mkv", "avi"])
def test_a_truncated_or_joined_video_gives_a_warning(tmp_path: Path, suffix: str) -> None:
    av = pytest.importorskip("av", reason="the extra 'media' is not installed")
    audio = _noise(10).T
    options = {"movflags": "faststart"} if suffix == "m4a" else {}
    with av.open(str(tmp_path / f"a.{suffix}"), "w", options=options) as container:
        stream = container.add_stream("pcm_s16le" if suffix == "avi" else "aac", rate=RATE, layout="mono")
        for start in range(0, audio.shape[1], 1000):
            part = np.ascontiguousarray(audio[:, start : start + 1000])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert read_audio(tmp_path / f"a.{suffix}").warnings == ()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) * 6 // 10])
    cut = read_audio(tmp_path / f"cut.{suffix}")
    assert cut.samples.shape[1] < 7 * RATE
    assert "ends early" in (cut.warning or "")
    (tmp_path / f"joined.{suffix}").write_bytes(content + content)
    joined = read_audio(tmp_path / f"joined.{suffix}")
    assert joined.samples.shape[1] > 19 * RATE or "only the first was read" in (joined.warning or "")


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    _written(tmp_path / "secret.wav", _noise(1))
    (tmp_path / "a.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(UnmingleError):
        read_audio(tmp_path / "a.m3u8")


# fmt: off
KINDS: list[Exception] = [
    ValueError("x"),
    UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "x"),
    UnicodeEncodeError("utf-8", "\udce9", 0, 1, "x"),
    AttributeError("x"),
    AssertionError(),
    TypeError("x"),
    KeyError("x"),
    IndexError("x"),
    RuntimeError("x"),
    OSError(5, "x"),
    MemoryError(),
    EOFError("x"),
    NotImplementedError("x"),
    OverflowError("x"),
    ZeroDivisionError("x"),
    FloatingPointError("x"),
    RecursionError("x"),
    BufferError("x"),
    struct.error("x"),
    StopIteration("x"),
    soundfile.LibsndfileError(1),
    Exception("x"),
    LookupError("x"),
]
# fmt: on


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["open", "decode"])
def test_any_decoder_error_is_one_sentence_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    _written(tmp_path / "a.wav", _noise(1))

    def fail(*_: object) -> None:
        raise error

    if where == "open":
        monkeypatch.setattr(audio_reading, "SndfileDecoder", fail)
        monkeypatch.setattr(audio_reading, "AvDecoder", fail)
    else:
        monkeypatch.setattr(audio_decoders._Stream, "read", fail)
    with pytest.raises(UnmingleError, match=r"a\.wav") as caught:
        read_audio(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


def test_folders_give_every_file_that_can_be_read(tmp_path: Path) -> None:
    for name in FORMATS:
        _written(tmp_path / f"a.{name}", _noise(0.2))
    content = _written(tmp_path / "x.wav", _noise(0.2))
    for name in ("REC0001", "dictation.dat", "b.aifc", "b.wave"):
        (tmp_path / name).write_bytes(content)
    for name in ("._a.wav", ".DS_Store", "notes.txt", "picture.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7 nothing to hear")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.wav").write_bytes(content)
    found = {path.name for path in audio_files(tmp_path)}
    assert found == {f"a.{name}" for name in FORMATS} | {
        "x.wav",
        "REC0001",
        "dictation.dat",
        "b.aifc",
        "b.wave",
    }


def test_the_list_of_suffixes_has_common_formats() -> None:
    wanted = (
        "wav wave bwf rf64 w64 au caf sph aif aiff aifc flac ogg opus mp3 m4a m4b mp4 mov 3gp webm mkv wma"
    )
    assert {f".{name}" for name in wanted.split()} <= AUDIO_SUFFIXES
