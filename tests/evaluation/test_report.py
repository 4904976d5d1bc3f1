"""Reports show the scored results, and the page is complete."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from conftest import EXAMPLES, MIXTURE, addresses_of_whole_page, tiny_system
from unmingle.attractors import anchor_assignments
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.embedding_figures import (
    _anchors,
    layer_activity,
    principal_components,
    spike_triggered_averages,
)
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.pages import audio_uri, render
from unmingle.evaluation.report import write_report
from unmingle.evaluation.runs import difference, read_runs
from unmingle.evaluation.summary import MixtureScores, summarize
from unmingle.models import ModelFacts, save_system
from unmingle.networks import BlstmConfig, BlstmEmbedding


@pytest.fixture
def folder(example_corpus: Path, tmp_path: Path) -> Path:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=6, seed=1)
    write_mixture_folder(tmp_path / "test", config)
    return tmp_path / "test"


def _score(folder: Path, name: str, **candidate: object) -> Path:
    output = folder.parent / "scores" / name
    evaluate_folder(
        folder, CandidateConfig.model_validate(candidate), output, metrics=["si_sdr", "sdr", "stoi"]
    )
    return output


def test_from_a_corpus_to_a_page_in_four_commands(
    run,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "speaker_a").symlink_to(EXAMPLES / "speech" / "librivox_reader")
    (corpus / "speaker_b").symlink_to(EXAMPLES / "speech" / "sphinx_speaker")
    for arguments in (
        ["data", "index", "folder", "--root", corpus],
        ["mix", corpus, "-o", "test", "--count", 3],
        ["evaluate", "test", "--model", tiny_model, "-o", "scores/tiny", "--metric", "si_sdr"],
        ["report", "scores/tiny", "-o", "report.html"],
    ):
        done = run(*arguments)
        assert done.code == 0, (arguments, done.err)
    addresses = addresses_of_whole_page(tmp_path / "report.html")
    # Histogram, density, three spectrograms, embeddings, attractors, units; a mixture, two estimates and references.
    assert sum(address.startswith("data:image/png") for address in addresses) == 8
    assert sum(address.startswith("data:audio/mpeg") for address in addresses) == 3 * 5


def test_the_page_shows_the_scored_results(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    tiny, oracle = _score(folder, "tiny", model=str(tiny_model)), _score(folder, "wfm", oracle="wfm")
    write_report([oracle, tiny], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    addresses_of_whole_page(tmp_path / "report.html")
    for run_folder in (tiny, oracle):
        summary = json.loads((run_folder / "summary.json").read_text())
        assert f"{summary['metrics']['si_sdr_improvement']['mean']:+.2f}" in text
        assert f"{summary['metrics']['stoi']['mean']:.3f}" in text
    runs = read_runs([oracle, tiny])
    found = difference(runs[1], runs[0], "si_sdr_improvement")
    assert found is not None
    gains = [np.array(list(each.values("si_sdr_improvement").values())) for each in runs]
    assert found.mean == pytest.approx((gains[1] - gains[0]).mean())
    assert found.decided
    assert found.p_value < 0.05
    same = difference(runs[1], runs[1], "si_sdr_improvement")
    assert same is not None
    assert (same.mean, same.p_value, same.decided) == (0.0, 1.0, False)
    assert f"{found.mean:+.2f}" in text


def test_results_on_other_mixtures_are_not_compared(
    folder: Path, example_corpus: Path, tmp_path: Path
) -> None:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=6, seed=2)
    write_mixture_folder(tmp_path / "other", config)
    runs = read_runs([_score(folder, "a", oracle="ibm"), _score(tmp_path / "other", "b", oracle="ibm")])
    assert difference(runs[1], runs[0], "si_sdr_improvement") is None
    assert runs[0].label != runs[1].label
    write_report([run.folder for run in runs], tmp_path / "report.html")
    assert "cannot be compared" in (tmp_path / "report.html").read_text()


def test_missing_or_changed_mixtures_are_reported(
    folder: Path, example_corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "own.safetensors"
    shutil.copy(tiny_model, model)
    scores = _score(folder, "tiny", model=str(model))
    folder.rename(tmp_path / "moved")
    write_report([scores], tmp_path / "report.html")
    assert "no longer in" in (tmp_path / "report.html").read_text()
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=6, seed=1, snr=(9.0, 9.0))
    write_mixture_folder(folder, config)
    write_report([scores], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "holds other mixtures than the scored ones" in text
    assert "<audio" not in text
    shutil.rmtree(folder)
    (tmp_path / "moved").rename(folder)
    save_system(tiny_system(anchors=5), model, ModelFacts())
    write_report([scores], tmp_path / "report.html")
    assert "is not the model" in (tmp_path / "report.html").read_text()
    (next((folder / "s1").iterdir())).unlink()
    write_report([scores], tmp_path / "report.html")
    assert "Left out" in (tmp_path / "report.html").read_text()


def test_programs_are_scored_but_not_run_again(folder: Path, tmp_path: Path) -> None:
    broken = CandidateConfig(command=f"{sys.executable} -c 'raise SystemExit(3)' {{mixture}} {{outdir}}")
    evaluate_folder(folder, broken, tmp_path / "broken", metrics=["si_sdr"])
    write_report([tmp_path / "broken"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "not run again" in text
    assert "failed: 6 × exit code 3" in text


def test_noisy_speech_is_reported_too(tiny_denoiser: Path, tmp_path: Path) -> None:
    evaluate_folder(
        EXAMPLES / "in_noise", CandidateConfig(model=str(tiny_denoiser)), tmp_path / "out", metrics=["si_sdr"]
    )
    write_report([tmp_path / "out"], tmp_path / "report.html")
    assert any(
        address.startswith("data:audio") for address in addresses_of_whole_page(tmp_path / "report.html")
    )


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmingleError, match="unmingle evaluate"):
        read_runs([tmp_path])
    (tmp_path / "summary.json").write_text('{"system": "old"}')
    (tmp_path / "scores.csv").write_text("name\na\n")
    with pytest.raises(UnmingleError, match="unmingle evaluate"):
        read_runs([tmp_path])


def test_names_are_escaped() -> None:
    bad = "<script>alert(1)</script>"
    point = {"label": bad, "cases": 1, "failures": [bad]}
    test = {"name": "x", "title": bad, "what": bad, "score": "", "conditions": [point]}
    found = _found(bad) | {"tests": [test], "left_out": {bad: bad}}
    page = render("stress.html.j2", title="<b>", found=found, seconds="9", pictures=[None], spectrograms={})
    assert page.count("&lt;script&gt;") >= 6
    assert "<script>" not in page


def _found(name: str) -> dict[str, Any]:
    keys = ("split", "count", "sample_rate", "seed", "date", "version", "machine")
    return {"system": name, "corpora": [], "tests": []} | dict.fromkeys(keys, "")


def test_players_contain_the_audio() -> None:
    samples, rate = soundfile.read(MIXTURE, dtype="float32")
    encoded = audio_uri(samples, rate, 0.5).partition("base64,")[2]
    heard, heard_rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)), dtype="float32")
    assert heard_rate == 16000
    size = min(len(heard), len(samples))
    assert np.corrcoef(heard[:size], samples[:size])[0, 1] > 0.9


def test_principal_components_against_the_covariance() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((500, 4)) @ np.diag([5.0, 2.0, 1.0, 0.1]) + 3.0
    mean, directions, shares = principal_components(points, 2)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    np.testing.assert_allclose(mean, points.mean(axis=0))
    np.testing.assert_allclose(np.abs(directions.T @ vectors[:, ::-1][:, :2]), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum())


def test_spike_triggered_averages_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((120 + 10 * k, 3)) for k in range(3)]
    activity = [rng.standard_normal((len(x), 2)) for x in features]
    for x, a in zip(features, activity, strict=True):
        a[:, 0] += 10 * np.roll(x[:, 1], 4)  # Unit 0 answers to frequency 1, four frames later.
    averages = spike_triggered_averages(features, activity)
    limit = 0.8 * max(float(a[:, 0].max()) for a in activity)
    windows = [
        x[t - 25 : t + 26]
        for x, a in zip(features, activity, strict=True)
        for t in range(25, len(x) - 25)
        if a[t, 0] >= limit
    ]
    expected = np.mean(windows, axis=0) - np.concatenate(features).mean(axis=0)
    np.testing.assert_allclose(averages[0], expected, atol=1e-9)
    assert np.unravel_index(averages[0].argmax(), averages[0].shape) == (25 - 4, 1)
    silent = [np.concatenate([a[:, :1], -np.abs(a[:, 1:])], axis=1) for a in activity]
    assert np.abs(spike_triggered_averages(features, silent)[1]).max() == 0


@pytest.mark.parametrize(("layers", "shown"), [(1, 0), (2, 1), (4, 1)])
def test_units_are_those_of_the_second_layer(layers: int, shown: int) -> None:
    torch.manual_seed(0)
    network = BlstmEmbedding(9, 2, BlstmConfig(layers=layers, hidden_size=5))
    features = torch.randn(1, 30, 9)
    expected = features
    for layer in network.layers[: shown + 1]:
        expected = layer(expected)[0]
    torch.testing.assert_close(layer_activity(network, features), expected)


def test_chosen_anchors_are_those_that_separate() -> None:
    """A network for two and three speakers always chooses three of its anchors."""
    for fewest, chosen in ((None, 2), (2, 3)):
        system = tiny_system(speakers=3, anchors=4, fewest_speakers=fewest)
        _, embedding = system.embed(torch.randn(1, 4000))
        weight = torch.ones(embedding.shape[:3])
        anchors, picked = _anchors(system, embedding, weight, system.formed_attractors(2))
        assert (len(anchors), len(picked)) == (4, chosen)
        formed = system.attractors(embedding, weight, chosen)
        again = anchor_assignments(embedding, system.formation.anchors[torch.from_numpy(picked)].unsqueeze(0))
        torch.testing.assert_close(formed.assignments, again)
    kmeans = tiny_system(formation="kmeans", training_formation="oracle")
    assert len(_anchors(kmeans, embedding, weight, 2)[0]) == 0


def test_a_report_on_mixtures_of_two_and_three_shows_both(tiny_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("a", 2), ("b", 3)):
        sources = 0.1 * rng.standard_normal((count, 8000), dtype=np.float32)
        for place, audio in {
            "mix": sources.sum(axis=0),
            **{f"s{k + 1}": s for k, s in enumerate(sources)},
        }.items():
            (tmp_path / "both" / place).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "both" / place / f"{name}.wav", audio, 8000, "FLOAT")
    scored = tmp_path / "scores"
    evaluate_folder(
        tmp_path / "both", CandidateConfig(model=str(tiny_model), counts=True), scored, metrics=["si_sdr"]
    )
    write_report([scored], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Embeddings, 2 speakers" in page
    assert "Embeddings, 3 speakers" in page


def _results(folder: Path, **changes: object) -> Path:
    from hostile.fuzz import _summary_seed

    summary, scores = _summary_seed()
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    (folder / "scores.csv").write_bytes(scores)
    return folder


def test_programs_are_named_by_their_folders_and_dollars_are_dollars(tmp_path: Path) -> None:
    command = {"system": "python", "candidate": {"command": "python x.py {mixture} {outdir}"}}
    folders = [_results(tmp_path / name, **command) for name in ("mine", "yours $x_{ $")]
    assert [run.label for run in read_runs(folders)] == ["mine", "yours $x_{ $"]
    write_report(folders, tmp_path / "report.html")


@pytest.mark.parametrize(
    "changes",
    [{"metrics": {"si_sdr": {"mean": "x"}}}, {"failures": []}, {"made_worse": None}, {"peak_mib": float("nan")},
     {"groups": {"genders": {"same": 3}}}, {"notes": {"x": "y"}}, {"mixtures": -1}, {"seconds": 1e300}],
    ids=str,
)  # fmt: skip
def test_edited_results_are_refused_in_one_sentence(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UnmingleError, match=r"bad value|older"):
        read_runs([_results(tmp_path / "x", **changes)])


@pytest.mark.parametrize("cell", ["x", "nan", "inf", "1e999"])
def test_edited_scores_are_refused_in_one_sentence(tmp_path: Path, cell: str) -> None:
    folder = _results(tmp_path / "x")
    scores = (folder / "scores.csv").read_text().replace("1.0", cell)
    (folder / "scores.csv").write_text(scores)
    with pytest.raises(UnmingleError, match="instead of a number"):
        read_runs([folder])


def test_a_mean_without_its_column_of_scores_has_no_interval(tmp_path: Path) -> None:
    folder = _results(tmp_path / "x")
    scores = (folder / "scores.csv").read_text().replace("si_sdr_improvement", "other")
    (folder / "scores.csv").write_text(scores)
    write_report([folder], tmp_path / "report.html")
    assert "SI-SDR" in (tmp_path / "report.html").read_text()


def test_rounding_does_not_count_as_worse() -> None:
    def scores(gain: float) -> MixtureScores:
        return MixtureScores("x", 1.0, {}, {"si_sdr": [0.0], "si_sdr_improvement": [gain]})

    worse = summarize([scores(gain) for gain in (0.0, -0.009, -0.011, 1.0)])["made_worse"]
    assert worse["mixtures"] == 0.25
    assert worse["speakers"] == 0.25
