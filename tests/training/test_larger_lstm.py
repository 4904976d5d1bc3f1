"""A denoiser's weights for more units, or another window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.systems import DenoisingSystem, build_system
from unmingle.training.initial import system_from_model
from unmingle.training.larger_lstm import with_more_units
from unmingle.training.recipe import Recipe

LEVELS = [-3.0, 8.0]


def _recipe(kind: str, units: int, window: int = 128, layers: int = 2) -> Recipe:
    system: dict[str, object] = {
        "kind": kind,
        "sample_rate": 8000,
        "stft": {"window_length": window, "hop": 64},
        "network": {"layers": layers, "hidden_size": units},
        "bands_above": 1000,
    }
    if kind == "local_experts":
        system |= {"snr_levels": LEVELS, "gate": {"specialist": 0, "seconds": 0.5}}
    values = {
        "system": system,
        "mixing": {"speakers": 1, "noise": {}},
        "stages": [{"seconds": 1, "steps": 1}],
    }
    return Recipe.model_validate({"name": "test", **values})


def _saved(recipe: Recipe, path: Path) -> DenoisingSystem:
    torch.manual_seed(3)
    system = build_system(recipe.system).eval()
    assert isinstance(system, DenoisingSystem)
    system.frontend.mean.normal_()
    system.frontend.deviation.uniform_(0.5, 2.0)
    save_system(system, path, ModelFacts(task="denoise"))
    saved = load_system(path).eval()  # In half precision.
    assert isinstance(saved, DenoisingSystem)
    return saved


@pytest.mark.parametrize("kind", ["denoiser", "local_experts"])
def test_more_units_give_the_same_masks(kind: str, tmp_path: Path) -> None:
    smaller = _saved(_recipe(kind, 6), tmp_path / "smaller.safetensors")
    torch.manual_seed(4)
    larger = system_from_model(_recipe(kind, 9), tmp_path / "smaller.safetensors").eval()
    assert isinstance(larger, DenoisingSystem)
    mixture = torch.randn(2, 8000)
    with torch.no_grad():
        before, after = (each.mask(mixture, 1)[1] for each in (smaller, larger))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    # The new units are not silent: they learn from the first step on.
    features = larger.frontend(mixture).features
    hidden, _ = larger.experts[0].layers(larger.experts[0]._pooled(features))
    assert hidden[..., 6:].abs().mean() > 0.01
    assert not torch.equal(larger.experts[0].layers.weight_hh_l1[6:9], torch.zeros(3, 9))


def test_specialists_by_spectrum_keep_their_centres(tmp_path: Path) -> None:
    def recipe(units: int) -> Recipe:
        found = _recipe("local_experts", units)
        values = found.model_dump()
        values["system"] |= {"latent": "spectrum", "clusters": 2, "gate": {"layers": 1, "hidden_size": 4}}
        return Recipe.model_validate(values)

    smaller = _saved(recipe(6), tmp_path / "smaller.safetensors")
    larger = system_from_model(recipe(9), tmp_path / "smaller.safetensors")
    torch.testing.assert_close(larger.state_dict()["centres"], smaller.state_dict()["centres"])


def test_units_of_each_gate_stay_together() -> None:
    weights = torch.arange(8.0)[:, None].repeat(1, 2)  # 4 gates of 2 units, from 2 inputs
    found = with_more_units(weights, torch.full((12, 3), -1.0), 2)
    assert found[:, 0].tolist() == [0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7, -1]
    assert found[:, 2].tolist() == [0, 0, -1] * 4
    biases = with_more_units(weights[:, 0], torch.full((12,), -1.0), 2)
    assert biases.tolist() == found[:, 0].tolist()


def test_another_window_hears_the_same_frequencies(tmp_path: Path) -> None:
    """Bins of both windows at the same frequency have the same weights."""
    smaller = _saved(_recipe("denoiser", 6, window=256), tmp_path / "smaller.safetensors")
    larger = system_from_model(_recipe("denoiser", 6, window=128), tmp_path / "smaller.safetensors")
    assert isinstance(larger, DenoisingSystem)
    for name in ("mean", "deviation"):
        ours, theirs = larger.frontend.state_dict()[name], smaller.frontend.state_dict()[name]
        torch.testing.assert_close(ours, theirs[::2])
    # Below 1000 Hz each bin has its own band: bins 0 to 16 of 65 here, 0 to 32 of 129 there.
    ours, theirs = larger.experts[0], smaller.experts[0]
    torch.testing.assert_close(ours.linear.bias[:16], theirs.linear.bias[:32:2])
    torch.testing.assert_close(ours.linear.weight[:16], theirs.linear.weight[:32:2])
    scale = theirs.bands.count / ours.bands.count  # type: ignore[union-attr]
    torch.testing.assert_close(ours.layers.weight_ih_l0[:, :16], scale * theirs.layers.weight_ih_l0[:, :32:2])
    torch.testing.assert_close(ours.layers.weight_hh_l0, theirs.layers.weight_hh_l0)


@pytest.mark.parametrize("other", [{"units": 5}, {"units": 6, "layers": 3}])
def test_fewer_units_and_other_layers_are_refused(other: dict[str, int], tmp_path: Path) -> None:
    _saved(_recipe("denoiser", 6), tmp_path / "smaller.safetensors")
    with pytest.raises(UnmingleError, match="choose a model of the same sizes"):
        system_from_model(_recipe("denoiser", **other), tmp_path / "smaller.safetensors")
