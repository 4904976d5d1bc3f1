from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from conftest import EXAMPLES
from unmingle.audio import Samples, resample
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.metric_registry import available_metrics
from unmingle.evaluation.processes import ordered_map
from unmingle.evaluation.scores import score_mixture, why_undefined
from unmingle.evaluation.summary import (
    Counting,
    MixtureScores,
    bootstrap_interval,
    speaker_interval,
    summarize,
)
from unmingle.models import load_system
from unmingle.shares import Share

FOLDER = EXAMPLES / "two_speakers"


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


def test_summary_counts_mixtures_made_worse_and_splits_by_group() -> None:
    gains = [(3.0, 1.0), (-2.0, 1.0), (5.0, None), (2.0, 2.0)]
    scores = [
        MixtureScores(
            str(k),
            1.0,
            {"genders": "same" if k < 2 else "different"},
            {"si_sdr": list(pair), "si_sdr_improvement": list(pair)},
        )
        for k, pair in enumerate(gains)
    ]
    summary = summarize(scores)
    assert summary["metrics"]["si_sdr_improvement"]["mean"] == pytest.approx((2.0 - 0.5 + 2.0) / 3)
    assert summary["metrics"]["si_sdr_improvement"]["count"] == 3
    assert summary["made_worse"]["mixtures"] == pytest.approx(1 / 3)
    assert summary["made_worse"]["speakers"] == pytest.approx(1 / 7)
    assert summary["groups"]["genders"]["same"]["metrics"]["si_sdr"]["mean"] == pytest.approx(0.75)


def test_bootstrap_interval_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values.tolist())
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.05)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.05)


def test_oracle_scores_are_written_with_their_settings(tmp_path: Path) -> None:
    summary = evaluate_folder(FOLDER, CandidateConfig(oracle="wfm"), tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["si_sdr_improvement"]["mean"] > 10
    assert {"list_sha256", "date", "version", "definitions", "real_time_factor", "threads"} <= set(summary)
    (row,) = csv.DictReader((tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines())
    assert float(row["si_sdr_improvement"]) == pytest.approx(
        summary["metrics"]["si_sdr_improvement"]["mean"], abs=1e-3
    )


def test_a_model_is_scored_raw_and_at_the_rate_of_the_references(tiny_model: Path, tmp_path: Path) -> None:
    summary = evaluate_folder(FOLDER, CandidateConfig(model=str(tiny_model)), tmp_path / "out")
    assert summary["mixtures"] == 1
    assert summary["rate"] == 8000
    assert len(summary["sha256"]) == 12


def test_the_order_of_estimates_does_not_matter(example_sources: Samples) -> None:
    mixture = example_sources.sum(axis=0)
    estimates = example_sources + 0.1 * mixture
    metrics = ["si_sdr", "sdr", "sir", "sar"]
    straight = score_mixture(mixture, example_sources, estimates, 16000, metrics)
    assert score_mixture(mixture, example_sources, estimates[::-1], 16000, metrics) == straight


def test_bss_eval_agrees_with_mir_eval(example_sources: Samples) -> None:
    mir_eval = pytest.importorskip("mir_eval", reason="mir_eval is not installed")
    references = example_sources[:, 16000:40000]
    noise = 0.02 * np.random.default_rng(0).standard_normal(references.shape)
    estimates = (references + 0.3 * references[::-1] + noise).astype(np.float32)
    scores = score_mixture(references.sum(axis=0), references, estimates, 16000, ["sdr", "sir", "sar"])
    expected = mir_eval.separation.bss_eval_sources(references, estimates, compute_permutation=False)
    for name, values in zip(("sdr", "sir", "sar"), expected[:3], strict=True):
        np.testing.assert_allclose(scores[name], values, atol=1e-3)


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


def test_the_interval_over_speakers_is_wider_with_few_speakers() -> None:
    rng = np.random.default_rng(0)
    of_speaker = dict(zip("abcdef", rng.normal(0, 3, 6), strict=True))
    pairs = [tuple(rng.choice(list("abcdef"), 2, replace=False)) for _ in range(300)]
    values = [of_speaker[a] + of_speaker[b] + rng.normal(0, 0.5) for a, b in pairs]
    narrow, wide = bootstrap_interval(values), speaker_interval(values, pairs)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    # If the same two speakers are in all mixtures, drawing speakers changes nothing: the mixtures' interval stays.
    assert speaker_interval(values, [("a", "b")] * 300) == narrow
    # If no speaker is in two mixtures, both intervals are the same.
    alone = rng.normal(1.0, 2.0, 300).tolist()
    assert speaker_interval(alone, [(f"{k}a", f"{k}b") for k in range(300)]) == bootstrap_interval(alone)


def test_processes_do_not_change_the_scores(example_corpus: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=6, seed=1)
    write_mixture_folder(tmp_path / "test", config)
    for processes in (1, 3):
        evaluate_folder(
            tmp_path / "test",
            CandidateConfig(model=str(tiny_model)),
            tmp_path / str(processes),
            metrics=["si_sdr", "sdr"],
            processes=processes,
        )
    assert (tmp_path / "1" / "scores.csv").read_text() == (tmp_path / "3" / "scores.csv").read_text()


def test_mixture_candidate_improves_by_zero(tmp_path: Path) -> None:
    metrics = evaluate_folder(FOLDER, CandidateConfig(mixture=True), tmp_path / "out")["metrics"]
    assert metrics["si_sdr_improvement"]["mean"] == pytest.approx(0)
    assert metrics["sdr_improvement"]["mean"] == pytest.approx(0)


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmingleError, match="no oracle"):
        CandidateConfig(oracle="psychic").build()
    for name in ("mix", "s1"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", np.zeros(100), 8000)
    with pytest.raises(UnmingleError, match="needs two sources, or one source and noise"):
        evaluate_folder(tmp_path, CandidateConfig(oracle="ibm"), tmp_path / "out")


def test_several_processes_with_several_threads_each(
    example_corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=4, seed=1)
    write_mixture_folder(tmp_path / "test", config)
    torch.ones(500, 500) @ torch.ones(500, 500)  # OpenMP runs in this process.
    candidate = CandidateConfig(model=str(tiny_model))
    summary = evaluate_folder(
        tmp_path / "test", candidate, tmp_path / "out", metrics=["si_sdr"], processes=2, threads=2
    )
    assert summary["metrics"]["si_sdr"]["count"] == 4


def test_a_killed_worker_raises_a_one_sentence_error() -> None:
    with (
        pytest.raises(UnmingleError, match="worker process was killed"),
        ordered_map(_end_myself, [1, 2, 3], 2, None) as results,
    ):
        list(results)


def _end_myself(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _counting_folder(folder: Path, sources: Samples) -> Path:
    """A mixture of three speakers, three of two without ``s3``, and one whose ``s3`` is silent."""
    rng = np.random.default_rng(0)
    third = 0.05 * rng.standard_normal(16000).astype(np.float32)
    for k in range(5):
        parts = [*sources[:, 20000 + 4000 * k : 36000 + 4000 * k]]
        parts += [third] if k == 0 else [0 * third] if k == 4 else []
        for place, samples in {
            "mix": sum(parts),
            **{f"s{n + 1}": part for n, part in enumerate(parts)},
        }.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / place / f"m{k}.wav", samples, 16000, subtype="FLOAT")
    return folder


def test_a_model_counts_the_speakers_of_mixtures_of_two_and_three(
    example_sources: Samples, tiny_model: Path, tmp_path: Path, run
) -> None:  # type: ignore[no-untyped-def]
    folder = _counting_folder(tmp_path / "both", example_sources)
    config = CandidateConfig(model=str(tiny_model), counts=True)
    summary = evaluate_folder(folder, config, tmp_path / "out", metrics=["si_sdr"])
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["speakers_true"] for row in rows] == ["3", "2", "2", "2", "2"]
    system = load_system(tiny_model)
    for row in rows:
        audio, rate = soundfile.read(folder / "mix" / f"{row['name']}.wav", dtype="float32")
        counted = system.separate(torch.from_numpy(resample(audio, rate, 8000))[None])
        assert int(row["speakers_counted"]) == int(counted.count[0])
        assert float(row["confidence"]) == pytest.approx(float(counted.confidence[0]), abs=1e-3)
    table = summary["counting"]["confusion"]
    assert {true: sum(row.values()) for true, row in table.items()} == {"2": 4, "3": 1}
    assert summary["counting"]["right"] == sum(table[n].get(n, 0) for n in table)
    assert summary["candidate"]["counts"] is True
    told = run("evaluate", folder, "--model", tiny_model, "--processes", "1")
    assert told.code == 2
    assert "no reference" in told.err
    shown = run(
        "evaluate", folder, "--model", tiny_model, "--speakers", "auto", "--metric", "si_sdr", "-o", tmp_path / "o2",
        "--processes", "1",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert f"is right in {summary['counting']['right']} of 5 mixtures" in shown.out
    for arguments, word in (
        (["--speakers", "3"], "only be auto"),
        (["--speakers", "auto", "--mixture"], "alone"),
    ):
        refused = run("evaluate", folder, *arguments)
        assert refused.code == 2
        assert word in refused.err


def test_a_missing_estimate_is_silence_and_a_surplus_estimate_is_noted() -> None:
    gains = [(2, 2, 5.0), (2, 3, 4.0), (3, 2, -50.0), (3, 3, 6.0), (3, 3, 8.0)]
    scores = [
        MixtureScores(
            str(k),
            1.0,
            {"counted": Counting(true, found, 0.9).outcome},
            {"si_sdr": [gain], "si_sdr_improvement": [gain]},
            counted=Counting(true, found, 0.9),
        )
        for k, (true, found, gain) in enumerate(gains)
    ]
    summary = summarize(scores)
    assert summary["counting"]["confusion"] == {"2": {"1": 0, "2": 1, "3": 1}, "3": {"1": 0, "2": 1, "3": 2}}
    assert (summary["counting"]["right"], summary["counting"]["mixtures"]) == (3, 5)
    groups = summary["groups"]["counted"]
    assert {name: group["mixtures"] for name, group in groups.items()} == {
        "right": 3,
        "too few": 1,
        "too many": 1,
    }
    assert groups["right"]["metrics"]["si_sdr_improvement"]["mean"] == pytest.approx(19 / 3)


def test_with_one_estimate_for_two_speakers_the_other_is_silence(example_sources: Samples) -> None:
    references = example_sources[:, 16000:48000]
    scores = score_mixture(references.sum(axis=0), references, references[1:], 16000, ["si_sdr"])
    assert scores["si_sdr"][0] == -100.0
    assert scores["si_sdr"][1] > 90  # type: ignore[operator]
    many = np.stack([references[1], 0.1 * references[0], references.sum(axis=0)])
    scores = score_mixture(references.sum(axis=0), references, many, 16000, ["si_sdr"])
    assert min(scores["si_sdr"]) > 90  # type: ignore[type-var]


_OF_A_RUN = {"real_time_factor", "peak_mib"}
"""Of ``summary.json``: they differ between any two runs."""


def _summary(folder: Path) -> dict[str, object]:
    values = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in values.items() if key not in _OF_A_RUN}


@pytest.mark.parametrize("kind", ["model", "counts", "failures"])
def test_shares_give_the_results_of_one_run(
    kind: str, tiny_model: Path, example_corpus: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "test", tmp_path / "shared"
    recipe = {"corpora": [str(example_corpus)], "split": "test", "count": 5, "mode": "max"}
    write_mixture_folder(folder, MixtureFolderConfig.model_validate(recipe))
    config = CandidateConfig(model=str(tiny_model), counts=kind == "counts")
    if kind == "failures":
        config = CandidateConfig(command="false {mixture} {outdir}")
    metrics = ["si_sdr", "pesq"]
    whole = evaluate_folder(folder, config, tmp_path / "whole", metrics=metrics)
    found = [evaluate_folder(folder, config, output, metrics=metrics, share=Share(i, 3)) for i in (2, 1, 3)]
    assert found[:2] == [{}, {}]
    assert found[2]["mixtures"] == whole["mixtures"] == 5
    assert (output / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()
    assert _summary(output) == _summary(tmp_path / "whole")
    assert list(json.loads((output / "summary.json").read_text())) == list(whole)


def test_a_share_scores_only_what_is_missing(tiny_model: Path, tmp_path: Path, example_corpus: Path) -> None:
    folder, output, metrics = tmp_path / "test", tmp_path / "out", ["si_sdr"]
    recipe = {"corpora": [str(example_corpus)], "split": "test", "count": 4}
    write_mixture_folder(folder, MixtureFolderConfig.model_validate(recipe))
    config, done = CandidateConfig(model=str(tiny_model)), []
    assert not evaluate_folder(folder, config, output, metrics=metrics, share=Share(1, 2))
    (output / "parts" / "00002.json").unlink()
    evaluate_folder(folder, config, output, lambda *ends: done.append(ends), metrics, share=Share(1, 2))
    assert done == [(1, 1)]
    # Another number of shares goes on, too; and a rerun of a complete job writes the same summary.
    assert evaluate_folder(folder, config, output, metrics=metrics, share=Share(1, 1))
    summary = (output / "summary.json").read_bytes()
    (output / "summary.json").unlink()
    evaluate_folder(folder, config, output, metrics=metrics, share=Share(2, 2))
    assert (output / "summary.json").read_bytes() == summary
    with pytest.raises(UnmingleError, match="other options"):
        evaluate_folder(folder, config, output, metrics=["sdr"], share=Share(1, 2))
