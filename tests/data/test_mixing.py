"""Mixtures of utterances: pure functions of the seed, at their levels, in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmingle.audio import active_level
from unmingle.data.batches import Crops, iterate
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig


def _mixer(corpus: Path, seed: int = 0, **changes: Any) -> Mixer:
    utterances = read_corpora([corpus], "train")
    return Mixer(utterances, decode(utterances, 8000), 8000, MixingConfig.model_validate(changes), seed)


def test_mixture_k_is_a_pure_function_of_seed_and_k(example_corpus: Path) -> None:
    config = {"speed": (0.9, 1.1), "partial_overlap": 0.3, "single_speaker": 0.2}
    first, second = _mixer(example_corpus, **config), _mixer(example_corpus, **config)
    backwards = {k: first.render(first.crop(k, 8000)) for k in reversed(range(6))}
    for k in range(6):
        np.testing.assert_array_equal(second.render(second.crop(k, 8000)), backwards[k])
    other = _mixer(example_corpus, seed=1, **config)
    assert not np.array_equal(other.render(other.crop(0, 8000)), backwards[0])


def test_workers_change_nothing_and_runs_resume_exactly(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus)
    here = list(iterate(Crops(mixer, 0.5, 4, batches=4), workers=0))
    there = list(iterate(Crops(mixer, 0.5, 4, first_batch=2, batches=4), workers=1))
    assert len(there) == 2
    for one, other in zip(here[2:], there, strict=True):
        np.testing.assert_array_equal(one.mixture.numpy(), other.mixture.numpy())
    halves = [Crops(mixer, 0.5, 4, batches=4, rank=rank, world_size=2)[3] for rank in (0, 1)]
    together = {tuple(row[:50].tolist()) for half in halves for row in half.mixture}
    assert together == {tuple(row[:50].tolist()) for row in here[3].mixture}


def test_active_levels_have_the_drawn_ratio(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, snr=(5.0, 5.0))
    for k in range(5):
        first, second = mixer.render(mixer.whole(k, "max"))
        ratio = 20 * np.log10(active_level(first, 8000) / active_level(second, 8000))
        assert ratio == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("speakers", [1, 2])
def test_crops_are_full_and_batches_add_up(example_corpus: Path, speakers: int) -> None:
    batch = Crops(_mixer(example_corpus, speakers=speakers), 2.0, 8, batches=1)[0]
    np.testing.assert_allclose(batch.sources.sum(dim=1), batch.mixture, atol=1e-6)
    assert batch.mixture.abs().max() <= 0.951
    assert batch.active.all()
    assert (batch.sources.abs().amax(dim=-1) > 0.01).all()


def test_a_single_speaker_leaves_the_others_silent_and_inactive(example_corpus: Path) -> None:
    batch = Crops(_mixer(example_corpus, single_speaker=1.0), 1.0, 6, batches=1)[0]
    assert batch.active.tolist() == [[True, False]] * 6
    assert batch.sources[:, 1].abs().max() == 0
