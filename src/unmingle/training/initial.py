"""What a run begins with: a fresh system, or one with the weights of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unmingle.data.batches import MixtureSource
from unmingle.errors import UnmingleError
from unmingle.models import find_model, load_system
from unmingle.systems import System, TwoStage, build_system
from unmingle.training.recipe import Recipe

_STATISTICS_MIXTURES = 64
_OWN = ("formation.", "training_formation.", "log_scale")
"""Beginnings of names that may be new: a model may get other attractors than it was trained with."""


def fresh_system(recipe: Recipe, mixer: MixtureSource) -> System:
    """A system with random weights and the statistics of the first training mixtures."""
    system = build_system(recipe.system)
    samples = round(recipe.stages[0].seconds * mixer.sample_rate)
    crops = [mixer.render(mixer.crop(k, samples)) for k in range(_STATISTICS_MIXTURES)]
    system.fit(torch.from_numpy(np.stack(crops).sum(axis=1)))
    return system


def system_from_model(recipe: Recipe, name: str | Path) -> System:
    """The recipe's system with the weights of a model.

    The model's front end and network must be those of the recipe's system, or of its first stage;
    attractors, objective and number of talkers may differ.

    Raises:
        UnmingleError: they are not.
    """
    donor = load_system(find_model(name))
    system = build_system(recipe.system)
    if isinstance(system, TwoStage) and not isinstance(donor, TwoStage):
        system.frontend.load_state_dict(donor.frontend.state_dict())  # type: ignore[union-attr]
        _take(system.first, donor, recipe, name)
    else:
        _take(system, donor, recipe, name)
    return system


def _take(system: System, donor: System, recipe: Recipe, name: str | Path) -> None:
    wanted, given = system.state_dict(), donor.state_dict()
    same_rate = system.sample_rate == donor.sample_rate and system.hop == donor.hop
    fitting = {
        key: value for key, value in given.items() if key in wanted and wanted[key].shape == value.shape
    }
    lacking = [key for key in wanted if key not in fitting and not key.startswith(_OWN)]
    if lacking or not same_rate:
        raise UnmingleError(
            f"The model {name} has another network or front end than the recipe {recipe.name}; "
            "choose a model of the same sizes."
        )
    system.load_state_dict(fitting, strict=False)
