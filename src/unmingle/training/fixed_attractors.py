"""Collect fixed attractors from training mixtures (Luo et al. 2018, IV-B)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unmingle.attractors import FixedAttractors, mean_of_largest_cluster
from unmingle.data.batches import MixtureSource, as_batch
from unmingle.data.mixing_config import MixingConfig
from unmingle.errors import UnmingleError
from unmingle.models import find_weights, load_system, read_facts, save_system
from unmingle.systems import EmbeddingSeparator, build_system
from unmingle.training.mixtures import open_mixtures

_BATCH = 25


def collect_fixed_attractors(
    system: EmbeddingSeparator, mixer: MixtureSource, mixtures: int, seconds: float
) -> torch.Tensor:
    """The fixed attractors ``(speakers, dim)``: the mean of the largest cluster of the mixtures' attractor sets.

    The attractors of a mixture come from its ideal assignment, as in training.

    Args:
        system: computes the embeddings; it is in evaluation mode afterwards.
        mixer: of training data; its first ``mixtures`` crops are used.
        mixtures: number of mixtures; the paper uses 10,000.
        seconds: length of each crop.
    """
    system.eval()
    device = next(system.parameters()).device
    samples = round(seconds * mixer.sample_rate)
    sets = []
    for first in range(0, mixtures, _BATCH):
        numbers = range(first, min(first + _BATCH, mixtures))
        batch = as_batch([mixer.example(k, samples) for k in numbers]).to(device)
        points = system.oracle_attractors(batch)
        sets.append(points[batch.active.all(dim=1)])
    if not any(len(each) for each in sets):
        raise UnmingleError("No mixture of the data has speech of all speakers; give other data.")
    return mean_of_largest_cluster(torch.cat(sets).cpu(), generator=torch.Generator().manual_seed(0))


def store_fixed_attractors(system: EmbeddingSeparator, points: torch.Tensor) -> None:
    """Store collected attractors in a system whose formation is ``fixed``."""
    assert isinstance(system.formation, FixedAttractors)
    system.formation.points.copy_(points)


def fix_attractors(
    model: str | Path,
    data: Sequence[str],
    output: Path,
    mixtures: int,
    seconds: float,
    overwrite: bool = False,
    cache: Path | None = None,
) -> torch.Tensor:
    """Write a copy of a model with the formation ``fixed``; return its attractors ``(speakers, dim)``.

    Raises:
        UnmingleError: the model has no embeddings, the output exists, or the data cannot be used.
    """
    if output.suffix != ".safetensors":
        raise UnmingleError(f"{output} must end in .safetensors.")
    if output.exists() and not overwrite:
        raise UnmingleError(f"{output} exists; add --overwrite, or choose another file with -o.")
    if mixtures < 1 or not 0.1 <= seconds <= 3600:
        raise UnmingleError("--mixtures must be positive, and --seconds between 0.1 and 3600.")
    path = find_weights(model)
    _, facts = read_facts(path)
    trained = load_system(path)
    if not isinstance(trained, EmbeddingSeparator):
        raise UnmingleError(f"{model} has no embeddings, so it has no attractors to fix.")
    mixing = MixingConfig(speakers=trained.speakers)
    mixer = open_mixtures(data, "train", trained.sample_rate, mixing, 0, cache)
    points = collect_fixed_attractors(trained, mixer, mixtures, seconds)
    fixed = build_system(trained.config.model_copy(update={"formation": "fixed"}))
    assert isinstance(fixed, EmbeddingSeparator)
    fixed.load_state_dict(trained.state_dict(), strict=False)
    store_fixed_attractors(fixed, points)
    try:
        save_system(fixed, output, facts.model_copy(update={"score": "not stated"}))
    except OSError as error:
        raise UnmingleError(f"{output} cannot be written: {error}; choose another file.") from error
    return points
