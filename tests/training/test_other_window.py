"""A BLSTM's weights for other frequencies than it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny_system, tiny_values
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, save_system
from unmingle.systems import EmbeddingSeparator
from unmingle.training.initial import system_from_model
from unmingle.training.other_window import at_frequencies, frequencies
from unmingle.training.recipe import Recipe


def _recipe(system: dict[str, object]) -> Recipe:
    values = tiny_values(**system)
    return Recipe.model_validate({"name": "test", "system": values, "stages": [{"seconds": 1.0, "steps": 1}]})


def _weights(freqs: int, dimension: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "network.layers.0.weight_ih_l0": torch.randn(8, freqs, generator=generator),
        "network.layers.0.weight_ih_l0_reverse": torch.randn(8, freqs, generator=generator),
        "network.layers.0.bias_ih_l0": torch.randn(8, generator=generator),
        "network.linear.weight": torch.randn(freqs * dimension, 4, generator=generator),
        "network.linear.bias": torch.randn(freqs * dimension, generator=generator),
    }


def test_the_same_frequencies_change_nothing() -> None:
    hertz = torch.linspace(0, 4000, 9, dtype=torch.float64)
    weights = _weights(9, 3)
    torch.testing.assert_close(at_frequencies(weights, hertz, hertz, 3), weights)


def test_known_frequencies_keep_their_embedding_and_others_lie_between() -> None:
    given, wanted = (torch.linspace(0, 4000, size, dtype=torch.float64) for size in (9, 17))
    weights = _weights(9, 3)
    found = at_frequencies(weights, given, wanted, 3)
    old, new = (
        weights["network.linear.weight"].reshape(9, 3, 4),
        found["network.linear.weight"].reshape(17, 3, 4),
    )
    torch.testing.assert_close(new[::2], old)
    torch.testing.assert_close(new[1::2], (old[1:] + old[:-1]) / 2)
    torch.testing.assert_close(
        found["network.linear.bias"].reshape(17, 3)[::2], weights["network.linear.bias"].reshape(9, 3)
    )
    torch.testing.assert_close(found["network.layers.0.bias_ih_l0"], weights["network.layers.0.bias_ih_l0"])


def test_a_flat_spectrum_gives_the_same_sums() -> None:
    given, wanted = (torch.linspace(0, 4000, size, dtype=torch.float64) for size in (9, 17))
    weights = _weights(9, 3) | {"network.layers.0.weight_ih_l0": torch.full((8, 9), 0.5)}
    found = at_frequencies(weights, given, wanted, 3)["network.layers.0.weight_ih_l0"]
    torch.testing.assert_close(found @ torch.ones(17), torch.full((8,), 4.5))


def test_above_the_known_band_nothing_is_taken_in() -> None:
    given = torch.linspace(0, 4000, 9, dtype=torch.float64)
    wanted = torch.linspace(0, 8000, 17, dtype=torch.float64)
    weights = _weights(9, 3)
    found = at_frequencies(weights, given, wanted, 3)
    torch.testing.assert_close(
        found["network.layers.0.weight_ih_l0"][:, :9], weights["network.layers.0.weight_ih_l0"]
    )
    assert not found["network.layers.0.weight_ih_l0"][:, 9:].any()
    old, new = (
        weights["network.linear.weight"].reshape(9, 3, 4),
        found["network.linear.weight"].reshape(17, 3, 4),
    )
    torch.testing.assert_close(new[9:], old[-1:].expand(8, 3, 4))


def test_a_run_begins_with_a_model_of_another_window(tmp_path: Path) -> None:
    donor = tiny_system()
    save_system(donor, tmp_path / "donor.safetensors", ModelFacts(), half=False)
    stft = {"window_length": 512, "hop": 128}
    system = system_from_model(_recipe({"stft": stft}), tmp_path / "donor.safetensors")
    assert isinstance(system, EmbeddingSeparator)
    assert float(frequencies(system)[-1]) == float(frequencies(donor)[-1]) == 4000.0
    ours, theirs = system.state_dict(), donor.state_dict()
    torch.testing.assert_close(ours["network.layers.0.weight_hh_l0"], theirs["network.layers.0.weight_hh_l0"])
    dimension = donor.config.dimension
    torch.testing.assert_close(
        ours["network.linear.bias"].reshape(257, dimension)[::2],
        theirs["network.linear.bias"].reshape(129, dimension),
    )
    assert ours["frontend.mean"].shape == (257,)
    with pytest.raises(UnmingleError, match="another network"):
        system_from_model(_recipe({"stft": stft, "dimension": 3}), tmp_path / "donor.safetensors")
