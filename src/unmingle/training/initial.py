"""The system at the start of a run: with random weights, or with the weights of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmingle.config import Config
from unmingle.data.batches import MixtureSource
from unmingle.errors import UnmingleError
from unmingle.models import find_weights, load_system
from unmingle.systems import (
    Denoiser,
    DenoisingSystem,
    EmbeddingSeparator,
    EmbeddingSeparatorConfig,
    LocalExperts,
    LocalExpertsConfig,
    MaskInferenceConfig,
    MaskingSystem,
    System,
    TwoStage,
    build_system,
)
from unmingle.systems.base import SystemConfig
from unmingle.training.larger_lstm import weights_for_larger
from unmingle.training.other_window import at_frequencies, frequencies
from unmingle.training.recipe import Recipe

_MAY_BE_NEW = ("formation.", "training_formation.", "log_scale")
"""Prefixes of parameters that may be new: a model may get other attractors, or another number of anchors."""
_MUST_AGREE = (
    "kind",
    "sample_rate",
    "stft",
    "network",
    "bands_above",
    "dimension",
    "refiner",
    "latent",
)
"""Fields that must be equal. One that only one of the configs has is a difference, too."""
_HEAD = "network.linear."
"""Prefix of the layer after a BLSTM, which gives embeddings or masks."""


def fresh_system(recipe: Recipe, mixer: MixtureSource) -> System:
    """A system with random weights and the statistics of the first training mixtures."""
    system = build_system(recipe.system)
    count = system.statistics_mixtures
    if recipe.statistics_minutes is not None:
        count = math.ceil(60 * recipe.statistics_minutes / recipe.stages[0].seconds)
    system.fit(_first_mixtures(recipe, mixer, count))
    return system


def _first_mixtures(recipe: Recipe, mixer: MixtureSource, count: int) -> torch.Tensor:
    samples = round(recipe.stages[0].seconds * mixer.sample_rate)
    return torch.from_numpy(np.stack([mixer.example(k, samples).mixture for k in range(count)]))


def system_from_model(recipe: Recipe, name: str | Path, mixer: MixtureSource | None = None) -> System:
    """The recipe's system with the weights of a model.

    The model's front end and network must be those of the recipe's system, or of its first stage. These may differ:
    attractors, anchors, objective, unit norm, dropout, equalization, prelude, number of speakers, SNR levels. Also:

    - A BLSTM that gives embeddings of another dimension, or masks (uPIT), starts with a new last layer.
    - The BLSTM of an embedding separator may have another rate, window or hop. Its weights are interpolated between
      frequencies (:mod:`~unmingle.training.other_window`). The front end gets the statistics of the first training
      mixtures of ``mixer``.
    - A denoiser may have more units or another window than the model (:mod:`~unmingle.training.larger_lstm`).
    - A gate with other settings or levels starts with new weights.
    - With another number of levels, each specialist gets the weights of the model's specialist for the nearest level.
    - All specialists of local experts may get the weights of one denoiser. The clusters of the latent space come from
      the first training mixtures of ``mixer``.

    Raises:
        UnmingleError: the model does not fit.
    """
    donor = load_system(find_weights(name))
    system = build_system(recipe.system)
    if isinstance(system, TwoStage) and isinstance(donor, MaskingSystem) and not isinstance(donor, TwoStage):
        _load_weights(system.first, donor, recipe, name)
        system.frontend.load_state_dict(donor.frontend.state_dict())
    elif isinstance(system, LocalExperts) and isinstance(donor, Denoiser):
        _copy_to_specialists(system, donor, recipe, name)
        if mixer is not None:
            system.fit_clusters(_first_mixtures(recipe, mixer, system.statistics_mixtures))
    elif _another_size(system, donor):
        _load_larger(system, donor, recipe, name)
    elif _another_window(system, donor):
        if mixer is not None:
            system.fit(_first_mixtures(recipe, mixer, system.statistics_mixtures))
        _load_at_other_frequencies(system, donor, recipe, name)
    else:
        _load_weights(system, donor, recipe, name)
    return system


def _another_size(system: System, donor: System) -> bool:
    """Whether both are denoisers of one kind, and the system has more units or another window."""
    if not isinstance(system, DenoisingSystem) or not isinstance(donor, DenoisingSystem):
        return False
    ours, theirs = system.config, donor.config
    alike = len(system.experts) == len(donor.experts) and ours.network.layers == theirs.network.layers
    enough = alike and ours.network.hidden_size >= theirs.network.hidden_size
    return enough and (ours.network, ours.stft) != (theirs.network, theirs.stft)


def _load_larger(system: System, donor: System, recipe: Recipe, name: str | Path) -> None:
    """The donor's weights, with more units or for another window."""
    assert isinstance(system, DenoisingSystem)
    assert isinstance(donor, DenoisingSystem)
    given = weights_for_larger(system, donor)
    if isinstance(system, LocalExperts) and isinstance(donor, LocalExperts):
        given = _of_local_experts(system, donor, given)
    _load(system, given, donor.config, recipe, name, may_differ=("network", "stft"))


def _another_window(system: System, donor: System) -> bool:
    """Whether both embed with a BLSTM, at different rates, windows or hops. Its weights can be interpolated."""
    ours, theirs = system.config, donor.config
    if not isinstance(ours, EmbeddingSeparatorConfig) or not isinstance(theirs, EmbeddingSeparatorConfig):
        return False
    if not ours.network.kind == theirs.network.kind == "blstm":
        return False
    sizes = [(each.sample_rate, each.stft.window_length, each.stft.hop) for each in (ours, theirs)]
    return sizes[0] != sizes[1]


def _load_at_other_frequencies(system: System, donor: System, recipe: Recipe, name: str | Path) -> None:
    """The donor's weights, interpolated. The front end keeps its own statistics."""
    assert isinstance(system, EmbeddingSeparator)
    assert isinstance(donor, EmbeddingSeparator)
    size = donor.config.dimension
    given = at_frequencies(donor.state_dict(), frequencies(donor), frequencies(system), size)
    given |= {key: value for key, value in system.state_dict().items() if key.startswith("frontend.")}
    _load(system, given, donor.config, recipe, name, may_differ=("sample_rate", "stft"))


def _copy_to_specialists(system: LocalExperts, donor: Denoiser, recipe: Recipe, name: str | Path) -> None:
    """Give every specialist the generalist's weights."""
    ours, theirs = system.config, donor.config
    same = ("network", "bands_above", "stft", "sample_rate")
    if any(getattr(ours, key) != getattr(theirs, key) for key in same):
        raise UnmingleError(
            f"The model {name} has another network or front end than the specialists of {recipe.name}; "
            "choose a model of the same sizes."
        )
    system.frontend.load_state_dict(donor.frontend.state_dict())
    for specialist in system.specialists:
        specialist.load_state_dict(donor.network.state_dict())


def _load_weights(system: System, donor: System, recipe: Recipe, name: str | Path) -> None:
    """The donor's weights for a system of the same kind, or an error if they do not fit."""
    given = donor.state_dict()
    may_differ: tuple[str, ...] = ()
    if isinstance(system, LocalExperts) and isinstance(donor, LocalExperts):
        given = _of_local_experts(system, donor, given)
    elif _another_head(system, donor):
        given |= {key: value for key, value in system.state_dict().items() if key.startswith(_HEAD)}
        may_differ = ("kind", "dimension")
    _load(system, given, donor.config, recipe, name, may_differ)


def _another_head(system: System, donor: System) -> bool:
    """Whether both are BLSTMs, and what their last layers give differs: embeddings of another dimension, or masks."""
    ours, theirs = system.config, donor.config
    kinds = (EmbeddingSeparatorConfig, MaskInferenceConfig)
    if not isinstance(ours, kinds) or not isinstance(theirs, kinds):
        return False
    sizes = [getattr(each, "dimension", None) for each in (ours, theirs)]
    return ours.network.kind == theirs.network.kind == "blstm" and sizes[0] != sizes[1]


def _of_local_experts(
    system: LocalExperts, donor: LocalExperts, given: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``given`` with the specialists for the system's levels, and with a new gate if it has other settings."""
    given = _specialists_by_level(system.config, donor.config, given)
    if _gate_identity(system.config) != _gate_identity(donor.config):
        given |= {key: value for key, value in system.state_dict().items() if key.startswith("gate.")}
    return given


def _load(
    system: System,
    given: dict[str, torch.Tensor],
    theirs: SystemConfig,
    recipe: Recipe,
    name: str | Path,
    may_differ: tuple[str, ...] = (),
) -> None:
    wanted = system.state_dict()
    shared = [key for key in given if key in wanted]
    reshaped = [key for key in shared if wanted[key].shape != given[key].shape]
    shared = [key for key in shared if key not in reshaped]
    reshaped = [key for key in reshaped if not key.startswith(_MAY_BE_NEW)]
    lacking = [key for key in wanted if key not in given and not key.startswith(_MAY_BE_NEW)]
    ours, others = (
        {key: value for key, value in _comparable(config.model_dump()).items() if key not in may_differ}
        for config in (system.config, theirs)
    )
    if reshaped or lacking or ours != others:
        raise UnmingleError(
            f"The model {name} has another network or front end than the recipe {recipe.name}; "
            "choose a model of the same sizes."
        )
    system.load_state_dict({key: given[key] for key in shared}, strict=False)


def _specialists_by_level(
    ours: LocalExpertsConfig, theirs: LocalExpertsConfig, given: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``given`` with one specialist per level of SNR. If their number is equal, they keep their order."""
    if ours.latent != "snr" or theirs.latent != "snr" or ours.specialists == theirs.specialists:
        return given
    shared = {key: value for key, value in given.items() if not key.startswith("specialists.")}
    for number, level in enumerate(ours.snr_levels):
        nearest = min(range(theirs.specialists), key=lambda k: abs(theirs.snr_levels[k] - level))
        own = f"specialists.{nearest}."
        shared |= {
            f"specialists.{number}.{key.removeprefix(own)}": value
            for key, value in given.items()
            if key.startswith(own)
        }
    return shared


def _gate_identity(config: LocalExpertsConfig) -> tuple[Config, list[float] | None]:
    """The settings of a gate. Levels count only for a gate that estimates the SNR."""
    return config.gate, config.snr_levels if config.latent == "snr" else None


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config that must agree. Dropout and equalization may differ: they change no weights."""
    kept = {key: config[key] for key in _MUST_AGREE if key in config}
    kept["network"] = {key: value for key, value in kept["network"].items() if "dropout" not in key}
    kept["stft"] = {key: value for key, value in kept["stft"].items() if key != "equalize"}
    return kept
