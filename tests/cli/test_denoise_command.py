"""``unmingle denoise`` on files and through a pipe, and scores of noisy folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import unmingle
from conftest import MIXTURE
from unmingle.audio_blocks import AudioWriter
from unmingle.audio_reading import AudioFile
from unmingle.data.mixture_folders import read_mixture_folder
from unmingle.denoising import denoise_files, load_denoiser
from unmingle.errors import UnmingleError
from unmingle.evaluation.dnsmos import dnsmos
from unmingle.file_batches import Output
from unmingle.live import RawFormat, parse_raw_format, run_pipe

Run = pytest.FixtureRequest


def test_a_file_comes_back_with_its_rate_length_and_channels(
    run, tiny_denoiser: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal((30011, 2))
    soundfile.write(tmp_path / "talk ü.wav", audio, 44100, subtype="FLOAT")
    done = run("denoise", tmp_path / "talk ü.wav", MIXTURE, "--model", tiny_denoiser, "-o", "out", "--json")
    assert done.code == 0, done.err
    files = json.loads(done.out)["files"]
    cleaned, rate = soundfile.read(files[0]["output"])
    assert Path(files[0]["output"]).name == "talk ü_denoised.wav"
    assert (cleaned.shape, rate) == (audio.shape, 44100)
    assert files[0]["seconds"] == pytest.approx(30011 / 44100)
    again = unmingle.load_denoiser(tiny_denoiser).denoise(audio.T.astype(np.float32), 44100)
    np.testing.assert_allclose(cleaned.T, again, atol=1e-6)
    run("denoise", tmp_path / "talk ü.wav", "--strength", "0", "--model", tiny_denoiser, "-o", "all")
    kept, _ = soundfile.read("all/talk ü_denoised.wav")
    np.testing.assert_allclose(kept, audio, atol=5e-3)
    table = run("denoise", tmp_path / "talk ü.wav", "--model", tiny_denoiser, "-o", "out", "--overwrite")
    assert "above 8 kHz attenuated as the octave below" in table.out


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3", "wav"])
def test_every_format_is_written_in_blocks(format: str, tiny_denoiser: Path, tmp_path: Path) -> None:
    (result,) = denoise_files([MIXTURE], load_denoiser(tiny_denoiser), Output(tmp_path, format, "{stem}"))
    assert result.error is None
    cleaned, rate = soundfile.read(result.output)
    assert rate == 16000
    assert abs(len(cleaned) - soundfile.info(MIXTURE).frames) <= (3000 if format == "mp3" else 0)
    assert np.abs(cleaned).max() > 1e-3
    assert [path.name for path in tmp_path.iterdir()] == [f"{MIXTURE.stem}.{format}"]


def test_a_recording_longer_than_the_look_ahead_runs_and_repeats_to_the_byte(
    tiny_denoiser: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(8000 * 65), 8000)
    enhancer = load_denoiser(tiny_denoiser)
    for folder in ("a", "b"):
        (result,) = denoise_files([tmp_path / "long.wav"], enhancer, Output(tmp_path / folder))
        assert result.error is None
    first, second = (tmp_path / f / "long_speaker{n}.wav".replace("{n}", "1") for f in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert soundfile.info(first).frames == 8000 * 65


def test_bad_requests_are_one_sentence(run, tiny_denoiser: Path, tiny_model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def refused(word: str, *arguments: object) -> None:
        result = run("denoise", *arguments)
        assert result.code == 2, (result.out, result.err)
        assert word in result.err
        assert len(result.err.strip().splitlines()) == 1

    model = ("--model", tiny_denoiser)
    refused("Name a file")
    refused("--raw is for a pipe", MIXTURE, "--raw", "s16le:16000", *model)
    refused("does not go with files", "-", MIXTURE, *model)
    refused("does not go with files", "-", "out.raw", "--raw", "s16le:16000", *model)
    refused("got 's17le:16000'", "-", "-", "--raw", "s17le:16000", *model)
    refused("--live takes no files", MIXTURE, "--live", *model)
    refused("does not exist", "nowhere.wav", *model)
    refused("separates speakers", MIXTURE, "--model", tiny_model)
    refused("no model 'nobody'", MIXTURE, "--model", "nobody")
    refused("needs {stem}", MIXTURE, "--name", "same", *model)
    run("denoise", MIXTURE, *model, "-o", "out")
    refused("add --overwrite", MIXTURE, *model, "-o", "out")
    separated = run("separate", MIXTURE, "--model", tiny_denoiser)
    assert separated.code == 2
    assert "use `unmingle denoise`" in separated.err
    assert [path.name for path in Path("out").iterdir()] == [f"{MIXTURE.stem}_denoised.wav"]


def test_one_bad_file_stops_no_other_and_leaves_nothing(run, tiny_denoiser: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bad = np.zeros(16000 * 12, dtype=np.float32)
    bad[-1] = np.nan  # In the second block, after some output.
    soundfile.write(tmp_path / "bad.wav", bad, 16000, subtype="FLOAT")
    (tmp_path / "empty.wav").write_bytes(b"")
    done = run("denoise", tmp_path / "bad.wav", tmp_path / "empty.wav", MIXTURE, "--model", tiny_denoiser)
    assert done.code == 2
    assert "NaN" in done.err
    assert "empty.wav is empty" in done.err
    assert "2 of 3 files" in done.err
    run("denoise", tmp_path / "bad.wav", "--model", tiny_denoiser, "-o", "nothing")
    assert not Path("nothing").exists()
    assert [path.name for path in Path("denoised").iterdir()] == [f"{MIXTURE.stem}_denoised.wav"]


def test_a_pipe_gives_what_the_library_gives(tiny_denoiser: Path) -> None:
    audio = (0.1 * np.random.default_rng(0).standard_normal(20000)).astype(np.float32)
    done = subprocess.run(
        [sys.executable, "-m", "unmingle", "denoise", "-", "-", "--raw", "f32le:16000", "--model",
         str(tiny_denoiser)],
        input=audio.tobytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = np.frombuffer(done.stdout, dtype=np.float32)
    stream = load_denoiser(tiny_denoiser).stream(16000)
    np.testing.assert_allclose(answer, np.concatenate([stream.push(audio), stream.flush()]), atol=1e-6)
    assert b"64 ms behind" in done.stderr


class _Trickle(io.BytesIO):
    def read1(self, size: int | None = -1) -> bytes:
        return super().read(7)


def test_a_pipe_may_trickle_and_an_odd_byte_is_told(tiny_denoiser: Path) -> None:
    raw, enhancer = parse_raw_format("s16le:16000:2"), load_denoiser(tiny_denoiser)
    samples = (3000 * np.random.default_rng(0).standard_normal((4000, 2))).astype("<i2").tobytes()
    slow, fast = io.BytesIO(), io.BytesIO()
    assert run_pipe(enhancer.stream(16000, 2), raw, _Trickle(samples), slow) == 0.25
    run_pipe(enhancer.stream(16000, 2), raw, io.BytesIO(samples), fast)
    assert len(slow.getvalue()) == len(samples)
    apart = np.frombuffer(slow.getvalue(), "<i2").astype(int) - np.frombuffer(fast.getvalue(), "<i2")
    assert np.abs(apart).max() <= 1
    with pytest.raises(UnmingleError, match="middle of a sample"):
        run_pipe(enhancer.stream(16000, 2), raw, io.BytesIO(samples + b"x"), io.BytesIO())


@pytest.mark.parametrize("name", ["s16le", "s32le", "f32le"])
def test_raw_samples_survive_there_and_back(name: str) -> None:
    raw = RawFormat(name, 16000, 2)
    audio = np.array([[0.0, 0.5, -1.0, 0.25], [1.0, 0.125, -0.5, 2.0]], dtype=np.float32)
    back = raw.decode(raw.encode(audio))
    limited = audio if name == "f32le" else audio.clip(-1, 1)
    np.testing.assert_allclose(back, limited, atol=2**-14)
    assert raw.frame_bytes == (4 if name == "s16le" else 8)


@pytest.mark.parametrize(
    "text", ["s16le", "s16le:abc", "s16le:16000:0", "s16le:0", "wav:16000", "s16le:1:2:3", ""]
)
def test_bad_raw_formats(text: str) -> None:
    with pytest.raises(UnmingleError, match="FORMAT:RATE"):
        parse_raw_format(text)


def test_blocks_hold_the_whole_file_and_tell_of_its_early_end(tmp_path: Path) -> None:
    whole, _ = soundfile.read(MIXTURE, dtype="float32")

    def read(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        with AudioFile(path) as file:
            blocks = list(file.blocks(11200))
            assert {block.shape[1] for block in blocks[:-1]} <= {11200}
            return np.concatenate(blocks, axis=1)[0], file.warnings

    samples, warnings = read(MIXTURE)
    np.testing.assert_array_equal(samples, whole)
    assert warnings == ()
    flac = MIXTURE.read_bytes()
    (tmp_path / "damaged.flac").write_bytes(flac[: len(flac) * 9 // 10])
    samples, warnings = read(tmp_path / "damaged.flac")
    assert len(samples) > 0.8 * len(whole)
    assert "damaged" in warnings[0]
    soundfile.write(tmp_path / "a.wav", whole, 16000)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    samples, warnings = read(tmp_path / "cut.wav")
    assert len(samples) > 0.4 * len(whole)
    assert "ends early" in warnings[0]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with AudioWriter(tmp_path / "a.wav", 8000, 1, "wav") as writer:
            writer.write(np.zeros((1, 100), dtype=np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    if Path("/dev/full").exists():
        writer = AudioWriter(tmp_path / "b.wav", 8000, 1, "wav")
        with Path("/dev/full").open("wb") as full, pytest.raises(UnmingleError), writer:  # noqa: PT012
            os.dup2(full.fileno(), writer._disk.file.fileno())
            writer.write(np.ones((1, 100000), dtype=np.float32))
        assert not list(tmp_path.iterdir())
    with AudioWriter(tmp_path / "large.wav", 48000, 2, "wav", None, 4 * 3600) as writer:
        writer.write(np.zeros((2, 100), dtype=np.float32))
    assert (tmp_path / "large.wav").read_bytes()[:4] == b"RF64"
    assert soundfile.info(tmp_path / "large.wav").frames == 100
    with AudioWriter(tmp_path / "c.flac", 8000, 1, "flac", 16) as writer:
        writer.write(np.full((1, 10), 1.5, dtype=np.float32))
    assert writer.clipped == 10
    assert soundfile.read(tmp_path / "c.flac")[0].max() == pytest.approx(1.0, abs=1e-4)


def test_noisy_folders_are_made_and_scored(
    run, example_corpus: Path, example_noise: Path, tiny_denoiser: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    done = run(
        "mix", example_corpus, "--noise", example_noise, "--snr", -5, 10, "--speakers", 1,
        "--rate", 16000, "--count", 3, "--split", "test", "-o", "test",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "one speaker in noise" in done.out
    assert sorted(path.name for path in Path("test").iterdir()) == [
        "README.md", "clean", "mixtures.csv", "noise", "noisy", "recipe.json",
    ]  # fmt: skip
    items = read_mixture_folder(Path("test"))
    for item in items:
        noisy, clean, noise = (
            soundfile.read(Path("test") / part / f"{item.name}.wav", dtype="float32")[0]
            for part in ("noisy", "clean", "noise")
        )
        np.testing.assert_allclose(noisy, clean + noise, atol=1e-6)
        assert -5 <= float(item.details["snr_db"]) <= 10
    scored = run("evaluate", "test", "--task", "denoise", "--model", tiny_denoiser, "--json")
    assert scored.code == 0, scored.err
    summary = json.loads(scored.out)
    assert set(summary["metrics"]) >= {"si_sdr", "pesq", "stoi", "dnsmos_improvement"}
    assert sum(group["mixtures"] for group in summary["groups"]["snr"].values()) == 3
    oracle = json.loads(run("evaluate", "test", "--oracle", "root_irm", "--metric", "si_sdr", "--json").out)
    assert oracle["metrics"]["si_sdr_improvement"]["mean"] > 5
    table = Path("test/mixtures.csv").read_text().splitlines()
    Path("test/mixtures.csv").write_text("\n".join(line.split(",")[0] for line in table))
    bare = run("evaluate", "test", "--mixture", "--metric", "si_sdr", "--json")
    assert json.loads(bare.out)["groups"]["snr"]["unknown"]["mixtures"] == 3
    wrong = run("evaluate", "test", "--task", "separate")
    assert wrong.code == 2
    assert "needs the folders mix/" in wrong.err
    refused = run("mix", example_corpus, "--noise", example_noise, "-o", "other")
    assert refused.code == 2
    assert "--noise-snr" in refused.err


def test_voicebank_demands_names_are_read(tmp_path: Path) -> None:
    for name in ("noisy_testset_wav", "clean_testset_wav"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "p232_001.wav", np.zeros(100), 16000)
    (item,) = read_mixture_folder(tmp_path)
    assert item.noisy
    assert item.mixture.parent.name == "noisy_testset_wav"


def test_dnsmos_prefers_clean_speech_and_needs_16_khz(example_sources: np.ndarray) -> None:
    clean = example_sources[0]
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    noisy = clean + 0.3 * float(clean.std()) * noise
    assert 1 < dnsmos(noisy, 16000) < dnsmos(clean, 16000) < 5
    assert np.isnan(dnsmos(clean, 8000))
    assert np.isnan(dnsmos(0 * clean, 16000))
