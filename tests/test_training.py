from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from unmingle.errors import UnmingleError
from unmingle.models import load_system
from unmingle.training.loop import Options, train
from unmingle.training.recipe import Recipe, read_recipe, shrink
from unmingle.training.run_folder import RunFolder

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
TINY = {"layers": 1, "hidden_size": 8, "dimension": 4, "hop": 128}


def _recipe(corpus: Path, steps: int = 6, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "name": "tiny",
        "data": [str(corpus)],
        "system": TINY | {"dropout": 0.2},
        "stages": [
            {"seconds": 0.5, "steps": steps, "batch_size": 2, "validate_every": 3, "schedule": "decay"}
        ],
        "validation": {"count": 2, "seconds": 1.0},
    }
    return Recipe.model_validate(values | changes)


def _weights(run: Path) -> torch.Tensor:
    state = RunFolder(run).load()[0]["system"]
    return torch.cat([value.flatten() for value in state.values()])


def _log(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))


def test_a_run_learns_logs_and_leaves_a_model_that_separates(example_corpus: Path, tmp_path: Path) -> None:
    progress = train(_recipe(example_corpus), tmp_path / "run", Options(workers=0))
    assert (progress.total_steps, progress.audio_seconds) == (6, 6.0)
    rows = _log(tmp_path / "run")
    assert [row["step"] for row in rows] == ["3", "6"]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    best = load_system(tmp_path / "run" / "best.safetensors")
    assert best.separate(torch.randn(1, 4000)).sources.isfinite().all()


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(example_corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(example_corpus)
    train(recipe, tmp_path / "whole", Options(workers=0))
    train(recipe, tmp_path / "parts", Options(workers=0, minutes=0.0))
    stopped = RunFolder(tmp_path / "parts").load()[1]
    assert stopped.step == 1
    torch.rand(100)  # The generator's state must come from the checkpoint.
    train(recipe, tmp_path / "parts", Options(workers=0, resume=True))
    torch.testing.assert_close(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"))


def test_a_killed_run_goes_on(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stage = {"seconds": 0.5, "steps": 2000, "batch_size": 2, "validate_every": 3, "schedule": "constant"}
    values = _recipe(example_corpus, stages=[stage]).model_dump(mode="json")
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
    torch.testing.assert_close(_weights(tmp_path / "run"), _weights(tmp_path / "whole"), atol=1e-5, rtol=1e-4)


def test_two_processes_share_the_work(example_corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(example_corpus, steps=2, system=TINY)
    values = tmp_path / "recipe.yaml"
    values.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    arguments = ["train", str(values), "-o", str(tmp_path / "two"), "--devices", "2", "--threads", "2"]
    subprocess.run([sys.executable, "-m", "unmingle", *arguments], check=True, capture_output=True)
    train(recipe, tmp_path / "one", Options(workers=0))
    # The mean of two halves' gradients is the whole batch's, so the weights agree.
    torch.testing.assert_close(_weights(tmp_path / "two"), _weights(tmp_path / "one"), atol=1e-4, rtol=1e-3)


def test_init_from_begins_with_the_weights_of_a_model(example_corpus: Path, tmp_path: Path) -> None:
    recipe = _recipe(example_corpus)
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
    other = recipe.model_copy(update={"system": recipe.system.model_copy(update={"hidden_size": 9})})
    with pytest.raises(UnmingleError, match="another system"):
        train(other, tmp_path / "third", Options(workers=0, init_from=str(model)))


def test_plateau_halves_the_rate_and_stops_early(example_corpus: Path, tmp_path: Path) -> None:
    stage = {
        "seconds": 0.3,
        "steps": 50,
        "batch_size": 1,
        "validate_every": 1,
        "halve_after": 2,
        "stop_after": 5,
    }
    recipe = _recipe(example_corpus, stages=[stage | {"learning_rate": 1e-20}], system=TINY)
    progress = train(recipe, tmp_path / "run", Options(workers=0))
    rates = [float(row["learning_rate"]) for row in _log(tmp_path / "run")]
    # A rate this small changes nothing: the first validation stays the best one.
    assert rates == pytest.approx([1e-20, 1e-20, 5e-21, 5e-21, 2.5e-21, 2.5e-21], rel=1e-5)
    assert progress.total_steps == 6


def test_runs_do_not_overwrite_each_other(example_corpus: Path, tmp_path: Path) -> None:
    recipe = shrink(_recipe(example_corpus))
    with pytest.raises(UnmingleError, match="no checkpoint"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))
    train(recipe, tmp_path / "run", Options(workers=0))
    with pytest.raises(UnmingleError, match="--resume"):
        train(recipe, tmp_path / "run", Options(workers=0))
    other = recipe.model_copy(update={"system": recipe.system.model_copy(update={"hop": 64})})
    with pytest.raises(UnmingleError, match="another system"):
        train(other, tmp_path / "run", Options(workers=0, resume=True))
    (tmp_path / "run" / "last.checkpoint").write_bytes(b"damaged")
    with pytest.raises(UnmingleError, match="damaged"):
        train(recipe, tmp_path / "run", Options(workers=0, resume=True))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs(path: Path, example_corpus: Path, tmp_path: Path) -> None:
    recipe = shrink(read_recipe(path))
    recipe = recipe.model_copy(
        update={
            "data": [str(example_corpus)],
            "system": recipe.system.model_copy(update={"hidden_size": 8, "layers": 2}),
            "mixing": recipe.mixing.model_copy(update={"corpus_weights": {}}),
        }
    )
    progress = train(recipe, tmp_path / "run", Options(workers=0))
    assert progress.total_steps == 2 * len(recipe.stages)
    mixture = torch.randn(1, 4000)
    estimates = load_system(tmp_path / "run" / "best.safetensors").separate(mixture).sources
    assert estimates.isfinite().all()
    if recipe.system.mask == "softmax":
        torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-3, rtol=0)


def test_recipes_inherit(tmp_path: Path) -> None:
    stages = [{"seconds": 1.0, "steps": 5}]
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump({"name": "b", "system": {"layers": 2}, "stages": stages})
    )
    (tmp_path / "child.yaml").write_text("base: base.yaml\nname: child\nsystem: {hidden_size: 7}\n")
    recipe = read_recipe(tmp_path / "child.yaml")
    assert (recipe.name, recipe.system.layers, recipe.system.hidden_size) == ("child", 2, 7)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: x\nsystem: {layers: none}\nstages: [{seconds: 1, steps: 1}]", "system.layers"),
        ("name: x\nsystem: {}\nstages: []", "stages"),
        ("name: x\nsystem: {}\nstages: [{seconds: 1, steps: 1, epochs: 3}]", "epochs"),
        ("name: x\nsystem: {hop: 200}\nstages: [{seconds: 1, steps: 1}]", "hop"),
        ("name: x\nsystem: {}\nmixing: {talkers: 3}\nstages: [{seconds: 1, steps: 1}]", "3 talkers"),
        ("name: x\nseed: -1\nsystem: {}\nstages: [{seconds: 1, steps: 1}]", "seed"),
        ("[1, 2]", "mapping"),
        ("a: [", "YAML"),
        ("base: bad.yaml", "itself"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UnmingleError, match=word):
        read_recipe(tmp_path / "bad.yaml")
