"""A specialist as gate, and the gate's training by what its choice scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import tiny_experts
from unmingle.batch import MixtureBatch
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.separation.expert_choice import ExpertMasks
from unmingle.systems import LocalExperts
from unmingle.systems.gates import SpecialistGate, energies, loudest_stretch
from unmingle.training.initial import system_from_model
from unmingle.training.recipe import Recipe

OWN = {"specialist": 1, "seconds": 0.25}
"""16 frames."""


def _batch(count: int = 4, samples: int = 8000) -> MixtureBatch:
    generator = torch.Generator().manual_seed(1)
    speech = 0.1 * torch.randn(count, 1, samples, generator=generator)
    noise = 0.1 * torch.randn(count, samples, generator=generator)
    noise[:, : samples // 2] *= torch.tensor([0.1, 0.2, 3.0, 4.0])[:count, None]
    return MixtureBatch(
        speech[:, 0] + noise,
        speech,
        torch.ones(count, 1, dtype=torch.bool),
        snr=torch.tensor([-5.0, 0.0, 5.0, 10.0])[:count],
    )


def _score(system: LocalExperts, mixture: Tensor, frames: Tensor | None = None) -> Tensor:
    spectra = system.frontend(mixture)
    return system.score(spectra.features, spectra.spectrum.abs(), frames)


def test_scores_are_linear_in_what_the_mask_keeps_removes_and_doubts() -> None:
    gate, mask, magnitude = SpecialistGate([-5.0, 10.0]), torch.rand(2, 7, 3), torch.rand(2, 7, 3)
    torch.nn.init.normal_(gate.linear.weight)
    scores = gate(energies(mask, magnitude).sum(dim=1))
    for index in range(2):
        kept = removed = whole = 0.0
        for frame in range(7):
            for freq in range(3):
                power, share = float(magnitude[index, frame, freq]) ** 2, float(mask[index, frame, freq])
                kept += share**2 * power
                removed += (1 - share) ** 2 * power
                whole += power
        ratio = 10 * math.log10(kept / removed)
        doubt = 10 * math.log10((whole - kept - removed) / whole) + 9
        expected = gate.linear.weight @ torch.tensor([ratio, doubt]) + gate.linear.bias
        torch.testing.assert_close(scores[index], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(-30.0, 0), (-3.0, 0), (-2.0, 1), (2.4, 1), (2.6, 2), (7.4, 2), (8.0, 3), (60.0, 3)]
)
def test_a_fresh_gate_chooses_the_nearest_level(ratio: float, chosen: int) -> None:
    gate = SpecialistGate([-5.0, 0.0, 5.0, 10.0])
    assert int(gate(torch.tensor([[10 ** (ratio / 10), 0.3, 1.0]])).argmax()) == chosen


def test_silence_and_masks_of_nothing_have_finite_scores() -> None:
    gate = SpecialistGate([-5.0, 10.0])
    torch.nn.init.normal_(gate.linear.weight)
    # Silence speaks for no specialist.
    torch.testing.assert_close(gate(torch.zeros(1, 3))[0], gate.linear.bias)
    for mask, magnitude in ((0.5, 0.0), (0.0, 1.0), (1.0, 1.0)):
        evidence = energies(torch.full((1, 2, 3), mask), torch.full((1, 2, 3), magnitude)).sum(dim=1)
        assert gate(evidence).isfinite().all()


def test_the_loudest_stretch_is_that_of_a_slow_search() -> None:
    magnitude = torch.rand(5, 20, 3, generator=torch.Generator().manual_seed(0))
    frames = torch.tensor([20, 19, 6, 3, 1])
    stretch, inside = loudest_stretch(magnitude, 6, frames)
    for index, count in enumerate(frames.tolist()):
        starts = range(max(1, count - 5))
        energy = [float(magnitude[index, k : min(count, k + 6)].square().sum()) for k in starts]
        best = energy.index(max(energy))
        assert stretch[index].tolist() == list(range(best, best + 6))
        assert int(inside[index].sum()) == min(6, count)
    whole, _ = loudest_stretch(magnitude, 20)
    assert whole[0].tolist() == list(range(20))


def test_the_specialist_hears_the_loudest_stretch_alone() -> None:
    system, batch = tiny_experts(gate=OWN), _batch()
    spectra = system.frontend(batch.mixture)
    magnitude = spectra.spectrum.abs()
    stretch, _ = loudest_stretch(magnitude, 16)
    assert len(set(stretch[:, 0].tolist())) > 1
    for index in range(4):
        heard = spectra.features[index : index + 1, stretch[index]]
        mask = torch.sigmoid(system.experts[1](heard))
        alone = system.gate(energies(mask, magnitude[index : index + 1, stretch[index]]).sum(dim=1))
        torch.testing.assert_close(_score(system, batch.mixture)[index : index + 1], alone)


def test_neither_gain_nor_padding_changes_its_scores() -> None:
    system, batch = tiny_experts(gate=OWN), _batch()
    scores = _score(system, batch.mixture)
    for gain in (1e-4, 30.0):
        torch.testing.assert_close(_score(system, gain * batch.mixture), scores, atol=1e-3, rtol=1e-4)
    spectra = system.frontend(batch.mixture)
    features, magnitude = spectra.features, spectra.spectrum.abs()
    padded, louder = (torch.cat([part, 9 * torch.rand(4, 9, 513)], dim=1) for part in (features, magnitude))
    frames = torch.full((4,), features.shape[1])
    torch.testing.assert_close(system.score(padded, louder, frames), scores)
    short = system.score(features, magnitude, torch.full((4,), 5))
    torch.testing.assert_close(short, system.score(features[:, :5], magnitude[:, :5]))


def test_scores_are_not_rounded_in_training() -> None:
    gate, evidence = SpecialistGate([-5.0, 0.0, 5.0, 10.0]), torch.tensor([[5.69, 1.3, 1.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = gate(evidence)
    torch.testing.assert_close(scores, gate(evidence), atol=0.0, rtol=0.0)


def test_its_arithmetic_is_that_of_what_it_hears() -> None:
    system = tiny_experts(gate=OWN)
    frame = 4 * 8 * (513 + 8) + 8 * 513
    assert system.multiply_accumulates(1.0) == (63 + 16) * frame
    assert system.multiply_accumulates(0.1) == 2 * 7 * frame
    one = sum(p.numel() for p in system.experts[0].parameters())
    assert system.active_parameter_count() == 2 * one + 3 * 4
    assert system.parameter_count() == 4 * one + 3 * 4


def test_a_stream_asks_it_with_what_it_heard_last_fading() -> None:
    system = tiny_experts(gate=OWN)
    # Its hearing, from 16 frames before each choice, after 62 and 62 + 125 frames.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 187, 513, generator=generator)
    magnitude = torch.rand(1, 187, 513, generator=generator)
    with torch.no_grad():
        sums = torch.zeros(3)
        for end in (62, 187):
            mask = torch.sigmoid(system.experts[1](features[:, end - 16 : end]))
            one = energies(mask, magnitude[:, end - 16 : end])[0]
            ages = torch.arange(15, -1, -1)
            sums = sums * 0.5 + (0.5 ** (ages / 125))[:, None].mul(one).sum(dim=0)
        ratio = float(10 * (sums[0] / sums[2]).log10())
        for offset, chosen in ((-0.01, 1), (0.01, 3)):
            # Specialist 3 from the ratio on that was heard, or from a little above it.
            system.gate.linear.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
            system.gate.linear.bias.copy_(torch.tensor([-9e3, 0.0, -9e3, offset - ratio]))
            masks = ExpertMasks(system)
            masks.push(features[:, :100], magnitude[:, :100])
            masks.push(features[:, 100:], magnitude[:, 100:])
            assert masks.expert == chosen


def test_by_choice_the_gate_alone_learns_what_each_specialist_scores() -> None:
    # Two figures tell less than an LSTM hears.
    for gate, left in (({"layers": 1, "hidden_size": 8}, 0.4), (OWN, 0.7)):
        system, batch = tiny_experts(gate=gate, hardness=1.5), _batch()
        system.choose_part("choice")
        loss = system.loss(batch)["loss"]
        spectra = system.frontend(batch.mixture)
        shares = torch.softmax(system.config.hardness * _score(system, batch.mixture), dim=1)
        expected, errors = torch.zeros(()), torch.zeros(4, 4)
        for number in range(4):
            masks = system.masks_of(spectra.features, torch.full((4,), number))
            errors[:, number] = system.objective(spectra, masks, batch).detach()
        for index in range(4):
            for number in range(4):
                expected = expected + shares[index, number] * errors[index, number] / 4
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert all(p.grad is None for specialist in system.specialists for p in specialist.parameters())
        optimizer = torch.optim.Adam(system.gate.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            system.loss(batch)["loss"].backward()
            optimizer.step()
        best, now = float(errors.amin(dim=1).mean()), float(system.loss(batch)["loss"].detach())
        assert now - best < left * (float(loss.detach()) - best)


def test_together_a_specialist_learns_as_gate_too() -> None:
    system, batch = tiny_experts(gate=OWN, hardness=0.1), _batch()
    system.choose_part("all")
    _score(system, batch.mixture)[:, 0].sum().backward()
    assert float(system.experts[1].linear.weight.grad.abs().sum()) > 0
    system.zero_grad()
    system.choose_part("apart")
    _score(system, batch.mixture)[:, 0].sum().backward()
    assert system.experts[1].linear.weight.grad is None
    assert float(system.gate.linear.weight.grad.abs().sum()) > 0


def test_a_new_gate_begins_beside_trained_specialists(tmp_path: Path) -> None:
    donor = tiny_experts()
    save_system(donor, tmp_path / "experts.safetensors", ModelFacts(), half=False)
    tiny = {"layers": 1, "hidden_size": 8}
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "system": {"kind": "local_experts", "network": tiny, "gate": OWN},
            "mixing": {"talkers": 1, "noise": {}},
            "stages": [{"part": "choice", "seconds": 1.0, "steps": 1}],
        }
    )
    system = system_from_model(recipe, tmp_path / "experts.safetensors")
    assert isinstance(system, LocalExperts)
    assert isinstance(system.gate, SpecialistGate)
    torch.testing.assert_close(system.specialists.state_dict(), donor.specialists.state_dict())
    save_system(system, tmp_path / "own.safetensors", ModelFacts(), half=False)
    mixture = _batch().mixture
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
        "mixing": {"talkers": 1, "noise": {}},
        "stages": [{"seconds": 1.0, "steps": 1}],
    }
    moved = system_from_model(Recipe.model_validate(values), tmp_path / "experts.safetensors")
    assert isinstance(moved, LocalExperts)
    torch.testing.assert_close(moved.specialists.state_dict(), donor.specialists.state_dict())
    torch.testing.assert_close(
        moved.gate.state_dict(), SpecialistGate([-5.0, 2.5, 10.0, 25.0]).state_dict(), rtol=0, atol=0
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
    system["snr_levels"] = [-5.0, 2.5, 10.0]
    with pytest.raises(UnmingleError, match="same sizes"):
        system_from_model(Recipe.model_validate(values), tmp_path / "experts.safetensors")


def test_impossible_gates_are_refused() -> None:
    with pytest.raises(ValueError, match="not the gender"):
        tiny_experts(gate={"specialist": 0}, latent="gender")
    with pytest.raises(ValueError, match="must be below 4"):
        tiny_experts(gate={"specialist": 4})
    with pytest.raises(ValueError, match=r"gate\.specialist\.secnds"):
        tiny_experts(gate={"specialist": 0, "secnds": 1.0})
