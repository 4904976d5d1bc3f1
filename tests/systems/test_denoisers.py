"""Denoisers and sparse mixtures of local experts: the gate, the specialists, their training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import tiny_experts
from unmingle.batch import GENDERS, MixtureBatch
from unmingle.clustering import kmeans
from unmingle.errors import UnmingleError
from unmingle.losses import pairwise_waveform_error
from unmingle.models import load_system
from unmingle.networks import Lstm, LstmConfig, mean_over_time
from unmingle.systems import Denoiser, DenoiserConfig, LocalExperts
from unmingle.systems.local_experts import band_profile
from unmingle.training.recipe import Recipe


def _batch(count: int = 6, samples: int = 8000) -> MixtureBatch:
    generator = torch.Generator().manual_seed(1)
    speech = 0.1 * torch.randn(count, 1, samples, generator=generator)
    noise = 0.1 * torch.randn(count, samples, generator=generator)
    return MixtureBatch(
        speech[:, 0] + noise,
        speech,
        torch.ones(count, 1, dtype=torch.bool),
        snr=torch.tensor([-5.0, 0.0, 5.0, 10.0, -9.0, 2.6])[:count],
        gender=torch.tensor([0, 1, 2, 1, 0, 2])[:count],
    )


def _counted(system: LocalExperts) -> list[list[int]]:
    """For every specialist, the batch sizes it was run on from now on."""
    calls: list[list[int]] = [[] for _ in system.experts]
    for specialist, seen in zip(system.specialists, calls, strict=True):
        specialist.register_forward_hook(lambda _m, inputs, _o, seen=seen: seen.append(len(inputs[0])))
    return calls


def _choose(system: LocalExperts, scores: Tensor) -> None:
    """Make the gate give these scores whatever it hears."""
    torch.nn.init.zeros_(system.gate.linear.weight)
    system.gate.linear.bias.data.copy_(scores)


def _score(system: LocalExperts, mixture: Tensor) -> Tensor:
    spectra = system.frontend(mixture)
    return system.score(spectra.features, spectra.magnitude)


def test_lstm_steps_equal_the_whole_frame_by_frame_and_in_blocks() -> None:
    torch.manual_seed(0)
    network = Lstm(5, 3, LstmConfig(layers=2, hidden_size=7))
    features = torch.randn(2, 40, 5)
    whole = network(features)
    for sizes in ([1] * 40, [3, 1, 20, 16], [8, 9, 23]):
        with torch.inference_mode():
            state, parts = network.initial_state(2), []
            for part in features.split(sizes, dim=1):
                output, state = network.step(part, state)
                parts.append(output)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)
    with torch.no_grad():  # What a step keeps of the weights follows when they change.
        network.layers.weight_hh_l1.mul_(-0.5)
        output, _ = network.step(features[:, :3], network.initial_state(2))
        torch.testing.assert_close(output, network(features[:, :3]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("layers", "hidden"), [(1, 16), (2, 512), (3, 1024)])
def test_arithmetic_of_an_lstm_is_its_closed_form(layers: int, hidden: int) -> None:
    with torch.device("meta"):
        network = Lstm(513, 513, LstmConfig(layers=layers, hidden_size=hidden))
    inner = 4 * hidden * (513 + hidden) + (layers - 1) * 4 * hidden * (hidden + hidden)
    assert network.multiply_accumulates(10) == 10 * (inner + hidden * 513)


def test_the_papers_sizes_have_the_papers_parameters() -> None:
    def millions(hidden: int, layers: int, gate: int) -> float:
        system = tiny_experts(
            network={"layers": layers, "hidden_size": hidden}, gate={"layers": 2, "hidden_size": gate}
        )
        return system.active_parameter_count() / 1e6

    assert millions(512, 2, 128) == pytest.approx(4.9, abs=0.1)
    generalist = Denoiser(DenoiserConfig(network=LstmConfig(layers=3, hidden_size=1024)))
    assert generalist.parameter_count() / 1e6 == pytest.approx(23.6, abs=0.3)


def test_learned_and_active_are_counted_apart() -> None:
    system = tiny_experts()
    one = sum(p.numel() for p in system.experts[0].parameters())
    gate = sum(p.numel() for p in system.gate.parameters())
    assert system.parameter_count() == 4 * one + gate
    assert system.active_parameter_count() == one + gate
    frames = 16000 // 256 + 1
    assert system.multiply_accumulates(1.0) == frames * (
        4 * 8 * (513 + 8) + 8 * 513 + 4 * 8 * (513 + 8) + 8 * 4
    )


def test_only_the_chosen_specialist_runs_and_on_its_own_utterances() -> None:
    system, batch = tiny_experts(), _batch()
    features = system.frontend(batch.mixture).features
    calls = _counted(system)
    system.masks_of(features, torch.tensor([3, 1, 3, 3, 1, 3]))
    assert calls == [[], [2], [], [4]]
    _choose(system, torch.tensor([0.0, 0.0, 9.0, 0.0]))
    for seen in calls:
        seen.clear()
    system.separate(batch.mixture, 1)
    assert calls == [[], [], [6], []]


def test_masks_of_a_batch_are_those_of_each_utterance_by_its_own_specialist() -> None:
    system, batch = tiny_experts(), _batch()
    features = system.frontend(batch.mixture).features
    choice = torch.tensor([3, 1, 0, 3, 2, -1])
    masks = system.masks_of(features, choice)
    for index, number in enumerate(choice.tolist()[:-1]):
        alone = torch.sigmoid(system.experts[number](features[index : index + 1]))
        torch.testing.assert_close(masks[index], alone)
    assert float(masks[-1].detach().abs().max()) == 0


def test_input_gain_changes_neither_the_choice_nor_the_result() -> None:
    system, batch = tiny_experts(), _batch()
    loud = system.separate(batch.mixture, 1).sources
    for gain in (1e-3, 30.0):
        torch.testing.assert_close(_score(system, gain * batch.mixture), _score(system, batch.mixture))
        scaled = system.separate(gain * batch.mixture, 1).sources
        torch.testing.assert_close(scaled / gain, loud, atol=1e-5, rtol=1e-3)


def test_padding_does_not_change_the_gates_choice() -> None:
    system, batch = tiny_experts(), _batch()
    spectra = system.frontend(batch.mixture)
    features, magnitude = spectra.features, spectra.magnitude
    frames = torch.tensor([20, 31, 5, 1, 32, 30])
    scores = system.score(features, magnitude, frames)
    for index, count in enumerate(frames.tolist()):
        part = (index, slice(count))
        alone = system.score(features[part][None], magnitude[part][None])
        torch.testing.assert_close(scores[index], alone[0])
    values = torch.arange(12.0).reshape(2, 3, 2)
    torch.testing.assert_close(
        mean_over_time(values, torch.tensor([1, 3])), torch.tensor([[0.0, 1.0], [8.0, 9.0]])
    )


def test_labels_follow_the_latent_space() -> None:
    batch = _batch()
    by_snr = tiny_experts()
    spectra = by_snr.frontend(batch.mixture)
    assert by_snr.labels(batch, spectra).tolist() == [0, 1, 2, 3, 0, 2]
    by_gender = tiny_experts(latent="gender")
    assert GENDERS[:2] == ("F", "M")
    assert by_gender.labels(batch, spectra).tolist() == [0, 1, -1, 1, 0, -1]
    assert len(by_gender.experts) == 2
    batch.snr = batch.gender = None
    for system in (by_snr, by_gender):
        with pytest.raises(UnmingleError, match="choose the latent space spectrum"):
            system.labels(batch, spectra)


def test_the_spectrum_divides_mixtures_by_the_nearest_cluster_of_their_profiles() -> None:
    system = tiny_experts(latent="spectrum", clusters=2)
    time = torch.arange(8000) / 16000
    low = torch.stack([torch.sin(2 * math.pi * f * time) for f in (200.0, 220.0, 250.0)])
    high = torch.stack([torch.sin(2 * math.pi * f * time) for f in (5000.0, 5200.0, 5500.0)])
    mixtures = torch.cat([low, high]) + 0.01 * torch.randn(6, 8000)
    system.fit(mixtures)
    batch = MixtureBatch(mixtures, mixtures.unsqueeze(1), torch.ones(6, 1, dtype=torch.bool))
    labels = system.labels(batch, system.frontend(mixtures)).tolist()
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1
    assert labels[0] != labels[3]
    profiles = band_profile(system.frontend(mixtures).features)
    _, centres = kmeans(profiles, torch.ones(6), 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(system.centres, centres)
    assert centres.shape == (2, 2 * 32)
    distances = (profiles[:, None] - centres).square().sum(dim=-1)
    assert labels == [0 if near < far else 1 for near, far in distances.tolist()]


def test_a_profile_is_mean_and_deviation_over_time_of_each_band() -> None:
    features = torch.randn(2, 7, 64)
    profile = band_profile(features)
    for band in range(32):
        for place, pair in enumerate(features[..., 2 * band : 2 * band + 2].mean(dim=-1)):
            mean = float(pair.sum()) / 7
            deviation = math.sqrt(sum((float(value) - mean) ** 2 for value in pair) / 6)
            assert profile[place, band].item() == pytest.approx(mean, abs=1e-5)
            assert profile[place, 32 + band].item() == pytest.approx(deviation, abs=1e-5)


def test_apart_each_network_learns_from_its_own_mixtures_only() -> None:
    system, batch = tiny_experts(), _batch()
    system.choose_part("apart")
    losses = system.loss(batch)
    errors = []
    for index, label in enumerate([0, 1, 2, 3, 0, 2]):
        spectra = system.frontend(batch.mixture[index : index + 1])
        mask = torch.sigmoid(system.experts[label](spectra.features))
        estimate = system.frontend.stft.synthesise(spectra.spectrum * mask, 8000)
        one = slice(index, index + 1)
        errors.append(
            pairwise_waveform_error(
                estimate.unsqueeze(1), batch.sources[one], batch.active[one], batch.mixture[one]
            ).squeeze()
        )
    torch.testing.assert_close(losses["specialists"], torch.stack(errors).mean())
    scores = _score(system, batch.mixture)
    crossed = -torch.log_softmax(scores, dim=1)[torch.arange(6), torch.tensor([0, 1, 2, 3, 0, 2])]
    torch.testing.assert_close(losses["gate"], crossed.mean())
    errors[1].backward()
    assert [any(p.grad is not None for p in s.parameters()) for s in system.specialists] == [0, 1, 0, 0]


def test_a_stream_begins_with_the_middle_specialist_and_a_gate_hears_at_least_one_frame() -> None:
    assert tiny_experts().default_expert == 2
    assert tiny_experts(gate={"specialist": 1}).default_expert == 1
    assert tiny_experts(gate={"specialist": 1}, default_expert=0).default_expert == 0
    assert tiny_experts(gate={"specialist": 1, "seconds": 1e-3}).gate.listening_frames == 1


def test_the_gate_can_be_trained_alone() -> None:
    system, batch = tiny_experts(), _batch()
    system.choose_part("apart")
    gate = system.loss(batch)["gate"]
    system.choose_part("gate")
    calls = _counted(system)
    torch.testing.assert_close(system.loss(batch)["loss"], gate)
    assert calls == [[], [], [], []]


def test_a_mixture_of_unknown_label_teaches_nothing() -> None:
    system, batch = tiny_experts(latent="gender"), _batch()
    system.choose_part("apart")
    known = MixtureBatch(batch.mixture[:2], batch.sources[:2], batch.active[:2], gender=batch.gender[:2])
    with_unknown = MixtureBatch(
        batch.mixture[:3], batch.sources[:3], batch.active[:3], gender=batch.gender[:3]
    )
    torch.testing.assert_close(system.loss(known)["loss"], system.loss(with_unknown)["loss"])
    batch.gender = torch.full((6,), 2)
    with pytest.raises(UnmingleError, match="known gender"):
        system.loss(batch)


@pytest.mark.parametrize(
    ("gate", "sharpness"), [({"layers": 1, "hidden_size": 8}, 3.0), ({"specialist": 1, "seconds": 0.25}, 0.1)]
)
def test_together_the_estimates_are_weighted_by_the_hardened_gate(
    gate: dict[str, object], sharpness: float
) -> None:
    """Sivaraman & Kim 2020, Eq. 4 and 5, estimate by estimate; and what follows for every network."""
    system, batch = tiny_experts(gate=gate, sharpness=sharpness), _batch(2)
    spectra = system.frontend(batch.mixture)
    scores = _score(system, batch.mixture)
    errors = []
    for index in range(2):
        powers = [torch.exp(sharpness * score) for score in scores[index]]
        estimate = torch.zeros(8000)
        for power, expert in zip(powers, system.experts, strict=True):
            mask = torch.sigmoid(expert(spectra.features[index : index + 1]))
            part = system.frontend.stft.synthesise(spectra.spectrum[index : index + 1] * mask, 8000)[0]
            estimate = estimate + power / sum(powers) * part
        source = batch.sources[index, 0]
        scale = (estimate @ source) / (source @ source)
        noise = (scale * source - estimate).square().sum() / (scale * source).square().sum()
        errors.append(10 * torch.log10(noise + 1e-3))
    loss, expected = system.loss(batch)["loss"], torch.stack(errors).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    parameters = list(system.parameters())
    gradients, slow = (torch.autograd.grad(each, parameters) for each in (loss, expected))
    torch.testing.assert_close(gradients, slow, atol=1e-4, rtol=1e-3)
    for network in [system.gate, *system.experts]:
        place = next(k for k, each in enumerate(parameters) if each is network.linear.weight)
        assert float(gradients[place].abs().sum()) > 0


def test_together_a_specialist_with_hardly_a_share_does_not_run() -> None:
    system, batch = tiny_experts(sharpness=10.0), _batch()
    _choose(system, torch.tensor([0.59, 1.0, 0.9, 0.5]))  # Shares of 0.012, 0.72, 0.27 and 0.005.
    calls = _counted(system)
    loss = system.loss(batch)["loss"]
    assert calls == [[6], [6], [6], []]
    features = system.frontend(batch.mixture).features
    powers = [math.exp(-4.1), 1.0, math.exp(-1)]
    masks = torch.zeros_like(features)
    for number, power in enumerate(powers):
        masks = masks + power / sum(powers) * torch.sigmoid(system.experts[number](features))
    error = system.objective(system.frontend(batch.mixture), masks.unsqueeze(1), batch).mean()
    torch.testing.assert_close(loss, error)


@pytest.mark.parametrize("gate", [{"layers": 1, "hidden_size": 8}, {"specialist": 1, "seconds": 0.25}])
def test_a_very_hard_gate_is_the_choice_of_test_time(gate: dict[str, object]) -> None:
    system, batch = tiny_experts(gate=gate, sharpness=1e4), _batch()
    error = system.objective(*system.mask(batch.mixture, 1), batch).mean()
    torch.testing.assert_close(system.loss(batch)["loss"], error, atol=1e-3, rtol=1e-3)


def test_noise_alone_asks_for_silence() -> None:
    system, batch = tiny_experts(), _batch(1)
    batch.sources.zero_()
    batch.active[:] = False
    spectra = system.frontend(batch.mixture)
    errors = [
        float(system.objective(spectra, torch.full_like(spectra.features, value).unsqueeze(1), batch))
        for value in (1.0, 0.5, 0.1)
    ]
    assert errors == sorted(errors, reverse=True)


def test_impossible_recipes_and_parts_are_refused() -> None:
    values = {
        "name": "test",
        "system": {"kind": "local_experts"},
        "mixing": {"speakers": 1, "noise": {}},
        "stages": [{"seconds": 1.0, "steps": 1}],
    }
    with pytest.raises(ValueError, match=r"needs mixing\.noise"):
        Recipe.model_validate(values | {"mixing": {"speakers": 1}})
    with pytest.raises(ValueError, match="must be one of all, apart, gate, choice"):
        Recipe.model_validate(values | {"stages": [{"part": "first", "seconds": 1.0, "steps": 1}]})
    with pytest.raises(UnmingleError, match="no part 'second'"):
        tiny_experts().choose_part("second")
    with pytest.raises(ValueError, match="level must be running"):
        tiny_experts(stft={"level": "whole"})
    assert tiny_experts(stft={"hop": 512}).config.stft.level == "running"
    with pytest.raises(ValueError, match="default_expert must be below 4"):
        tiny_experts(default_expert=4)


def test_a_saved_mixture_of_experts_is_the_same_when_it_is_loaded(tiny_denoiser: Path) -> None:
    mixture = _batch().mixture
    loaded = load_system(tiny_denoiser)
    torch.testing.assert_close(
        loaded.separate(mixture, 1).sources, tiny_experts().separate(mixture, 1).sources, atol=1e-3, rtol=1e-2
    )
