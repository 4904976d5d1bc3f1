"""Tiny training runs, for the tests of training."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from conftest import TINY_BLSTM, tiny_values
from unmingle.training.recipe import Recipe
from unmingle.training.run_folder import RunFolder


def tiny_recipe(corpus: Path, steps: int = 6, **changes: object) -> Recipe:
    """A run of a tiny system that takes a second."""
    values: dict[str, object] = {
        "name": "tiny",
        "data": [str(corpus)],
        "system": tiny_values(network=TINY_BLSTM | {"dropout": 0.2}),
        "stages": [
            {"seconds": 0.5, "steps": steps, "batch_size": 2, "validate_every": 3, "schedule": "decay"}
        ],
        "validation": {"count": 2, "seconds": 1.0},
    }
    return Recipe.model_validate(values | changes)


def weights_of(run: Path) -> torch.Tensor:
    """All weights of a run's checkpoint, ``(weights,)``."""
    state = RunFolder(run).load()[0]["system"]
    return torch.cat([value.flatten() for value in state.values()])


def log_rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``log.csv``."""
    return list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))
