"""Schedules of the learning rate, and early stopping."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import tiny_values
from training_runs import log_rows, tiny_recipe
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.recipe import Stage
from unmingle.training.run_folder import Progress, RunFolder
from unmingle.training.schedule import held_then_decayed, learning_rate


def test_plateau_halves_the_rate_and_stops_early(example_corpus: Path, tmp_path: Path) -> None:
    stage = {
        "seconds": 0.3,
        "steps": 50,
        "batch_size": 1,
        "validate_every": 1,
        "halve_after": 2,
        "stop_after": 5,
    }
    recipe = tiny_recipe(example_corpus, stages=[stage | {"learning_rate": 1e-20}], system=tiny_values())
    progress = train(recipe, tmp_path / "run", Options(workers=0))
    rates = [float(row["learning_rate"]) for row in log_rows(tmp_path / "run")]
    # A rate this small changes nothing: the first validation stays the best one.
    assert rates == pytest.approx([1e-20, 1e-20, 5e-21, 5e-21, 2.5e-21, 2.5e-21], rel=1e-5)
    assert progress.total_steps == 6


def test_halving_halves_after_so_many_epochs(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.3, "steps": 6, "batch_size": 1, "validate_every": 1, "halve_after": 2}
    recipe = tiny_recipe(example_corpus, stages=[stage | {"schedule": "halving", "learning_rate": 1e-3}])
    train(recipe, tmp_path / "run", Options(workers=0))
    rates = [float(row["learning_rate"]) for row in log_rows(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4])


def test_a_stop_in_an_epoch_is_no_epoch_to_the_schedule(example_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.3, "steps": 50, "batch_size": 1, "validate_every": 10, "halve_after": 2}
    recipe = tiny_recipe(example_corpus, stages=[stage | {"schedule": "halving"}])
    for _ in range(3):
        resume = (tmp_path / "run").exists()
        train(recipe, tmp_path / "run", Options(workers=0, minutes=0.0, resume=resume))
    progress = RunFolder(tmp_path / "run").load()[1]
    assert (progress.step, progress.factor, progress.since_best) == (3, 1.0, 0)


def test_the_exponential_schedule_and_early_stopping_follow_the_recipe() -> None:
    def stage(**changes: object) -> Stage:
        return Stage.model_validate({"seconds": 1.0, "steps": 9000, "learning_rate": 1e-3} | changes)

    falling = stage(schedule="exponential", decay_factor=0.95, decay_steps=2000)
    for step, power in ((0, 0), (1999, 0), (2000, 1), (5999, 2), (6000, 3)):
        assert learning_rate(falling, Progress(step=step)) == pytest.approx(1e-3 * 0.95**power)
    assert (stage().patience, stage().keeps_best) == (10, True)
    assert (falling.patience, falling.keeps_best) == (None, False)
    halving = stage(schedule="halving", stop_after=30)
    assert (halving.patience, halving.keeps_best) == (30, True)
    assert not stage(hand_over="last").keeps_best


def test_a_rate_rises_stays_and_decays() -> None:
    factors = [held_then_decayed(step, 100, 10, 0.5) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:51] == [1.0] * 42
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.02)
