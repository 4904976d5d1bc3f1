"""The mixtures of a run: those it learns from, and the fixed ones that tell how good it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unmingle.data.batches import as_batch
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.scoring import best_permutation, pairwise_si_sdr
from unmingle.systems import System
from unmingle.training.recipe import Recipe

_BATCH = 25


def training_mixer(recipe: Recipe, cache: Path | None) -> Mixer:
    """Mixes the training split as the recipe says."""
    utterances = read_corpora(recipe.data, "train")
    rate = recipe.system.sample_rate
    return Mixer(utterances, decode(utterances, rate, cache), rate, recipe.mixing, recipe.seed)


def validation_mixer(recipe: Recipe, cache: Path | None) -> Mixer:
    """Mixes the validation split at full overlap and original speed."""
    utterances = read_corpora(recipe.data, "valid")
    names = {utterance.corpus for utterance in utterances}
    mixing = recipe.mixing.model_copy(
        update={
            "speed": (1.0, 1.0),
            "partial_overlap": 0.0,
            "lone": 0.0,
            # A corpus with a share in training may have no validation talkers.
            "corpus_weights": {name: w for name, w in recipe.mixing.corpus_weights.items() if name in names},
        }
    )
    rate = recipe.system.sample_rate
    return Mixer(utterances, decode(utterances, rate, cache), rate, mixing, recipe.validation.seed)


class Validation:
    """The validation mixtures of one process, rendered once."""

    def __init__(self, recipe: Recipe, cache: Path | None, rank: int, world_size: int) -> None:
        mixer = validation_mixer(recipe, cache)
        samples = round(recipe.validation.seconds * mixer.sample_rate)
        mine = range(rank, recipe.validation.count, world_size)
        sources = [mixer.render(mixer.crop(index, samples)) for index in mine]
        self._batches = [as_batch(np.stack(sources[k : k + _BATCH])) for k in range(0, len(sources), _BATCH)]

    def sums(self, system: System, device: torch.device) -> torch.Tensor:
        """Sums over the mixtures of SI-SDR improvement in dB and loss, and their number: ``(3,)``."""
        system.eval()
        sums = torch.zeros(3)
        for batch in self._batches:
            estimates = system.separate(batch.mixture.to(device)).sources.cpu()
            mixture = batch.mixture.unsqueeze(1).expand_as(estimates)
            after, _ = best_permutation(pairwise_si_sdr(estimates, batch.sources))
            before, _ = best_permutation(pairwise_si_sdr(mixture, batch.sources))
            with torch.no_grad():
                loss = float(system.loss(batch.to(device))["loss"])
            sums += torch.tensor([float((after - before).sum()), loss * len(after), float(len(after))])
        system.train()
        return sums
