"""Stress tests: their cases, their scores, and the page."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import addresses_of_whole_page
from unmingle.audio import Samples, active_level
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.stress import measure, measure_single_speaker, pick_tests, stress, windowed_scores
from unmingle.evaluation.stress_cases import BURST_DB, BURST_SECONDS, Case, Material
from unmingle.evaluation.stress_page import stress_page
from unmingle.evaluation.stress_tests import STRESS_TESTS, StressTest
from unmingle.metrics import si_sdr
from unmingle.shares import Share

RATE = 8000


@pytest.fixture
def material(crowd_corpus: Path, example_noise: Path) -> Material:
    utterances, recordings = read_corpora([crowd_corpus], "test"), read_noise([example_noise], "test")
    speech, noise = decode(utterances, RATE), decode(recordings, RATE)
    return Material(utterances, speech, RATE, 0, recordings, noise)


def _test(name: str) -> StressTest:
    return next(test for test in STRESS_TESTS if test.name == name)


def _cases(material: Material, name: str, index: int = 0) -> dict[str, Case]:
    return {each.label: each.make(material, index) for each in _test(name).conditions(material)}


@pytest.mark.parametrize(
    "test", [test for test in STRESS_TESTS if test.name != "voice"], ids=lambda test: test.name
)
def test_every_case_is_a_mixture_of_its_references_and_repeats(material: Material, test: StressTest) -> None:
    for condition in test.conditions(material)[:3]:
        case, again = condition.make(material, 1), condition.make(material, 1)
        np.testing.assert_array_equal(case.mixture, again.mixture)
        assert case.mixture.shape == case.references.shape[1:]
        assert np.isfinite(case.mixture).all()
        if test.name not in ("noise", "burst", "codecs", "single_speaker", "gain"):
            np.testing.assert_allclose(case.references.sum(axis=0), case.mixture, atol=1e-4)
        assert not np.array_equal(case.mixture, condition.make(material, 2).mixture)


def test_both_speakers_are_of_the_named_corpus(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus that a mixer is not told about has the weight 1, so the others must have 0."""
    own = [
        replace(utterance, corpus=f"corpus{number % 2}", speaker=str(number // 2 % 3))
        for number, utterance in enumerate(material.utterances)
    ]
    material = replace(material, utterances=own)
    drawn: list[dict[str, float]] = []

    def draw(_: Material, **config: Any) -> None:
        drawn.append(config["corpus_weights"])

    monkeypatch.setattr(Material, "mixer", draw)
    for condition in _test("corpora").conditions(material):
        with pytest.raises(AttributeError):
            condition.make(material, 0)
    assert drawn == [{"corpus0": 1.0, "corpus1": 0.0}, {"corpus0": 0.0, "corpus1": 1.0}]


def test_conditions_differ_only_in_the_named_property(material: Material) -> None:
    gains = _cases(material, "gain")
    plain = gains["+0 dB"].mixture
    np.testing.assert_allclose(gains["+20 dB"].mixture, np.clip(10 * plain, -1, 1), atol=4e-4)
    assert np.abs(gains["+20 dB"].mixture).max() <= 1  # Clipped, as in a 16-bit file.
    np.testing.assert_allclose(gains["-40 dB"].mixture, 0.01 * plain, atol=2e-5)
    np.testing.assert_allclose(
        gains["-40 dB"].references, 0.01 * gains["+0 dB"].references, rtol=1e-4, atol=1e-9
    )
    for label, case in _cases(material, "length").items():
        assert len(case.mixture) == float(label.removesuffix(" s")) * RATE
    for label, case in _cases(material, "snr").items():
        # The SNR is that of whole utterances; in a short excerpt it differs by some decibels.
        levels = [active_level(reference, RATE) for reference in case.references]
        assert 20 * np.log10(levels[0] / levels[1]) == pytest.approx(float(label.removesuffix(" dB")), abs=4)
    for label, case in _cases(material, "rates").items():
        assert case.sample_rate == float(label.removesuffix(" Hz"))
        assert len(case.mixture) == pytest.approx(9 * case.sample_rate, abs=2)
    assert len(_cases(material, "three")["three speakers"].references) == 3
    assert len(_cases(material, "single_speaker")["one speaker"].references) == 1


def test_the_burst_is_short_loud_and_in_the_middle(material: Material) -> None:
    cases = _cases(material, "burst")
    burst = cases["with"].mixture - cases["without"].mixture
    there = np.flatnonzero(burst)
    assert there[-1] - there[0] + 1 == pytest.approx(BURST_SECONDS * RATE, abs=2)
    assert (there[0] + there[-1]) / 2 == pytest.approx(len(burst) / 2, abs=2)
    over = np.sqrt(np.square(burst[there]).mean()) / active_level(cases["without"].mixture, RATE)
    assert 20 * np.log10(over) == pytest.approx(BURST_DB, abs=0.5)
    np.testing.assert_array_equal(cases["with"].references, cases["without"].references)


def test_codecs_change_the_sound_but_not_its_timing(material: Material) -> None:
    import torch

    cases = _cases(material, "codecs")
    for label in ("MP3", "Opus"):
        alike = si_sdr(torch.from_numpy(cases[label].mixture), torch.from_numpy(cases["none"].mixture))
        assert 3 < float(alike) < 80, label
    telephone = cases["telephone"]
    spectrum = np.abs(np.fft.rfft(telephone.references[0]))
    frequency = np.fft.rfftfreq(telephone.references.shape[1], 1 / telephone.sample_rate)
    inside = (frequency > 300) & (frequency < 3400)
    assert spectrum[~inside].max() < 0.3 * spectrum[inside].max()
    sum_of_references = torch.from_numpy(telephone.references.sum(axis=0))
    assert float(si_sdr(torch.from_numpy(telephone.mixture), sum_of_references)) > 20


def test_the_same_voice_twice_comes_from_one_speaker(example_corpus: Path) -> None:
    utterances = read_corpora([example_corpus], "test")
    material = Material(utterances, decode(utterances, RATE), RATE, 0)
    for index in range(4):
        case = _cases(material, "voice", index)["one voice twice"]
        assert len(case.references) == 2
        assert not np.allclose(case.references[0], case.references[1])
        found = []
        for reference in case.references:
            # Find the speaker of the utterance.
            for number, utterance in enumerate(utterances):
                heard = material.speech.read(number, 0, material.speech.length(number))[: reference.size]
                alike = np.corrcoef(heard, reference[: len(heard)])[0, 1] if heard.std() > 0 else 0.0
                if alike > 0.999:
                    found.append(utterance.speaker)
        assert len(found) == 2
        assert found[0] == found[1]


def test_windows_with_a_silent_speaker_have_no_score(example_sources: Samples) -> None:
    references = example_sources[:, : 6 * 16000].copy()
    references[0, : 3 * 16000 + 100] = 0
    curve = windowed_scores(references + 0.1 * references[::-1], references, 16000)
    assert curve[0] == (0.0, None)
    assert curve[-1][0] == 3.0
    # The windows' mean over speakers, by the definition.
    part = references[:, -3 * 16000 :] - references[:, -3 * 16000 :].mean(axis=1, keepdims=True)
    values = []
    for own, other in ((part[0], part[1]), (part[1], part[0])):
        heard = own + 0.1 * other
        target = (heard @ own) / (own @ own) * own
        values.append(10 * np.log10((target @ target) / ((heard - target) @ (heard - target))))
    assert curve[-1][1] == pytest.approx(np.mean(values), abs=1e-3)


def test_a_single_speaker_is_scored_by_si_sdr_and_leakage(example_sources: Samples) -> None:
    voice = example_sources[:1]
    case = Case(voice[0], voice, 16000)
    noise = np.random.default_rng(0).standard_normal(voice.shape).astype(np.float32)
    noise *= np.sqrt(np.square(voice).mean() / np.square(noise).mean())
    found = measure_single_speaker(case, np.concatenate([0.01 * noise, voice + 0.1 * noise]))
    assert found["value"] == pytest.approx(20, abs=0.3)
    assert found["leak_db"] == pytest.approx(-40, abs=0.3)
    assert measure_single_speaker(case, np.concatenate([voice, 0 * voice]))["leak_db"] == -60


def test_of_three_speakers_the_two_that_fit_best_are_scored(example_sources: Samples) -> None:
    third = np.roll(example_sources[0], 20000)
    references = np.stack([example_sources[0], third, example_sources[1]])
    case = Case(references.sum(axis=0), references, 16000)
    found = measure(_test("three"), case, example_sources[::-1] + 0.001 * third)
    assert found["value"] > 40


def test_the_command_writes_a_self_contained_page(
    run,  # type: ignore[no-untyped-def]
    crowd_corpus: Path,
    example_noise: Path,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    arguments = ["stress", crowd_corpus, "--model", tiny_model, "--split", "test", "--count", 1, "-o", "out"]
    arguments += [
        part for name in ("burst", "noise", "snr", "single_speaker", "codecs") for part in ("--test", name)
    ]
    done = run(*arguments, "--noise", example_noise)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "stress.json").read_text())
    assert [test["name"] for test in found["tests"]] == ["burst", "snr", "noise", "single_speaker", "codecs"]
    assert all("mean" in point for test in found["tests"] for point in test["conditions"])
    addresses = addresses_of_whole_page(tmp_path / "out" / "stress.html")
    page = (tmp_path / "out" / "stress.html").read_text(encoding="utf-8")
    assert page.count("spectrograms of one case") == 1  # Of the burst (Mobin et al. 2018, Fig. 7).
    assert sum(address.startswith("data:image/png") for address in addresses) == 5
    again = run(*arguments, "--noise", example_noise, "-o", "again", "--processes", 2)
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again" / "stress.json").read_text()) == found


def test_failures_are_distinguished_from_low_scores(crowd_corpus: Path, tmp_path: Path) -> None:
    broken = CandidateConfig(command=f"{sys.executable} -c 'raise SystemExit(3)' {{mixture}} {{outdir}}")
    found = stress([str(crowd_corpus)], broken, tmp_path / "out", tests=["three"], count=2, split="test")
    (point,) = found["tests"][0]["conditions"]
    assert point["failures"] == ["exit code 3", "exit code 3"]
    assert "mean" not in point
    assert "exit code 3" in (tmp_path / "out" / "stress.html").read_text()


def test_tests_that_cannot_be_run_are_refused_or_left_out(
    crowd_corpus: Path, example_corpus: Path, material: Material, tmp_path: Path
) -> None:
    with pytest.raises(UnmingleError, match="choose from length, burst"):
        pick_tests(["speed"], material)
    assert pick_tests(["noise"], material)[1] == {}
    utterances = read_corpora([example_corpus], "test")
    two = Material(utterances, decode(utterances, RATE), RATE, 0)
    with pytest.raises(UnmingleError, match="--noise"):
        pick_tests(["noise"], two)
    places, left_out = pick_tests([], two)
    assert set(left_out) == {"noise", "three"}
    assert len(places) == len(STRESS_TESTS) - 2
    assert "voice" in pick_tests([], material)[1]  # Everybody speaks once.
    found = stress(
        [str(crowd_corpus)],
        CandidateConfig(mixture=True),
        tmp_path,
        tests=["single_speaker"],
        split="test",
        count=1,
    )
    assert found["left_out"] == {}
    assert "Left out: three, it needs three speakers." in stress_page(found | {"left_out": left_out})


@pytest.mark.parametrize("rate", [6000, 22050, 44100])
def test_codecs_at_unsupported_rates(crowd_corpus: Path, rate: int) -> None:
    utterances = read_corpora([crowd_corpus], "test")
    material = Material(utterances, decode(utterances, rate), rate, 0)
    for label, case in _cases(material, "codecs").items():
        alike = np.corrcoef(case.mixture, case.references.sum(axis=0))[0, 1]
        assert alike > 0.8, label


def test_shares_write_the_bytes_of_one_run(tiny_model: Path, crowd_corpus: Path, tmp_path: Path) -> None:
    config, tests = CandidateConfig(model=str(tiny_model)), ["burst", "single_speaker", "three"]
    options = {"tests": tests, "count": 2, "split": "test"}
    stress([str(crowd_corpus)], config, tmp_path / "whole", **options)
    shared = tmp_path / "shared"
    found = [stress([str(crowd_corpus)], config, shared, share=Share(i, 2), **options) for i in (2, 1)]
    assert not found[0]
    assert found[1]
    for name in ("stress.json", "stress.html"):
        assert (shared / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (shared / "parts").iterdir()}
    assert stress([str(crowd_corpus)], config, shared, share=Share(2, 2), **options)
    assert {path: path.stat().st_mtime_ns for path in (shared / "parts").iterdir()} == before
    with pytest.raises(UnmingleError, match="other options"):
        stress([str(crowd_corpus)], config, shared, share=Share(1, 2), **options | {"seed": 1})
