"""Training on tar files: a run goes on where it was, and processes share what is decoded."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny_values
from training_runs import run_together, tiny_recipe, train_command, weights_of
from unmingle.data.corpora import read_corpora
from unmingle.errors import UnmingleError
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.run_folder import RunFolder


@pytest.fixture
def speech_tars(crowd_corpus: Path, tmp_path: Path) -> Path:
    """The speech for training in three tar files of some speakers each, and one for validation."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for split, count in (("train", 3), ("valid", 1)):
        utterances = read_corpora([crowd_corpus], split)
        for number in range(count):
            with tarfile.open(folder / f"{split}-{number}.tar", "w") as tar:
                for each in utterances[number::count]:
                    tar.add(each.path, f"{each.speaker}/{each.path.name}")
    return folder


def test_a_run_on_tar_files_goes_on_as_if_it_had_not_stopped(speech_tars: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 6, "batch_size": 2, "validate_every": 3, "schedule": "constant"}
    window = {"tars": 2, "mixtures": 3}
    recipe = tiny_recipe(
        speech_tars, system=tiny_values(), stages=[stage, stage | {"steps": 4}], stream=window
    )
    options = Options(threads=1, cache=tmp_path / "cache")
    train(recipe, tmp_path / "whole", options)
    (decoded,) = (tmp_path / "cache").glob("stream-*")
    assert len([path for path in decoded.iterdir() if not path.name.startswith(".")]) <= 3
    cut = replace(options, minutes=0.0)
    train(recipe, tmp_path / "cut", cut)
    for _ in range(3):
        train(recipe, tmp_path / "cut", replace(cut, resume=True))
    assert RunFolder(tmp_path / "cut").load()[1].total_steps == 4
    train(recipe, tmp_path / "cut", replace(options, resume=True))
    # A stop adds a validation, which changes no weight.
    torch.testing.assert_close(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"), atol=0, rtol=0)


def test_two_processes_train_on_tar_files_in_a_store(speech_tars: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 6, "batch_size": 2, "validate_every": 6}
    recipe = tiny_recipe(speech_tars, system=tiny_values(), stages=[stage], stream={"tars": 2, "mixtures": 3})
    train(recipe, tmp_path / "one", Options(threads=1, workers=0, cache=tmp_path / "cache"))
    urls = recipe.model_copy(update={"data": [f"file://{speech_tars}/*.tar"]})
    command = train_command(tmp_path, urls, "two", "--processes", "2")
    ((code, _, error),) = run_together([command], [{"XDG_CACHE_HOME": str(tmp_path / "other")}])
    assert code == 0, error
    assert (weights_of(tmp_path / "two") - weights_of(tmp_path / "one")).abs().max() < 1e-3
    (decoded,) = (tmp_path / "other" / "unmingle").glob("stream-*")
    assert len([path for path in decoded.iterdir() if not path.name.startswith(".")]) <= 3


def test_tar_files_without_validation_or_noise_are_refused(speech_tars: Path, tmp_path: Path) -> None:
    noisy = tiny_recipe(speech_tars, system=tiny_values(), mixing={"noise": {"snr_levels": [0.0]}})
    with pytest.raises(UnmingleError, match="--noise"):
        train(noisy, tmp_path / "run", Options(workers=0))
    (speech_tars / "valid-0.tar").unlink()
    with pytest.raises(UnmingleError, match=r"name one valid-0\.tar"):
        train(tiny_recipe(speech_tars, system=tiny_values()), tmp_path / "run", Options(workers=0))
    assert not (tmp_path / "run").exists()
