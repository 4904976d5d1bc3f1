"""The mixtures of a run: those it learns from, and the fixed ones that tell how good it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unmingle.audio import Samples
from unmingle.data.batches import MixtureSource, as_batch
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer, MixingConfig, active_sources
from unmingle.data.premixed import PremixedMixtures, is_premixed
from unmingle.errors import UnmingleError
from unmingle.scoring import best_permutation, pairwise_si_sdr
from unmingle.systems import System
from unmingle.training.recipe import Recipe

_BATCH = 25


def prepare(recipe: Recipe, cache: Path | None, on_decoded: Callable[[int, int], None] | None = None) -> None:
    """Decode what the run will read, once, before processes multiply.

    Raises:
        UnmingleError: the data is missing or malformed.
    """
    for split in ("train", "valid"):
        if not _is_premixed(recipe):
            decode(read_corpora(recipe.data, split), recipe.system.sample_rate, cache, on_decoded)


def training_mixer(recipe: Recipe, cache: Path | None) -> MixtureSource:
    """Mixes the training split as the recipe says."""
    return _mixer(recipe, "train", recipe.mixing, recipe.seed, cache)


def validation_mixer(recipe: Recipe, cache: Path | None) -> MixtureSource:
    """Mixes the validation split at full overlap and original speed."""
    weights = recipe.mixing.corpus_weights
    if weights:
        # A corpus with a share in training may have no validation talkers.
        names = {utterance.corpus for utterance in read_corpora(recipe.data, "valid")}
        weights = {name: weight for name, weight in weights.items() if name in names}
    fewest = recipe.mixing.fewest_talkers
    changes = {
        "speed": (1.0, 1.0),
        "partial_overlap": 0.0,
        "lone": 0.0,
        # A lone talker's mixture cannot be improved.
        "fewest_talkers": fewest and max(2, fewest),
        "corpus_weights": weights,
    }
    mixing = recipe.mixing.model_copy(update=changes)
    return _mixer(recipe, "valid", mixing, recipe.validation.seed, cache)


def _mixer(recipe: Recipe, split: str, mixing: MixingConfig, seed: int, cache: Path | None) -> MixtureSource:
    rate = recipe.system.sample_rate
    if _is_premixed(recipe):
        return PremixedMixtures(Path(recipe.data[0]), split, rate, recipe.system.talkers, seed)
    utterances = read_corpora(recipe.data, split)
    return Mixer(utterances, decode(utterances, rate, cache), rate, mixing, seed)


def _is_premixed(recipe: Recipe) -> bool:
    premixed = [is_premixed(Path(source)) for source in recipe.data]
    if any(premixed) and len(premixed) > 1:
        raise UnmingleError("A folder of mixtures must be the only --data; mixtures are not mixed again.")
    return any(premixed)


class Validation:
    """The validation mixtures of one process, rendered once."""

    def __init__(self, recipe: Recipe, cache: Path | None, rank: int, world_size: int) -> None:
        mixer = validation_mixer(recipe, cache)
        samples = round(recipe.validation.seconds * mixer.sample_rate)
        mine = range(rank, recipe.validation.count, world_size)
        sources = [mixer.render(mixer.crop(index, samples)) for index in mine]
        groups: dict[int, list[Samples]] = {}
        for each in sources:
            groups.setdefault(int(active_sources(each).sum()), []).append(each)
        self._batches = [
            (number, as_batch(np.stack(group[k : k + _BATCH])))
            for number, group in groups.items()
            for k in range(0, len(group), _BATCH)
        ]

    def sums(self, system: System, device: torch.device) -> torch.Tensor:
        """Sums over the mixtures of SI-SDR improvement in dB and loss, and their number: ``(3,)``.

        The system is told how many talkers there are. Before the second part of a system of two is
        trained, the first part alone is scored.
        """
        system.eval()
        sums = torch.zeros(3)
        for number, batch in self._batches:
            # Talkers come first, silence after them.
            references = batch.sources[:, :number]
            separated = system.trained_system().separate(batch.mixture.to(device), number)
            estimates = separated.sources.cpu()
            mixture = batch.mixture.unsqueeze(1).expand_as(estimates)
            after, _ = best_permutation(pairwise_si_sdr(estimates, references))
            before, _ = best_permutation(pairwise_si_sdr(mixture, references))
            with torch.no_grad():
                loss = float(system.loss(batch.to(device))["loss"])
            sums += torch.tensor([float((after - before).sum()), loss * len(after), float(len(after))])
        system.train()
        return sums
