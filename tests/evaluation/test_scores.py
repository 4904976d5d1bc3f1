"""Scores of one mixture: their values, the order of estimates, and cells without a value."""

from __future__ import annotations

import numpy as np
import pytest

from unmingle.audio import Samples
from unmingle.evaluation.metric_registry import available_metrics
from unmingle.evaluation.scores import fit_estimates, score_mixture, why_undefined


def test_scores_agree_with_the_field_s_packages(example_sources: Samples) -> None:
    mir_eval = pytest.importorskip("mir_eval", reason="mir_eval is not installed")
    generator = np.random.default_rng(0)
    references = example_sources[:, 16000:48000]
    estimates = references + 0.02 * generator.standard_normal(references.shape).astype(np.float32)
    scores = score_mixture(references.sum(axis=0), references, estimates[::-1], 16000, ["si_sdr", "sdr"])
    sdr, _, _, _ = mir_eval.separation.bss_eval_sources(references, estimates, compute_permutation=False)
    np.testing.assert_allclose(scores["sdr"], sdr, atol=1e-3)
    for estimate, reference, value in zip(estimates, references, scores["si_sdr"], strict=True):
        estimate, reference = estimate - estimate.mean(), reference - reference.mean()
        target = (estimate @ reference) / (reference @ reference) * reference
        expected = 10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target)))
        assert value == pytest.approx(expected, abs=1e-3)


def test_bss_eval_agrees_with_mir_eval(example_sources: Samples) -> None:
    mir_eval = pytest.importorskip("mir_eval", reason="mir_eval is not installed")
    references = example_sources[:, 16000:40000]
    noise = 0.02 * np.random.default_rng(0).standard_normal(references.shape)
    estimates = (references + 0.3 * references[::-1] + noise).astype(np.float32)
    scores = score_mixture(references.sum(axis=0), references, estimates, 16000, ["sdr", "sir", "sar"])
    expected = mir_eval.separation.bss_eval_sources(references, estimates, compute_permutation=False)
    for name, values in zip(("sdr", "sir", "sar"), expected[:3], strict=True):
        np.testing.assert_allclose(scores[name], values, atol=1e-3)


def test_the_mixture_has_no_improvement_and_the_references_are_perfect(example_sources: Samples) -> None:
    mixture = example_sources.sum(axis=0)
    unchanged = score_mixture(
        mixture, example_sources, np.stack([mixture, mixture]), 16000, ["si_sdr", "sdr", "stoi"]
    )
    for metric in ("si_sdr", "sdr", "stoi"):
        np.testing.assert_allclose(unchanged[f"{metric}_improvement"], 0, atol=1e-6)
    perfect = score_mixture(
        mixture, example_sources, example_sources[::-1], 16000, ["si_sdr", "pesq", "stoi"]
    )
    assert min(perfect["si_sdr"]) > 90  # type: ignore[type-var]
    assert min(perfect["pesq"]) > 4.5  # type: ignore[type-var]
    assert min(perfect["stoi"]) > 0.999  # type: ignore[type-var]


def test_the_order_of_estimates_does_not_matter(example_sources: Samples) -> None:
    mixture = example_sources.sum(axis=0)
    estimates = example_sources + 0.1 * mixture
    metrics = ["si_sdr", "sdr", "sir", "sar"]
    straight = score_mixture(mixture, example_sources, estimates, 16000, metrics)
    assert score_mixture(mixture, example_sources, estimates[::-1], 16000, metrics) == straight


def test_gain_and_offset_of_an_estimate(example_sources: Samples) -> None:
    mixture = example_sources.sum(axis=0)
    estimates = example_sources + 0.2 * example_sources[::-1]
    plain = score_mixture(mixture, example_sources, estimates, 16000, ["si_sdr", "sdr", "magnitude_snr"])
    louder = score_mixture(mixture, example_sources, 5 * estimates, 16000, ["si_sdr", "sdr", "magnitude_snr"])
    for name in ("si_sdr", "sdr"):
        np.testing.assert_allclose(louder[name], plain[name], atol=1e-3)
    assert max(louder["magnitude_snr"]) < 0  # type: ignore[type-var] # Here the level counts.
    moved = score_mixture(mixture, example_sources, estimates + 0.05, 16000, ["si_sdr"])
    np.testing.assert_allclose(moved["si_sdr"], plain["si_sdr"], atol=1e-3)


def test_a_wrong_number_of_estimates(example_sources: Samples) -> None:
    mixture = example_sources.sum(axis=0)
    noise = np.random.default_rng(0).standard_normal(mixture.shape).astype(np.float32)
    three = np.stack([noise, example_sources[1], example_sources[0]])
    assert min(score_mixture(mixture, example_sources, three, 16000, ["si_sdr"])["si_sdr"]) > 90  # type: ignore[type-var]
    one = score_mixture(mixture, example_sources, example_sources[1:], 16000, ["si_sdr", "sdr", "sir"])
    assert one["si_sdr"][0] == -100
    assert one["sdr"][0] == one["sir"][0] == -100
    assert one["si_sdr"][1] is not None
    assert one["si_sdr"][1] > 90
    none = score_mixture(mixture, example_sources, example_sources[:0], 16000, ["si_sdr"])
    assert none["si_sdr"] == [-100, -100]


def test_with_one_estimate_for_two_speakers_the_other_is_silence(example_sources: Samples) -> None:
    references = example_sources[:, 16000:48000]
    scores = score_mixture(references.sum(axis=0), references, references[1:], 16000, ["si_sdr"])
    assert scores["si_sdr"][0] == -100.0
    assert scores["si_sdr"][1] > 90  # type: ignore[operator]
    many = np.stack([references[1], 0.1 * references[0], references.sum(axis=0)])
    scores = score_mixture(references.sum(axis=0), references, many, 16000, ["si_sdr"])
    assert min(scores["si_sdr"]) > 90  # type: ignore[type-var]


def test_a_mixture_that_is_its_reference_has_no_improvement(example_sources: Samples) -> None:
    clean, estimate = example_sources[:1], example_sources[:1] + 0.01 * example_sources[1:2]
    scores = score_mixture(clean[0], clean, estimate, 8000, ["si_sdr", "stoi"])
    assert scores["si_sdr"][0] is not None
    assert scores["si_sdr_improvement"] == scores["stoi_improvement"] == [None]


def test_many_estimates_are_fitted_at_once() -> None:
    references = np.random.default_rng(0).standard_normal((16, 800)).astype(np.float32)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(fit_estimates(references[order], references), references)
    np.testing.assert_array_equal(fit_estimates(references[order], references[:3]), references[:3])


def test_a_silent_reference_has_no_scores(example_sources: Samples) -> None:
    references = np.stack([example_sources[0], 0 * example_sources[0]])
    scores = score_mixture(references[0], references, references, 16000, ["si_sdr", "sdr", "pesq", "stoi"])
    for metric in ("si_sdr", "sdr", "pesq", "stoi"):
        assert scores[metric][0] is not None
        assert scores[metric][1] is None
        assert scores[f"{metric}_improvement"][1] is None
    silent_estimate = score_mixture(
        example_sources.sum(axis=0),
        example_sources,
        0 * example_sources,
        16000,
        ["si_sdr", "sdr", "pesq", "stoi"],
    )
    assert silent_estimate["si_sdr"] == [-100.0, -100.0]
    assert all(value is None or np.isfinite(value) for values in silent_estimate.values() for value in values)


def test_an_empty_cell_has_a_reason(example_sources: Samples) -> None:
    references = np.stack([example_sources[0], 0 * example_sources[0]])

    def reasons(sources: Samples, rate: int, *metrics: str) -> tuple[str, ...]:
        scores = score_mixture(sources.sum(axis=0), sources, sources, rate, metrics)
        return why_undefined(scores, sources, rate)

    assert reasons(references, 16000, "si_sdr", "pesq") == ("a silent reference",)
    assert reasons(example_sources, 16000, "si_sdr", "pesq", "stoi", "dnsmos") == ()
    assert reasons(example_sources, 44100, "pesq")[0].startswith("no PESQ at 44100 Hz")
    assert reasons(example_sources, 8000, "dnsmos")[0].startswith("no DNSMOS at 8000 Hz")
    assert reasons(example_sources[:1], 16000, "sir") == ("no SIR: there is one source",)
    assert reasons(example_sources[:, :300], 16000, "stoi")[0].startswith("no STOI")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_sample_is_an_error(example_sources: Samples, value: float) -> None:
    estimates = example_sources.copy()
    estimates[0, 100] = value
    with pytest.raises(ValueError, match="not finite"):
        score_mixture(example_sources.sum(axis=0), example_sources, estimates, 16000, ["si_sdr"])


def test_no_metric_is_ever_nan(example_sources: Samples) -> None:
    short = example_sources[:, 20000:20400]
    metrics = [name for name in available_metrics() if name != "dnsmos"]  # Slow, and it needs no reference.
    for references in (short, 0 * short, np.ones_like(short), example_sources[:, :16000]):
        for estimates in (references, 0 * references, np.ones_like(references)):
            scores = score_mixture(references.sum(axis=0), references, estimates, 16000, metrics)
            for values in scores.values():
                assert all(value is None or np.isfinite(value) for value in values)
