"""Leaving corpora out in turn: what a fold trains on, what it is scored on, and the table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import EXAMPLES, ROOT
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.training.mixtures import training_mixer
from unmingle.training.recipe import read_recipe

sys.path.insert(0, str(ROOT / "benchmarks"))

import leave_one_out

RECIPE = """
system: {kind: denoiser, network: {layers: 1, hidden_size: 8}}
mixing: {speakers: 1, noise: {weights: {hiss: 2, hum: 1, babble: 1}}}
stages: [{seconds: 0.5, steps: 1, batch_size: 2}]
"""


def _corpora(folder: Path) -> Path:
    """Two corpora of speech and two of noise, in every split."""
    speech, noise = ["path,corpus,speaker,gender,split"], ["path,corpus,class,split"]
    for number, path in enumerate(sorted((EXAMPLES / "speech").rglob("*.flac"))):
        for split in ("train", "valid"):
            speech.append(f"{path},{'ab'[number % 2]},{path.stem},{'MF'[number % 2]},{split}")
    rng, time = np.random.default_rng(0), np.arange(16000) / 16000
    for name, sound in (
        ("hiss", 0.1 * rng.standard_normal(16000)),
        ("hum", 0.1 * np.sin(2 * np.pi * 100 * time)),
    ):
        soundfile.write(folder / f"{name}.wav", sound, 16000)
        noise += [f"{name}.wav,{name},{name},{split}" for split in ("train", "valid")]
    (folder / "speech.csv").write_text("\n".join(speech) + "\n")
    (folder / "noise.csv").write_text("\n".join(noise) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_a_fold_hears_nothing_of_what_is_left_out_and_its_list_nothing_else(tmp_path: Path) -> None:
    corpora = _corpora(tmp_path)
    recipe = read_recipe(corpora / "recipe.yaml")
    recipe = recipe.model_copy(update={"data": [str(corpora)], "noise_data": [str(corpora)]})
    folds = leave_one_out.choose_folds(recipe, [], [])
    assert folds == [("a", "hiss"), ("b", "hum")]  # The heaviest first.
    fold = leave_one_out.without(recipe, folds[0])
    mixer, utterances = training_mixer(fold, None), read_corpora([corpora], "train")
    assert isinstance(mixer, Mixer)
    segments = [segment for k in range(20) for segment in mixer.crop(k, 8000).voices[0].segments]
    assert {utterances[segment.utterance].corpus for segment in segments} == {"b"}
    names = {mixer.example(k, 8000).noise_name.split("/")[0] for k in range(20)}
    assert names == {"hum", "babble"}
    examples = leave_one_out.mixtures_of(recipe, folds[0], 12, None)
    assert {example.noise_name for example in examples} == {"hiss/hiss"}
    assert {example.gender for example in examples} == {"M"}  # Those of corpus a.
    assert {round(example.snr or 0.0) for example in examples} == {-5, 0, 5, 10}


def test_the_table_compares_the_same_mixtures() -> None:
    scores = {
        (0, 0): {"si_sdr": [5.0, 7.0]}, (1, 0): {"si_sdr": [6.0, 9.0]}, (2, 0): {"si_sdr": [8.0, 9.0]},
        (0, 1): {"si_sdr": [1.0, 1.0]}, (1, 1): {"si_sdr": [2.0, 2.0]}, (2, 1): {"si_sdr": [1.0, 1.0]},
        (0, 2): {"si_sdr": [4.0, float("nan")]}, (1, 2): {"si_sdr": [4.0, 4.0]}, (2, 2): {"si_sdr": [3.0, 4.0]},
    }  # fmt: skip
    folds = [("a", "x"), ("b", "y"), ("c", "z")]
    rows = leave_one_out.table(folds, scores, "si_sdr").splitlines()
    assert rows[2].startswith("| a + x | 8.00 | 6.00 | -2.00 (-2.00 to -2.00)")
    assert rows[3].startswith("| b + y | 1.00 | 2.00 | +1.00")
    assert rows[4].startswith("| c + z | 4.00 | 3.00 | -1.00")  # A mixture without a score counts nowhere.
    assert rows[5].startswith("| all | 4.40 | 3.80 | -0.60")


def test_the_command_trains_scores_and_does_not_train_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpora = _corpora(tmp_path)
    command = [
        "leave_one_out.py", str(corpora / "recipe.yaml"), "--data", str(corpora), "-o", str(tmp_path / "out"),
        "--count", "3", "--smoke", "--label", "tiny",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    leave_one_out.main()
    table = (tmp_path / "out" / "tiny" / "table.md").read_text()
    assert table in capsys.readouterr().out.replace("\n\n\n", "\n\n")
    assert "| a + hiss |" in table
    changed = (tmp_path / "out" / "tiny" / "fold-1" / "last.safetensors").stat().st_mtime_ns
    leave_one_out.main()
    assert (tmp_path / "out" / "tiny" / "fold-1" / "last.safetensors").stat().st_mtime_ns == changed
