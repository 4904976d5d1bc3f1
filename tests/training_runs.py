"""Tiny training runs, for the tests of training."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from conftest import ROOT, TINY_BLSTM, tiny_values
from unmingle.data.conversations import ConversationConfig
from unmingle.data.mixing_config import MixingConfig
from unmingle.training.recipe import Recipe
from unmingle.training.run_folder import RunFolder

FOLDER = ROOT / "recipes"
RECIPES = [
    path for path in sorted(FOLDER.rglob("*.yaml")) if path.name not in ("data.yaml", "conversations.yaml")
]
"""Those that can be trained; the others are parts of them."""


def recipe_id(path: Path) -> str:
    return str(path.relative_to(FOLDER))


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


def talk_recipe(corpus: Path) -> Recipe:
    """Conversations."""
    return tiny_recipe(corpus, mixing=MixingConfig(conversation=ConversationConfig()))


def weights_of(run: Path) -> torch.Tensor:
    """All weights of a run's checkpoint, ``(weights,)``."""
    state = RunFolder(run).load()[0]["system"]
    return torch.cat([value.flatten() for value in state.values()])


def log_rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``log.csv``."""
    return list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))


def train_command(tmp_path: Path, recipe: Recipe, run: str, *options: str) -> list[str]:
    """Arguments of Python for ``unmingle train`` with a recipe."""
    values = tmp_path / "recipe.yaml"
    values.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    return ["-m", "unmingle", "train", str(values), "-o", str(tmp_path / run), "--threads", "1", *options]


def run_together(commands: list[list[str]], environments: list[dict[str, str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of commands that run at the same time."""
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, changes in zip(commands, environments, strict=True)
    ]
    try:
        said = [process.communicate(timeout=300) for process in running]
        return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]
    finally:
        for process in running:
            process.kill()
