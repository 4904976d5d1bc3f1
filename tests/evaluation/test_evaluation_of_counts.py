"""Evaluation of a model that counts the speakers of each mixture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from unmingle.audio import Samples, resample
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.summary import (
    Counting,
    MixtureScores,
    summarize,
)
from unmingle.models import load_system


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
    for row in rows:
        found, true = int(row["speakers_counted"]), int(row["speakers_true"])
        note = "scored as silence" if found < true else "the best are scored"
        assert (f"{found} estimates for {true} speakers: " in row["notes"]) == (found != true)
        assert (note in row["notes"]) == (found != true)
    assert any(row["speakers_counted"] != row["speakers_true"] for row in rows)
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
