"""Optimizers, and schedules of the learning rate within a stage."""

from __future__ import annotations

import torch

from unmingle.systems import System
from unmingle.training.muon import Muon
from unmingle.training.recipe import Recipe, Stage
from unmingle.training.run_folder import Progress


def build_optimizer(recipe: Recipe, system: System) -> torch.optim.Optimizer:
    """The recipe's optimizer for all parameters. The loop sets the learning rate before every step."""
    rate = recipe.stages[0].learning_rate
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(system.parameters(), lr=rate)
    if recipe.optimizer == "muon":
        return Muon(system.named_parameters(), lr=rate)
    return torch.optim.Adam(system.parameters(), lr=rate, fused=True)


def learning_rate(stage: Stage, progress: Progress) -> float:
    """The learning rate of the next step."""
    step = progress.step
    rate = stage.learning_rate * progress.factor
    if stage.schedule == "decay":
        rate *= 1 - step / stage.steps
    elif stage.schedule == "exponential":
        rate *= stage.decay_factor ** (step // stage.decay_steps)
    return rate * min(1.0, (step + 1) / stage.warmup_steps) if stage.warmup_steps else rate


def held_then_decayed(step: int, steps: int, warmup: int, constant: float, least: float = 0.02) -> float:
    """A factor of the learning rate: it rises for ``warmup`` steps, is 1, and decays linearly to ``least``.

    Args:
        step: number of the next step, from 0 on.
        steps: number of all steps.
        warmup: number of steps in which it rises.
        constant: share of the steps after which it decays.
        least: its minimum, after the rise.
    """
    fading = min(1.0, max(least, (1 - step / steps) / (1 - constant)))
    return fading * min(1.0, (step + 1) / warmup)


def adapt_rate(stage: Stage, progress: Progress, validation_loss: float) -> None:
    """Count an epoch with this validation loss, and halve the rate if the schedule says so."""
    progress.since_best = 0 if validation_loss < progress.stage_best else progress.since_best + 1
    progress.stage_best = min(progress.stage_best, validation_loss)
    epochs = progress.step // stage.validate_every
    stuck = progress.since_best > 0 and progress.since_best % stage.halve_after == 0
    if (stage.schedule == "plateau" and stuck) or (
        stage.schedule == "halving" and epochs % stage.halve_after == 0
    ):
        progress.factor /= 2
