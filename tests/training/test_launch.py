"""Starting a run: what is refused before the work, several processes, errors of other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from conftest import TINY_BLSTM, tiny_values
from training_runs import tiny_recipe, weights_of
from unmingle.data.batches import Crops, iterate
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.premixed import PremixedMixtures
from unmingle.errors import UnmingleError
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.recipe import shrink


def test_a_processor_without_bfloat16_trains_in_float32(
    example_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unmingle.device.torch.backends.mkldnn.is_available", lambda: False)
    for precision in ("bf16-mixed", "32-true"):
        recipe = tiny_recipe(example_corpus, steps=2, system=tiny_values(), precision=precision)
        train(recipe, tmp_path / precision, Options(workers=0))
    assert torch.equal(weights_of(tmp_path / "bf16-mixed"), weights_of(tmp_path / "32-true"))
    assert [record.message for record in caplog.records if "bfloat16" in record.message] == [
        "This processor has no bfloat16: the run computes in float32, as with precision: 32-true."
    ]


def test_what_goes_wrong_in_another_process_is_one_sentence(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 4, "batch_size": 2, "learning_rate": 1e30, "schedule": "constant"}
    recipe = tiny_recipe(example_corpus, system=tiny_values(), stages=[stage], clip_norm=None)
    values = tmp_path / "recipe.yaml"
    values.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    arguments = ["train", str(values), "-o", str(tmp_path / "run"), "--processes", "2", "--threads", "2"]
    run = subprocess.run([sys.executable, "-m", "unmingle", *arguments], capture_output=True, text=True)
    assert run.returncode == 2
    assert "The loss is not finite" in run.stderr
    assert "Traceback" not in run.stderr


def test_runs_do_not_overwrite_each_other(example_corpus: Path, tmp_path: Path) -> None:
    recipe = shrink(tiny_recipe(example_corpus))
    with pytest.raises(UnmingleError, match="no checkpoint"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))
    train(recipe, tmp_path / "run", Options(workers=0))
    with pytest.raises(UnmingleError, match="--resume"):
        train(recipe, tmp_path / "run", Options(workers=0))
    other = tiny_recipe(example_corpus, system=tiny_values(anchors=5))
    with pytest.raises(UnmingleError, match="another system"):
        train(other, tmp_path / "run", Options(workers=0, resume=True))
    (tmp_path / "run" / "last.checkpoint").write_bytes(b"damaged")
    with pytest.raises(UnmingleError, match="damaged"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))


def test_errors_of_the_worker_process_are_one_sentence(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name, split in (("tr", "train"), ("cv", "valid")):
        config = MixtureFolderConfig(corpora=[str(example_corpus)], split=split, count=2, seed=1)
        write_mixture_folder(tmp_path / "made" / name, config)
    mixtures = PremixedMixtures([tmp_path / "made"], "train", 16000, 2, 0)
    with pytest.raises(UnmingleError, match=r"^[^\n]*8000 Hz[^\n]*$"):
        list(iterate(Crops(mixtures, 0.5, 2, batches=2), workers=1))


def test_what_does_not_fit_is_refused_before_the_work(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(example_corpus, steps=2)
    train(recipe, tmp_path / "run", Options(workers=0))
    model = str(tmp_path / "run" / "last.safetensors")
    for changes in (
        {"network": TINY_BLSTM | {"residual": True}},
        {"stft": {"hop": 128, "window": "hann"}},
    ):
        other = tiny_recipe(example_corpus, system=tiny_values(**changes))
        with pytest.raises(UnmingleError, match="another network"):
            train(other, tmp_path / "other", Options(workers=0, init_from=model))
    with pytest.raises(UnmingleError, match="another optimizer"):
        train(
            recipe.model_copy(update={"optimizer": "rmsprop"}),
            tmp_path / "run",
            Options(workers=0, resume=True),
        )
