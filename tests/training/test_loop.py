"""The training loop: learning, stopping, resuming, parts and stages of a system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import TINY_BLSTM, tiny_values
from training_runs import log_rows, tiny_recipe, weights_of
from unmingle.attractors import FixedAttractors
from unmingle.audio import write_audio
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.systems import EmbeddingSeparator, MaskInference, MaskInferenceConfig, TwoStage
from unmingle.training.fixed_attractors import fix_attractors
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.recipe import Recipe
from unmingle.training.run_folder import RunFolder


def test_a_run_learns_logs_and_leaves_a_model_that_separates(example_corpus: Path, tmp_path: Path) -> None:
    progress = train(tiny_recipe(example_corpus), tmp_path / "run", Options(workers=0))
    assert (progress.total_steps, progress.audio_seconds) == (6, 6.0)
    rows = log_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == ["3", "6"]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    best = load_system(tmp_path / "run" / "best.safetensors")
    assert best.separate(torch.randn(1, 4000)).sources.isfinite().all()


def test_a_run_skips_silent_files_and_names_them_once(
    example_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_audio(tmp_path / "silent.wav", np.zeros(8000, dtype=np.float32), 8000)
    rows = example_corpus.read_text().splitlines()
    speaker = rows[1].split(",")[2]
    manifest = tmp_path / "speech.csv"
    moved = [
        ",".join([str(example_corpus.parent / row.split(",")[0]), *row.split(",")[1:]]) for row in rows[1:]
    ]
    silent = f"silent.wav,examples,{speaker},F,train,"
    manifest.write_text("\n".join([rows[0], *moved, silent]) + "\n")
    train(tiny_recipe(manifest), tmp_path / "run", Options(workers=0))
    assert len(log_rows(tmp_path / "run")) == 2
    told = [record.getMessage() for record in caplog.records if "silent" in record.getMessage()]
    assert told == [
        f"1 of {sum(',train,' in row for row in rows) + 1} files are silent and are skipped: "
        f"{tmp_path / 'silent.wav'}"
    ]


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    example_corpus: Path, tmp_path: Path, average: float | None
) -> None:
    recipe = tiny_recipe(example_corpus, average=average)
    train(recipe, tmp_path / "whole", Options(workers=0))
    train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0))
    stopped = RunFolder(tmp_path / "parts").load()[1]
    assert stopped.step == 1
    torch.rand(100)  # The generator's state must come from the checkpoint.
    train(recipe, tmp_path / "parts", Options(workers=0, resume=True))
    torch.testing.assert_close(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))
    saved = [load_file(tmp_path / run / "last.safetensors") for run in ("parts", "whole")]
    trained = RunFolder(tmp_path / "whole").load()[0]["system"]
    for name, value in saved[1].items():
        torch.testing.assert_close(saved[0][name], value)
        # Half precision rounds; an average is further off than that.
        last = torch.equal(value, trained[name].to(value.dtype))
        assert last == (average is None or "frontend" in name)


def test_a_killed_run_goes_on(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stage = {"seconds": 0.5, "steps": 2000, "batch_size": 2, "validate_every": 3, "schedule": "constant"}
    values = tiny_recipe(example_corpus, stages=[stage]).model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    arguments = [
        sys.executable,
        "-m",
        "unmingle",
        "train",
        str(recipe),
        "-o",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not folder.checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
    before = folder.load()[1]
    assert 0 < before.total_steps < 2000
    short = Recipe.model_validate(values).model_copy(
        update={
            "stages": [Recipe.model_validate(values).stages[0].model_copy(update={"steps": before.step + 2})]
        }
    )
    after = train(short, tmp_path / "run", Options(workers=0, resume=True))
    assert after.total_steps == before.total_steps + 2
    train(short, tmp_path / "whole", Options(workers=0, threads=1))
    torch.testing.assert_close(
        weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"), atol=1e-5, rtol=1e-4
    )


def test_init_from_begins_with_the_weights_of_a_model(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(example_corpus)
    train(recipe, tmp_path / "first", Options(workers=0))
    model = tmp_path / "first" / "last.safetensors"
    still = recipe.model_copy(
        update={"stages": [recipe.stages[0].model_copy(update={"learning_rate": 1e-12, "steps": 1})]}
    )
    train(still, tmp_path / "second", Options(workers=0, init_from=str(model)))
    first, second = (
        load_system(path).state_dict() for path in (model, tmp_path / "second" / "last.safetensors")
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    other = tiny_recipe(example_corpus, system=tiny_values(network=TINY_BLSTM | {"hidden_size": 9}))
    with pytest.raises(UnmingleError, match="another network"):
        train(other, tmp_path / "third", Options(workers=0, init_from=str(model)))


def test_parts_of_a_system_are_trained_in_turn(example_corpus: Path, tmp_path: Path) -> None:
    """dpcl, enhancement, end to end; the model at the end of each stage is left."""
    dpcl = tiny_values(objective="affinity", unit_norm=True, formation="soft_kmeans", mask="assignment")
    system = {"kind": "two_stage", "stft": {"hop": 128}, "first": dpcl, "network": TINY_BLSTM}
    stage = {"seconds": 0.5, "steps": 2, "batch_size": 2, "validate_every": 2, "schedule": "constant"}
    stages = [stage | {"part": part} for part in ("first", "second", "all")]
    recipe = tiny_recipe(example_corpus, system=system, stages=stages, optimizer="rmsprop", clip_norm=None)
    train(recipe, tmp_path / "run", Options(workers=0))
    first, second, both = (load_system(tmp_path / "run" / f"stage-{n}.safetensors") for n in (1, 2, 3))
    assert isinstance(first, EmbeddingSeparator)
    assert isinstance(second, TwoStage)
    assert isinstance(both, TwoStage)
    held = dict(second.first.named_parameters())
    assert all(torch.equal(value, held[name]) for name, value in first.named_parameters())
    moved = dict(both.first.named_parameters())
    assert any(not torch.equal(value, moved[name]) for name, value in first.named_parameters())
    # The first stage of another run can come from a model.
    later = tiny_recipe(
        example_corpus, system=system, stages=[stage | {"part": "second", "learning_rate": 1e-12}]
    )
    model = str(tmp_path / "run" / "stage-1.safetensors")
    train(later, tmp_path / "later", Options(workers=0, init_from=model))
    given = load_system(tmp_path / "later" / "last.safetensors")
    assert isinstance(given, TwoStage)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(given.first.state_dict()[name], value)


def test_a_model_begins_a_run_with_other_attractors_and_speakers(
    example_corpus: Path, tmp_path: Path
) -> None:
    train(tiny_recipe(example_corpus, steps=3), tmp_path / "two", Options(workers=0))
    changed = tiny_recipe(
        example_corpus,
        steps=1,
        system=tiny_values(training_formation="oracle", formation="kmeans", fewest_speakers=1),
        mixing={"fewest_speakers": 1},
    )
    model = str(tmp_path / "two" / "last.safetensors")
    progress = train(changed, tmp_path / "next", Options(workers=0, init_from=model))
    assert progress.total_steps == 1


def test_fixed_attractors_are_collected_and_stored(
    example_corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    output = tmp_path / "fixed.safetensors"
    points = fix_attractors(tiny_model, [str(example_corpus)], output, 8, 1.0)
    system = load_system(output)
    assert isinstance(system, EmbeddingSeparator)
    assert isinstance(system.formation, FixedAttractors)
    torch.testing.assert_close(system.formation.points, points, atol=2e-3, rtol=2e-3)  # half precision
    assert points.abs().sum() > 0
    assert system.separate(torch.randn(1, 4000), 2).sources.isfinite().all()
    with pytest.raises(UnmingleError, match="--overwrite"):
        fix_attractors(tiny_model, [str(example_corpus)], output, 8, 1.0)
    with pytest.raises(UnmingleError, match="safetensors"):
        fix_attractors(tiny_model, [str(example_corpus)], tmp_path / "fixed.bin", 8, 1.0)
    upit = MaskInference(MaskInferenceConfig.model_validate({"network": TINY_BLSTM}))
    save_system(upit, tmp_path / "upit.safetensors", ModelFacts())
    with pytest.raises(UnmingleError, match="has no embeddings"):
        fix_attractors(
            tmp_path / "upit.safetensors", [str(example_corpus)], tmp_path / "x.safetensors", 8, 1.0
        )


@pytest.mark.parametrize(("kept", "average"), [("best", None), ("best", 0.5), ("last", None)])
def test_a_stage_that_stops_early_hands_over_its_best_weights(
    kept: str, average: float | None, example_corpus: Path, tmp_path: Path
) -> None:
    """The rate is so high that the first epoch stays the best; the second stage does not move."""
    stage = {"seconds": 0.5, "batch_size": 2, "steps": 6, "validate_every": 1}
    stages = [
        stage | {"learning_rate": 5.0, "stop_after": 2} | ({} if kept == "best" else {"hand_over": "last"}),
        stage | {"learning_rate": 1e-12, "steps": 1, "schedule": "constant"},
    ]
    recipe = tiny_recipe(example_corpus, stages=stages, average=average, seed=3)
    train(recipe, tmp_path / "run", Options(workers=0))
    rows = log_rows(tmp_path / "run")
    first = [float(row["validation_loss"]) for row in rows if row["stage"] == "1"]
    then = float(rows[-1]["validation_loss"])
    assert min(first) < first[-1]
    assert then == pytest.approx(min(first) if kept == "best" else first[-1], rel=1e-4)
    assert len(first) == first.index(min(first)) + 3


def test_best_weights_survive_a_stop(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "batch_size": 2, "steps": 6, "validate_every": 1, "learning_rate": 5.0}
    recipe = tiny_recipe(example_corpus, stages=[stage | {"stop_after": 2}], seed=3)
    train(recipe, tmp_path / "whole", Options(workers=0))
    steps = len(log_rows(tmp_path / "whole"))
    train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0))
    for _ in range(steps - 2):
        train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0, resume=True))
    train(recipe, tmp_path / "parts", Options(workers=0, resume=True))
    torch.testing.assert_close(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))
    losses = [float(row["validation_loss"]) for row in log_rows(tmp_path / "whole")]
    assert min(losses) < losses[-1]
