"""Evaluation of a folder of mixtures: what is written, and worker processes."""

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
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.processes import ordered_map

FOLDER = EXAMPLES / "two_speakers"


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
    summary = evaluate_folder(tmp_path, CandidateConfig(oracle="wfm"), tmp_path / "out")
    (reason,) = summary["failures"]["reasons"]
    assert "needs two sources, or one source and noise" in reason


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
