"""What mixtures of local experts begin with: the weights of a generalist, or of other local experts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import TINY_BLSTM, tiny_experts, tiny_system
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.systems import Denoiser, DenoiserConfig, LocalExperts
from unmingle.systems.gates import SpecialistGate, SpecialistGateConfig
from unmingle.training.initial import system_from_model
from unmingle.training.recipe import Recipe

OWN = {"specialist": 1, "seconds": 0.25}


def test_specialists_begin_with_a_generalists_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    tiny = {"layers": 1, "hidden_size": 8}
    donor = Denoiser(DenoiserConfig.model_validate({"network": tiny}))
    donor.fit(0.1 * torch.randn(4, 8000))
    save_system(donor, tmp_path / "generalist.safetensors", ModelFacts(), half=False)
    values = {
        "name": "test",
        "system": {"kind": "local_experts", "network": tiny, "gate": tiny},
        "mixing": {"speakers": 1, "noise": {}},
        "stages": [{"part": "apart", "seconds": 1.0, "steps": 1}],
    }
    system = system_from_model(Recipe.model_validate(values), tmp_path / "generalist.safetensors")
    assert isinstance(system, LocalExperts)
    torch.testing.assert_close(system.frontend.mean, donor.frontend.mean)
    for specialist in system.specialists:
        torch.testing.assert_close(specialist.state_dict(), donor.network.state_dict())
    values["system"]["bands_above"] = 8000.0  # type: ignore[index]  # As many bands as bins, but said otherwise.
    with pytest.raises(UnmingleError, match="another network"):
        system_from_model(Recipe.model_validate(values), tmp_path / "generalist.safetensors")
    values["system"]["bands_above"] = None  # type: ignore[index]
    values["system"]["network"] = {"layers": 1, "hidden_size": 9}  # type: ignore[index]
    with pytest.raises(UnmingleError, match="another network"):
        system_from_model(Recipe.model_validate(values), tmp_path / "generalist.safetensors")


def test_a_new_gate_begins_beside_trained_specialists(tmp_path: Path) -> None:
    donor = tiny_experts()
    save_system(donor, tmp_path / "experts.safetensors", ModelFacts(), half=False)
    tiny = {"layers": 1, "hidden_size": 8}
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "system": {"kind": "local_experts", "network": tiny, "gate": OWN},
            "mixing": {"speakers": 1, "noise": {}},
            "stages": [{"part": "choice", "seconds": 1.0, "steps": 1}],
        }
    )
    system = system_from_model(recipe, tmp_path / "experts.safetensors")
    assert isinstance(system, LocalExperts)
    assert isinstance(system.gate, SpecialistGate)
    torch.testing.assert_close(system.specialists.state_dict(), donor.specialists.state_dict())
    save_system(system, tmp_path / "own.safetensors", ModelFacts(), half=False)
    mixture = 0.1 * torch.randn(4, 8000)
    loaded = load_system(tmp_path / "own.safetensors")
    torch.testing.assert_close(loaded.separate(mixture, 1).sources, system.separate(mixture, 1).sources)


def test_trained_specialists_may_move_to_other_levels_and_the_gate_begins_anew(tmp_path: Path) -> None:
    donor = tiny_experts(gate=OWN)
    torch.nn.init.zeros_(donor.gate.linear.bias)
    save_system(donor, tmp_path / "experts.safetensors", ModelFacts(), half=False)
    system = {
        "kind": "local_experts",
        "network": {"layers": 1, "hidden_size": 8},
        "gate": OWN,
        "snr_levels": [-5.0, 2.5, 10.0, 25.0],
    }
    values = {
        "name": "test",
        "system": system,
        "mixing": {"speakers": 1, "noise": {}},
        "stages": [{"seconds": 1.0, "steps": 1}],
    }
    moved = system_from_model(Recipe.model_validate(values), tmp_path / "experts.safetensors")
    assert isinstance(moved, LocalExperts)
    torch.testing.assert_close(moved.specialists.state_dict(), donor.specialists.state_dict())
    torch.testing.assert_close(
        moved.gate.state_dict(),
        SpecialistGate([-5.0, 2.5, 10.0, 25.0], SpecialistGateConfig(), 16).state_dict(),
        rtol=0,
        atol=0,
    )
    # A gate that tells the gender stays as it was.
    gender = tiny_experts(latent="gender")
    save_system(gender, tmp_path / "gender.safetensors", ModelFacts(), half=False)
    other = system | {"latent": "gender", "gate": gender.config.gate.model_dump()}
    kept = system_from_model(
        Recipe.model_validate(values | {"system": other}), tmp_path / "gender.safetensors"
    )
    assert isinstance(kept, LocalExperts)
    torch.testing.assert_close(kept.gate.state_dict(), gender.gate.state_dict())


@pytest.mark.parametrize(
    ("levels", "nearest"), [([-9.0, 6.0, 8.0], [0, 2, 3]), ([-5.0, 0.0, 1.0, 5.0, 30.0], [0, 1, 1, 2, 3])]
)
def test_more_or_fewer_specialists_begin_as_the_one_for_the_nearest_level(
    tmp_path: Path, levels: list[float], nearest: list[int]
) -> None:
    donor = tiny_experts()  # For -5, 0, 5 and 10 dB.
    save_system(donor, tmp_path / "experts.safetensors", ModelFacts(), half=False)
    values = {
        "name": "test",
        "system": donor.config.model_dump() | {"snr_levels": levels},
        "mixing": {"speakers": 1, "noise": {}},
        "stages": [{"seconds": 1.0, "steps": 1}],
    }
    system = system_from_model(Recipe.model_validate(values), tmp_path / "experts.safetensors")
    assert isinstance(system, LocalExperts)
    assert len(system.specialists) == len(levels)
    for specialist, number in zip(system.specialists, nearest, strict=True):
        torch.testing.assert_close(specialist.state_dict(), donor.specialists[number].state_dict())
    torch.testing.assert_close(system.frontend.state_dict(), donor.frontend.state_dict())
    values["system"]["network"] = {"layers": 1, "hidden_size": 9}
    with pytest.raises(UnmingleError, match="same sizes"):
        system_from_model(Recipe.model_validate(values), tmp_path / "experts.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 40, "unit_norm": True, "objective": "affinity", "formation": "kmeans"},
        {"kind": "mask_inference"},
        {"anchors": 3, "dimension": 4},
    ],
)
def test_other_embeddings_masks_or_anchors_begin_behind_the_same_layers(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    donor = tiny_system()
    save_system(donor, tmp_path / "donor.safetensors", ModelFacts(), half=False)
    system = {"kind": "embedding_separator", "stft": {"hop": 128}, "network": TINY_BLSTM} | changes
    values = {"name": "test", "system": system, "stages": [{"seconds": 1.0, "steps": 1}]}
    begun = system_from_model(Recipe.model_validate(values), tmp_path / "donor.safetensors")
    ours, theirs = begun.state_dict(), donor.state_dict()
    assert ours.keys() ^ theirs.keys() <= {"formation.anchors", "training_formation.anchors"}
    for name, value in theirs.items():
        new = "anchors" in name or (name.startswith("network.linear.") and "anchors" not in changes)
        if not new:
            torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
    assert begun.separate(0.1 * torch.randn(1, 8000), 2).sources.isfinite().all()
    network = {"network": TINY_BLSTM | {"hidden_size": 9}}
    with pytest.raises(UnmingleError, match="another network"):
        system_from_model(
            Recipe.model_validate(values | {"system": system | network}), tmp_path / "donor.safetensors"
        )
