"""Recipes: one YAML file holds everything that decides a training run. Never code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from unmingle.config import Config
from unmingle.data.mixing import MixingConfig
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts
from unmingle.systems import EmbeddingSeparatorConfig


class ValidationConfig(Config):
    """Fixed validation mixtures: full overlap, original speed, from the validation split."""

    count: int = Field(100, ge=1)
    seconds: float = Field(4.0, gt=0.0)
    seed: int = Field(1, ge=0)


class Stage(Config):
    """One stage of the curriculum. It starts from the weights that the last one ended with."""

    seconds: float = Field(gt=0.0)
    """Length of a crop; at a hop of 8 ms, 0.8 is the papers' 100 frames and 3.2 their 400."""
    steps: int = Field(ge=1)
    """At most so many."""
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0.0)
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises from zero."""
    schedule: Literal["plateau", "constant", "decay"] = "plateau"
    """``plateau``: halved after ``halve_after`` validations without a better loss, ended after
    ``stop_after``, as the paper does; ``decay``: linear to zero over the stage."""
    halve_after: int = Field(3, ge=1)
    stop_after: int = Field(10, ge=1)
    validate_every: int = Field(250, ge=1)
    """Steps between validations; with ``plateau``, the length of an epoch."""


class Recipe(Config):
    """A training run."""

    name: str
    seed: int = Field(0, ge=0)
    data: list[str] = []
    """Corpora: manifests or folders; the command line's ``--data`` goes before it."""
    system: EmbeddingSeparatorConfig
    mixing: MixingConfig = MixingConfig()
    validation: ValidationConfig = ValidationConfig()
    stages: list[Stage] = Field(min_length=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    clip_norm: float = Field(5.0, gt=0.0)
    """Limit of the gradient's norm."""
    facts: ModelFacts = ModelFacts()
    """Origin and licence of the data, written into the model."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.mixing.talkers != self.system.talkers:
            raise ValueError(f"mixing has {self.mixing.talkers} talkers, the system {self.system.talkers}")
        if self.system.formation == "oracle":
            raise ValueError("formation must not be oracle: validation separates without the true sources")
        return self


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; ``base`` names another whose values it inherits.

    Raises:
        UnmingleError: missing, not YAML, or a value that the typed configs refuse.
    """
    try:
        return Recipe.model_validate(_read(path, depth=0))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UnmingleError(f"The recipe {path} has a bad value at {place!r}: {first['msg']}.") from error


def _read(path: Path, depth: int) -> dict[str, Any]:
    if depth > 8:
        raise UnmingleError(f"The recipe {path} inherits from itself; mend its 'base'.")
    if not path.is_file():
        raise UnmingleError(f"The recipe {path} does not exist.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnmingleError(f"The recipe {path} is not YAML.") from error
    if not isinstance(values, dict):
        raise UnmingleError(f"The recipe {path} is not a mapping of names to values.")
    base = values.pop("base", None)
    return _merge(_read(path.parent / str(base), depth + 1), values) if base else values


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe for ``--smoke``: two steps a stage, small batches, short crops."""
    stages = [
        stage.model_copy(
            update={
                "steps": 2,
                "batch_size": 2,
                "seconds": min(stage.seconds, 0.8),
                "validate_every": 2,
                "warmup_steps": 0,
            }
        )
        for stage in recipe.stages
    ]
    validation = recipe.validation.model_copy(update={"count": 2, "seconds": 1.0})
    return recipe.model_copy(update={"stages": stages, "validation": validation})
