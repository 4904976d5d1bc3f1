"""Noise: what is drawn, how loud it is, and that the same seed gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unmingle.audio import Samples, active_level
from unmingle.data.batches import as_batch
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import SYNTHETIC, NoiseConfig, NoiseMaker, looped, noise_level
from unmingle.data.synthetic_noise import shaped_noise
from unmingle.errors import UnmingleError

RATE = 8000


def _maker(corpus: Path, noise: Path, **changes: Any) -> NoiseMaker:
    recordings = read_noise([noise], "train")
    speech = decode(read_corpora([corpus], "train"), RATE)
    return NoiseMaker(recordings, decode(recordings, RATE), speech, RATE, NoiseConfig.model_validate(changes))


def _mixer(corpus: Path, noise: Path, seed: int = 0, **changes: Any) -> Mixer:
    utterances, maker = read_corpora([corpus], "train"), _maker(corpus, noise, **changes)
    config = MixingConfig(speakers=1, noise=maker.config)
    return Mixer(utterances, decode(utterances, RATE), RATE, config, seed, maker)


def test_the_speakers_active_level_over_the_noise_is_what_was_drawn(
    example_corpus: Path, example_noise: Path
) -> None:
    mixer = _mixer(example_corpus, example_noise, snr_levels=[-5.0, 10.0])
    drawn = set()
    for k in range(12):
        example = mixer.example(k, 2 * RATE)
        assert example.noise is not None
        snr = 20 * np.log10(active_level(example.sources[0], RATE) / noise_level(example.noise))
        assert snr == pytest.approx(example.snr, abs=0.1)
        np.testing.assert_allclose(example.mixture, example.sources[0] + example.noise, atol=1e-7)
        assert np.abs(example.mixture).max() <= 0.951
        drawn.add(round(example.snr or 0.0))
    assert drawn == {-5, 10}


def test_the_spread_fills_the_range_between_the_levels(example_corpus: Path, example_noise: Path) -> None:
    mixer = _mixer(example_corpus, example_noise, snr_levels=[0.0], snr_spread=5.0)
    snrs = np.array([mixer.example(k, 4000).snr for k in range(60)])
    assert snrs.min() < -3
    assert snrs.max() > 3
    assert np.abs(snrs).max() <= 5


def test_noise_k_is_a_pure_function_of_seed_and_k_and_leaves_the_speech_alone(
    example_corpus: Path, example_noise: Path
) -> None:
    weights = {"noise": 1.0, **dict.fromkeys(SYNTHETIC, 1.0)}
    changes: dict[str, object] = {
        "weights": weights,
        "speed": (0.5, 2.0),
        "reverse": True,
        "filter_db": 10.0,
        "room": 0.5,
    }
    first = _mixer(example_corpus, example_noise, **changes)
    second = _mixer(example_corpus, example_noise, **changes)
    kinds = set()
    for k in reversed(range(60)):
        one, other = first.example(k, 4000), second.example(k, 4000)
        np.testing.assert_array_equal(one.mixture, other.mixture)
        kinds.add(one.noise_name.split("/")[0])
    assert kinds == {"noise", *SYNTHETIC}
    quiet = _mixer(example_corpus, example_noise, snr_levels=[60.0])
    speech = Mixer(
        read_corpora([example_corpus], "train"),
        decode(read_corpora([example_corpus], "train"), RATE),
        RATE,
        MixingConfig(speakers=1),
        0,
    )
    np.testing.assert_allclose(quiet.example(3, 4000).sources, speech.example(3, 4000).sources, rtol=1e-6)


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_synthetic_noise_has_level_one_and_the_wanted_length(
    kind: str, example_corpus: Path, example_noise: Path
) -> None:
    maker = _maker(example_corpus, example_noise, weights={kind: 1.0})
    for samples in (100, 4001):
        noise, name = maker.draw(np.random.default_rng(samples), samples)
        assert (noise.shape, noise.dtype, name) == ((samples,), np.float32, kind)
        assert noise_level(noise) == pytest.approx(1.0, rel=1e-3)


def test_two_noises_at_once_still_have_level_one(example_corpus: Path, example_noise: Path) -> None:
    maker = _maker(example_corpus, example_noise, second=1.0)
    noise, name = maker.draw(np.random.default_rng(0), 4000)
    assert noise_level(noise) == pytest.approx(1.0, rel=0.01)
    assert name.count("noise/") == 2


def test_a_gap_in_a_recording_is_not_raised_to_full_level(example_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "knocks"
    folder.mkdir()
    noise = np.zeros(10 * RATE, dtype=np.float32)
    noise[:400] = 0.5
    noise[400:] = 1e-4
    for name in ("a", "b", "c", "d", "e", "f"):
        soundfile.write(folder / f"{name}.wav", noise, RATE)
    maker = _maker(example_corpus, folder)
    levels = [noise_level(maker.draw(np.random.default_rng(k), 800)[0]) for k in range(10)]
    assert min(levels) < 0.1  # Crops of the gap stay quiet.
    reverberant = _mixer(example_corpus, folder, room=1.0)
    examples = [reverberant.example(k, 800) for k in range(10)]
    assert max(example.snr or 0.0 for example in examples) > 30  # And their SNR is told as it became.


def test_some_crops_hold_noise_alone_but_no_test_mixture_does(
    example_corpus: Path, example_noise: Path
) -> None:
    mixer = _mixer(example_corpus, example_noise, noise_only=0.5)
    batch = as_batch([mixer.example(k, 4000) for k in range(20)])
    silent = ~batch.active[:, 0]
    assert 3 < int(silent.sum()) < 17
    assert float(batch.sources[silent].abs().max()) == 0
    assert batch.snr is not None
    assert set(batch.snr[silent].tolist()) == {-100.0}
    assert float(batch.mixture[silent].abs().amax(dim=1).min()) > 0
    assert all(mixer.realize(k, mixer.whole(k, "min")).sources.any() for k in range(8))


def test_a_short_recording_is_looped_without_a_step() -> None:
    time = np.arange(1000) / 1000
    ramp = np.sin(2 * np.pi * 1.25 * time).astype(np.float32)  # Ends far from where it begins.
    repeated = looped(ramp, 5000, 50)
    assert len(repeated) == 5000
    assert np.abs(np.diff(repeated)).max() < 0.05
    np.testing.assert_array_equal(looped(ramp, 500, 50), ramp)


def test_recordings_shorter_than_the_mixture_have_no_step_wherever_they_begin(
    example_corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hum"
    folder.mkdir()
    time = np.arange(RATE) / RATE
    for name in ("a", "b", "c", "d", "e", "f"):
        soundfile.write(folder / f"{name}.wav", 0.5 * np.sin(2 * np.pi * 50.5 * time), RATE, subtype="FLOAT")
    maker = _maker(example_corpus, folder)
    for k in range(8):
        noise, _ = maker.draw(np.random.default_rng(k), 3 * RATE)
        assert np.abs(np.diff(noise)).max() < 3 * 2 * np.pi * 50.5 / RATE


def test_a_corpus_that_is_left_out_is_not_crossed_with_another_either(
    example_corpus: Path, tmp_path: Path
) -> None:
    time = np.arange(RATE) / RATE
    lines = ["path,corpus,class,split,license"]
    for corpus, pitch in (("free", 300.0), ("closed", 3000.0)):
        for name in ("a", "b", "c"):
            lines.append(f"{corpus}_{name}.wav,{corpus},tone,train,any")
            soundfile.write(tmp_path / f"{corpus}_{name}.wav", 0.5 * np.sin(2 * np.pi * pitch * time), RATE)
    (tmp_path / "noise.csv").write_text("\n".join(lines) + "\n")

    def high(weights: dict[str, float]) -> float:
        maker = _maker(example_corpus, tmp_path, weights=weights)
        noises = [maker.draw(np.random.default_rng(k), RATE)[0] for k in range(12)]
        return float(np.mean([np.abs(np.fft.rfft(noise))[2000:].max() for noise in noises]))

    assert high({"free": 1e-9, "crossed": 1.0}) < 0.1 * high({"free": 1e-9, "closed": 1e-9, "crossed": 1.0})
    assert high({"crossed": 1.0}) > 0.1  # No corpus is named: all are meant.


def test_shaped_noise_falls_with_frequency_and_differs_each_time() -> None:
    def power(samples: Samples) -> tuple[float, float]:
        spectrum = np.abs(np.fft.rfft(samples)) ** 2
        half = len(spectrum) // 8
        return float(spectrum[1:half].mean()), float(spectrum[-half:].mean())

    low, high = np.mean(
        [power(shaped_noise(np.random.default_rng(k), 8000, RATE)) for k in range(10)], axis=0
    )
    assert low > 2 * high


def test_bad_noise_is_told(example_corpus: Path, example_noise: Path, tmp_path: Path) -> None:
    with pytest.raises(UnmingleError, match=r"name thunder; there is noise, babble"):
        _mixer(example_corpus, example_noise, weights={"thunder": 1.0})
    with pytest.raises(UnmingleError, match="leave no noise"):
        _mixer(example_corpus, example_noise, weights={"noise": 0.0})
    _mixer(example_corpus, example_noise, weights={"noise": 1.0, "thunder": 0.0})  # Which need not be there.
    with pytest.raises(UnmingleError, match="does not exist"):
        read_noise([tmp_path / "nowhere"])
    with pytest.raises(UnmingleError, match=r"no noise in .*noise\.csv"):
        read_noise([example_corpus.parent])
    # Speech is never taken for noise because nobody named any.
    with pytest.raises(UnmingleError, match="give noise with --noise"):
        read_noise([example_noise, example_corpus], beside_speech=True)
    (tmp_path / "noise.csv").write_text("path,split\na.wav,train\n")
    with pytest.raises(UnmingleError, match="lacks the column class"):
        read_noise([tmp_path])


def test_a_manifest_of_noise_names_corpora_and_splits(tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_text(
        "path,corpus,class,split,license\nn/a.wav,one,rain,train,CC0\nn/b.wav,two,dog,test,CC BY\n"
    )
    (rain,) = read_noise([tmp_path], "train")
    assert (rain.corpus, rain.speaker, rain.license) == ("one", "rain", "CC0")
    assert len(read_noise([tmp_path])) == 2


def test_only_a_share_of_the_crops_gets_noise_and_the_speech_stays_the_same(
    example_corpus: Path, example_noise: Path
) -> None:
    some = _mixer(example_corpus, example_noise, share=0.3)
    every = _mixer(example_corpus, example_noise)
    noisy = []
    for index in range(60):
        example = some.example(index, 2000)
        noisy.append(example.noise is not None)
        assert (example.snr is None) == (example.noise is None)
        if example.noise is None:
            silent = every.render(every.crop(index, 2000))
            np.testing.assert_array_equal(example.mixture, silent.sum(axis=0))
    assert 8 <= sum(noisy) <= 29
    # A test list has noise in every mixture.
    assert all(some.realize(index, some.crop(index, 2000)).noise is not None for index in range(10))


def test_by_class_a_class_of_one_recording_is_heard_as_often_as_one_of_five(
    example_corpus: Path, tmp_path: Path
) -> None:
    rng, lines = np.random.default_rng(0), ["path,corpus,class,split"]
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(RATE), RATE)
        lines.append(f"{number}.wav,sounds,{'bell' if number == 0 else 'rain'},train")
    (tmp_path / "noise.csv").write_text("\n".join(lines) + "\n")
    for by_class, low, high in ((False, 5, 30), (True, 38, 62)):
        maker = _maker(example_corpus, tmp_path, by_class=by_class)
        names = [maker.draw(np.random.default_rng(k), 100)[1] for k in range(100)]
        assert low < names.count("sounds/0") < high


def test_babble_is_made_of_the_utterances_that_are_named(example_corpus: Path, example_noise: Path) -> None:
    recordings, utterances = read_noise([example_noise], "train"), read_corpora([example_corpus], "train")
    speech, noise = decode(utterances, RATE), decode(recordings, RATE)
    config = NoiseConfig(weights={"babble": 1.0})
    read: list[int] = []

    class Listening:
        def __len__(self) -> int:
            return len(speech)

        def read(self, index: int, start: int, length: int) -> Samples:
            read.append(index)
            return speech.read(index, start, length)

        def __getattr__(self, name: str) -> Any:
            return getattr(speech, name)

    maker = NoiseMaker(recordings, noise, Listening(), RATE, config, [1])  # type: ignore[arg-type]
    for k in range(5):
        maker.draw(np.random.default_rng(k), 2000)
    assert set(read) == {1}
