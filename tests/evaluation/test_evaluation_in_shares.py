"""An evaluation in shares gives the results of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.shares import Share

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
