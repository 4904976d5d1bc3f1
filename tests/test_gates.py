"""The gate that masks, and the gate's training by what its choice scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from conftest import tiny_experts
from unmingle.batch import MixtureBatch
from unmingle.frontend import FrontEnd, StftConfig
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.separation.expert_choice import ExpertMasks
from unmingle.systems import LocalExperts
from unmingle.systems.gates import GateConfig, MaskGate
from unmingle.training.initial import system_from_model
from unmingle.training.recipe import Recipe

MASK = {"layers": 1, "hidden_size": 8, "output": "mask"}


def _batch(count: int = 4, samples: int = 8000) -> MixtureBatch:
    generator = torch.Generator().manual_seed(1)
    speech = 0.1 * torch.randn(count, 1, samples, generator=generator)
    noise = 0.1 * torch.randn(count, samples, generator=generator)
    return MixtureBatch(
        speech[:, 0] + noise,
        speech,
        torch.ones(count, 1, dtype=torch.bool),
        snr=torch.tensor([-5.0, 0.0, 5.0, 10.0])[:count],
    )


def test_features_lead_back_to_the_magnitudes() -> None:
    mixture = _batch().mixture
    for feature in ("log_magnitude", "magnitude"):
        frontend = FrontEnd(StftConfig(level="running", feature=feature))
        frontend.fit(mixture)
        spectra = frontend(mixture)
        level = spectra.spectrum.abs() / frontend.magnitude(spectra.features)
        # One level a frame, the same for all its frequencies but those at the floor.
        torch.testing.assert_close(level, level[..., 5:6].expand_as(level), atol=0.0, rtol=1e-3)


def test_scores_are_linear_in_the_ratio_of_what_the_mask_keeps_to_what_it_removes() -> None:
    gate = MaskGate(3, [-5.0, 10.0], GateConfig(layers=1, hidden_size=4, output="mask"))
    outputs, magnitude = torch.randn(2, 7, 3), torch.rand(2, 7, 3)
    scores = gate.scores(gate.evidence(outputs, magnitude).mean(dim=1))
    for index in range(2):
        kept = removed = 0.0
        for frame in range(7):
            for freq in range(3):
                mask = 1 / (1 + math.exp(-float(outputs[index, frame, freq])))
                kept += mask * float(magnitude[index, frame, freq]) ** 2
                removed += (1 - mask) * float(magnitude[index, frame, freq]) ** 2
        ratio = 10 * math.log10(kept / removed)
        expected = gate.choice.weight[:, 0] * ratio + gate.choice.bias
        torch.testing.assert_close(scores[index], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(-30.0, 0), (-3.0, 0), (-2.0, 1), (2.4, 1), (2.6, 2), (7.4, 2), (8.0, 3), (60.0, 3)]
)
def test_a_fresh_gate_chooses_the_nearest_level(ratio: float, chosen: int) -> None:
    gate = MaskGate(3, [-5.0, 0.0, 5.0, 10.0], GateConfig(layers=1, hidden_size=4, output="mask"))
    assert int(gate.scores(torch.tensor([[10 ** (ratio / 10), 1.0]])).argmax()) == chosen


def test_silence_and_an_empty_mask_have_finite_scores() -> None:
    gate = MaskGate(3, [-5.0, 10.0], GateConfig(layers=1, hidden_size=4, output="mask"))
    for outputs, magnitude in (
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)),
        (torch.full((1, 2, 3), -1e4), torch.ones(1, 2, 3)),
    ):
        assert gate.scores(gate.evidence(outputs, magnitude).mean(dim=1)).isfinite().all()


def test_the_masks_error_is_least_at_the_wiener_filter_and_does_not_know_the_gain() -> None:
    gate = MaskGate(3, [-5.0, 10.0], GateConfig(layers=1, hidden_size=4, output="mask"))
    generator = torch.Generator().manual_seed(0)
    sources, noise = (torch.randn(2, 5, 3, dtype=torch.complex64, generator=generator) for _ in range(2))
    magnitude = torch.rand(2, 5, 3, generator=generator)
    power, other = sources.abs().square(), noise.abs().square()
    ideal = (power / (power + other)).logit().requires_grad_()
    error = gate.error(ideal, magnitude, sources + noise, sources)
    error.sum().backward()
    assert ideal.grad is not None
    assert float(ideal.grad.abs().max()) < 1e-4
    assert bool((gate.error(ideal + 0.3, magnitude, sources + noise, sources) > error).all())
    louder = gate.error(ideal, 7 * magnitude, 50 * (sources + noise), 50 * sources)
    torch.testing.assert_close(louder, error)


def test_the_masks_error_is_trained_beside_the_choice() -> None:
    system, batch = tiny_experts(gate=MASK), _batch()
    system.choose_part("gate")
    loss = system.loss(batch)["loss"]
    spectra = system.frontend(batch.mixture)
    crossed = -torch.log_softmax(system.score(spectra.features), dim=1).diagonal()
    sources = system.frontend.stft.analyse(batch.sources[:, 0])
    magnitude = system.frontend.magnitude(spectra.features)
    error = system.gate.error(system.gate(spectra.features), magnitude, spectra.spectrum, sources)
    torch.testing.assert_close(loss, (crossed + error).mean())
    loss.backward()
    assert float(system.gate.linear.weight.grad.abs().sum()) > 0


def test_gain_and_padding_do_not_change_a_mask_gates_scores() -> None:
    system, batch = tiny_experts(gate=MASK), _batch()
    features = system.frontend(batch.mixture).features
    scores = system.score(features)
    torch.testing.assert_close(
        system.score(system.frontend(30 * batch.mixture).features), scores, atol=1e-4, rtol=1e-4
    )
    padded = torch.cat([features, torch.randn(4, 9, 513)], dim=1)
    frames = torch.full((4,), features.shape[1])
    torch.testing.assert_close(system.score(padded, frames), scores)


def test_a_stream_asks_a_mask_gate_with_what_it_heard_fading() -> None:
    system = tiny_experts(gate=MASK)
    # Specialists that only this ratio tells apart, so that the choice says what the ratio was.
    features = torch.randn(1, 62, 513, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        evidence = system.gate.evidence(system.gate(features), system.frontend.magnitude(features))
        sums = torch.zeros(1, 2)
        for frame in range(62):
            sums = sums * 0.5 ** (1 / 125) + evidence[:, frame]
        ratio = 10 * (sums[:, 0] / sums[:, 1]).log10()
        for offset, chosen in ((-0.01, 1), (0.01, 3)):
            # Specialist 3 from the ratio on that was heard, or from a little above it.
            system.gate.choice.weight.copy_(torch.tensor([[-99.0], [0.0], [-99.0], [1.0]]))
            system.gate.choice.bias.copy_(torch.tensor([-9e3, 0.0, -9e3, float(-ratio) + offset]))
            masks = ExpertMasks(system)
            masks.push(features)
            assert masks.expert == chosen


def test_by_choice_the_gate_alone_learns_what_each_specialist_scores() -> None:
    system, batch = tiny_experts(), _batch()
    system.choose_part("choice")
    loss = system.loss(batch)["loss"]
    spectra = system.frontend(batch.mixture)
    shares = torch.softmax(system.score(spectra.features), dim=1)
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
    for _ in range(60):
        optimizer.zero_grad()
        system.loss(batch)["loss"].backward()
        optimizer.step()
    best = float(errors.amin(dim=1).mean())
    assert float(system.loss(batch)["loss"].detach()) - best < 0.2 * (float(loss.detach()) - best)


def test_a_new_gate_begins_beside_trained_specialists(tmp_path: Path) -> None:
    donor = tiny_experts()
    save_system(donor, tmp_path / "experts.safetensors", ModelFacts(), half=False)
    tiny = {"layers": 1, "hidden_size": 8}
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "system": {"kind": "local_experts", "network": tiny, "gate": MASK},
            "mixing": {"talkers": 1, "noise": {}},
            "stages": [{"part": "choice", "seconds": 1.0, "steps": 1}],
        }
    )
    system = system_from_model(recipe, tmp_path / "experts.safetensors")
    assert isinstance(system, LocalExperts)
    assert isinstance(system.gate, MaskGate)
    torch.testing.assert_close(system.specialists.state_dict(), donor.specialists.state_dict())
    save_system(system, tmp_path / "masking.safetensors", ModelFacts(), half=False)
    mixture = _batch().mixture
    loaded = load_system(tmp_path / "masking.safetensors")
    torch.testing.assert_close(loaded.separate(mixture, 1).sources, system.separate(mixture, 1).sources)


def test_a_mask_gate_divides_by_snr_only() -> None:
    with pytest.raises(ValueError, match="not the gender"):
        tiny_experts(gate=MASK, latent="gender")
