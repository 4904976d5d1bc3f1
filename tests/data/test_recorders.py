"""Recorders and codecs: what they do to a crop, what counts as speech then, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from unmingle.audio import Samples, active_level
from unmingle.data.cache import decode
from unmingle.data.codecs import Codec, CodecName, check_codecs, draw_codec, mu_law
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseMaker, noise_level
from unmingle.data.recorders import Recorder, RecorderConfig, device_noise, draw_recorder, level_jump
from unmingle.errors import UnmingleError
from unmingle.metrics import si_sdr

RATE = 16000


def _mixer(corpus: Path, recordings: Path | None, **changes: object) -> Mixer:
    utterances = read_corpora([corpus], "train")
    speech = decode(utterances, RATE)
    config = MixingConfig.model_validate({"speakers": 1} | changes)
    maker = None
    if recordings is not None and config.noise is not None:
        found = read_noise([recordings], "train")
        maker = NoiseMaker(found, decode(found, RATE), speech, RATE, config.noise)
    return Mixer(utterances, speech, RATE, config, 0, maker)


@pytest.fixture
def speech(example_sources: Samples) -> Samples:
    return 0.5 * example_sources[0][: 2 * RATE] / np.abs(example_sources[0][: 2 * RATE]).max()


@pytest.mark.parametrize(
    ("name", "bit_rate", "least"),
    [("opus", 24000, 8.0), ("mp3", 32000, 8.0), ("amr", 12200, 4.0), ("telephone", 64000, 8.0)],
)
def test_a_codec_keeps_length_and_place_and_is_the_same_each_time(
    name: CodecName, bit_rate: int, least: float, speech: Samples
) -> None:
    codec = Codec(name, bit_rate)
    coded = codec(speech, RATE)
    assert (coded.shape, coded.dtype) == (speech.shape, np.float32)
    np.testing.assert_array_equal(codec(speech, RATE), coded)
    # Below, codecs take away rumble by filters that turn phases.
    wanted, heard = _band(speech, 600, 1500), _band(coded, 600, 1500)
    kept, late, early = (
        float(si_sdr(torch.from_numpy(np.roll(heard, shift)), torch.from_numpy(wanted)))
        for shift in (0, 8, -8)
    )
    assert kept > least
    assert kept > max(late, early) + 2
    assert active_level(coded, RATE) == pytest.approx(active_level(speech, RATE), rel=0.5)
    assert float(np.abs(coded - speech).max()) > 1e-3


def _band(audio: Samples, low: float, high: float) -> Samples:
    frequency = np.fft.rfftfreq(len(audio), 1 / RATE)
    inside = (frequency >= low) & (frequency < high)
    return np.fft.irfft(np.fft.rfft(audio) * inside, len(audio)).astype(np.float32)


def test_telephones_and_amr_keep_no_more_than_four_kilohertz(speech: Samples) -> None:
    frequency = np.fft.rfftfreq(len(speech), 1 / RATE)
    names: list[CodecName] = ["telephone", "amr"]
    for name in names:
        coded = draw_codec(np.random.default_rng(0), name)(speech, RATE)
        power = np.abs(np.fft.rfft(coded)) ** 2
        assert power[frequency > 4200].sum() < 1e-4 * power.sum()


def test_the_mu_law_rounds_to_255_steps_that_grow_with_the_level() -> None:
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    steps = np.unique(mu_law(values))
    assert len(steps) == 255
    for value in (0.0, 0.001, -0.02, 0.3, 1.0):
        rounded = round(127 * np.sign(value) * np.log(1 + 255 * abs(value)) / np.log(256)) / 127
        expected = np.sign(rounded) * (256 ** abs(rounded) - 1) / 255
        assert float(mu_law(np.array([value], dtype=np.float32))[0]) == pytest.approx(expected, abs=1e-6)


def test_a_missing_codec_is_told(monkeypatch: pytest.MonkeyPatch, example_corpus: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    check_codecs(["telephone"])
    with pytest.raises(UnmingleError, match=r"codec opus needs PyAV .*unmingle\[media\]"):
        _mixer(example_corpus, None, recorder={"codec": 0.1})


def test_a_level_jumps_once_and_never_up_beyond_what_was() -> None:
    for seed in range(10):
        gains = level_jump(np.random.default_rng(seed), RATE, 12.0, RATE)
        assert gains.max() == 1.0
        assert 10 ** (-12 / 20) <= gains.min() < 1
        assert {gains[0], gains[-1]} == {gains.min(), gains.max()}
        assert len(set(np.sign(np.diff(gains))) - {0.0}) == 1


def test_device_noise_is_steady_and_half_of_it_hums() -> None:
    hums = []
    for seed in range(30):
        noise = device_noise(np.random.default_rng(seed), 4 * RATE, RATE)
        assert noise_level(noise) == pytest.approx(1.0, rel=1e-3)
        levels = [noise_level(part) for part in np.split(noise, 16)]
        assert max(levels) < 1.2 * min(levels)
        spectrum = np.abs(np.fft.rfft(noise)) ** 2
        peaks = np.argsort(spectrum)[-3:] / 4
        hums.append(all(min(p % 50, -p % 50, p % 60, -p % 60) <= 0.25 for p in peaks) and peaks.max() < 800)
    assert 8 <= sum(hums) <= 22


def test_what_a_recorder_keeps_of_speech_alone_is_the_target(speech: Samples) -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    gains = level_jump(np.random.default_rng(1), len(speech), 12.0, RATE)
    recorder = Recorder(gains, 0.2, Codec("telephone", 64000))
    ((source,), rest) = recorder.record(speech[None], noise, RATE)
    np.testing.assert_array_equal(source, recorder(speech, RATE))
    np.testing.assert_allclose(source + rest, recorder(speech + noise, RATE), atol=1e-6)
    # Clean speech has nothing beside it, whatever became of it.
    assert np.abs(recorder.record(speech[None], np.zeros_like(speech), RATE)[1]).max() < 1e-6
    clipped = Recorder(None, 0.2, None)(speech, RATE)
    assert np.abs(clipped).max() == np.float32(0.2)
    assert draw_recorder(np.random.default_rng(0), RecorderConfig(), speech, RATE) is None


def test_clipping_is_as_deep_as_was_drawn(speech: Samples) -> None:
    config = RecorderConfig(clipping=1.0, clipped_db=(6.0, 6.0))
    recorder = draw_recorder(np.random.default_rng(0), config, speech, RATE)
    assert recorder is not None
    assert recorder.limit == pytest.approx(0.5 * 10 ** (-6 / 20), rel=1e-3)


def test_crops_are_recorded_and_test_lists_are_not(example_corpus: Path, example_noise: Path) -> None:
    changes: dict[str, object] = {"noise": {"snr_levels": [5.0]}}
    recorder = {"device_noise": 1.0, "device_snr": [5, 5], "level_jump": 0.5, "clipping": 0.5, "codec": 0.5}
    plain = _mixer(example_corpus, example_noise, **changes)
    mixer = _mixer(example_corpus, example_noise, recorder=recorder | {"codecs": ["telephone"]}, **changes)
    changed = 0
    for k in range(12):
        before, after = plain.example(k, RATE), mixer.example(k, RATE)
        assert after.noise_name == f"{before.noise_name} + device"
        # Two noises of 5 dB each.
        assert after.snr == pytest.approx((before.snr or 0.0) - 3.0, abs=0.6)
        changed += not np.allclose(
            after.sources[0] / np.abs(after.sources).max(),
            before.sources[0] / np.abs(before.sources).max(),
            atol=1e-3,
        )
        np.testing.assert_array_equal(after.mixture, mixer.example(k, RATE).mixture)
    assert 6 <= changed < 12
    for k in range(3):
        whole = mixer.whole(k, "min")
        np.testing.assert_array_equal(mixer.realize(k, whole).mixture, plain.realize(k, whole).mixture)


def test_device_noise_alone_is_noise_with_its_snr(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, None, recorder={"device_noise": 1.0, "device_snr": [30, 30]})
    for k in range(3):
        example = mixer.example(k, RATE)
        assert example.noise is not None
        assert example.snr == pytest.approx(30.0, abs=0.1)
        level = active_level(example.sources.sum(axis=0), RATE)
        assert 20 * np.log10(level / noise_level(example.noise)) == pytest.approx(30.0, abs=0.2)


def test_bad_recorders_are_refused() -> None:
    for values in ({"device_snr": [30, 20]}, {"clipped_db": [-1, 3]}, {"codecs": ["gsm"]}, {"codec": 2}):
        with pytest.raises(ValidationError):
            RecorderConfig.model_validate(values)
