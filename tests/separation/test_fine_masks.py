"""Masks every 16 ms, from a system whose frames are farther apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.device import has_fast_bfloat16
from unmingle.frontend import Spectra
from unmingle.masks import apply_masks
from unmingle.metrics import si_sdr
from unmingle.models import load_system
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.offline import load
from unmingle.systems import MaskingSystem
from unmingle.systems.embedding_separator import EmbeddingSeparator, EmbeddingSeparatorConfig


class Alternating(EmbeddingSeparator):
    """Its first source has the lower frequencies; every second time, the sources are in the other order."""

    def __init__(self, hop: int) -> None:
        stft = {"window_length": 512, "hop": hop}
        super().__init__(EmbeddingSeparatorConfig.model_validate({"speakers": 2, "stft": stft}))
        self.heard: list[Tensor] = []

    def mask_and_attractors(self, mixture: Tensor, speakers: int) -> tuple[Spectra, Tensor, Tensor | None]:
        spectra, number = self.frontend(mixture), len(self.heard)
        self.heard.append(mixture)
        low = (torch.arange(spectra.magnitude.shape[-1]) < 50).float().expand_as(spectra.magnitude)
        # The level of the mask says which time it was.
        masks = torch.stack([low, 1 - low], dim=1) * (1 - 0.5 * number)
        return spectra, masks if number % 2 == 0 else masks.flip(1), None


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 255, 256, 257, 4000, 4096])
def test_the_second_masks_lie_between_the_first(samples: int) -> None:
    system = Alternating(256)
    fine, mixture = FineMasks(system), torch.randn(samples, generator=torch.Generator().manual_seed(0))
    found = fine.of(mixture, 2)
    assert fine.hop == 128
    torch.testing.assert_close(found.spectrum, fine.stft.analyse(mixture))
    # Where the frames of the second time lie, and that its sources are those of the first.
    level = torch.tensor([1.0, 0.5]).repeat(len(found.spectrum))[: len(found.spectrum), None]
    low = (torch.arange(257) < 50).float()
    torch.testing.assert_close(found.masks, torch.stack([level * low, level * (1 - low)]))
    torch.testing.assert_close(system.heard[1][0, 128:], mixture)
    assert not system.heard[1][0, :128].any()
    # In one run there is every second frame.
    again = Alternating(256)
    coarse = FineMasks(again).coarse(mixture, 2)
    assert len(again.heard) == 1
    assert fine.runs == 2
    torch.testing.assert_close(coarse.masks, found.masks[:, ::2])
    torch.testing.assert_close(coarse.spectrum, found.spectrum[::2])


def test_a_short_hop_is_left_alone() -> None:
    system = Alternating(128)
    found = FineMasks(system).of(torch.ones(1000), 2)
    assert len(system.heard) == 1
    assert FineMasks(system).runs == 1
    low = (torch.arange(257) < 50).float().expand(8, 257)
    torch.testing.assert_close(found.masks, torch.stack([low, 1 - low]))


@pytest.mark.usefixtures("in_float32")
def test_estimates_are_the_mean_of_two(example_sources: Samples) -> None:
    """Of the system's estimates as they are, and of those of the mixture half a hop later."""
    system = load_system("separator-8khz")
    assert isinstance(system, MaskingSystem)
    mixture = torch.from_numpy(np.ascontiguousarray(example_sources.sum(axis=0)[::2]))
    fine = FineMasks(system)
    found = fine.of(mixture, 2)
    estimates = fine.stft.synthesise(found.masks * found.spectrum, len(mixture))

    def separated(mixture: torch.Tensor) -> torch.Tensor:
        spectra, masks = system.mask(mixture[None], 2)
        masked = apply_masks(spectra.spectrum, masks)
        return system.frontend.stft.synthesise(masked, len(mixture))[0]

    with torch.no_grad():
        first = separated(mixture)
        second = separated(torch.nn.functional.pad(mixture, (128, 0)))[:, 128:]
    order = best_permutation(pairwise_si_sdr(second[None], first[None]))[1][0]
    mean = (first + second[order.argsort()]) / 2
    # The edges have fewer frames than the rest.
    assert float(si_sdr(estimates[:, 600:-600], mean[:, 600:-600]).min()) > 60


@pytest.mark.skipif(
    not has_fast_bfloat16("cpu"), reason="this processor is slow in bfloat16, so float32 is used"
)
def test_bfloat16_changes_little(example_sources: Samples, request: pytest.FixtureRequest) -> None:
    separator, mixture = load("separator-8khz"), example_sources.sum(axis=0)
    fast = separator.separate(mixture, 16000, 2).estimates
    request.getfixturevalue("in_float32")
    exact = separator.separate(mixture, 16000, 2).estimates
    assert 25 < float(si_sdr(torch.from_numpy(fast), torch.from_numpy(exact)).min()) < 80


def test_separations_have_finer_tracks_than_the_model() -> None:
    separation = load("separator-8khz").separate(np.random.default_rng(0).standard_normal(20000), 8000, 2)
    assert separation.tracks[0].frame_seconds == 0.016
    # The end of the recording is filled up to a whole hop.
    np.testing.assert_allclose(separation.tracks[0].power.shape, (2, -(-20000 // 128) + 1))
