"""A specialist as gate, and the gate's training by what its choice scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import tiny_experts
from unmingle.batch import MixtureBatch
from unmingle.denoising.expert_choice import ExpertMasks
from unmingle.systems import LocalExperts
from unmingle.systems.gates import (
    LstmGate,
    LstmGateConfig,
    SpecialistGate,
    SpecialistGateConfig,
    energies,
    low_freqs,
)

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


def _gate(*levels: float) -> SpecialistGate:
    return SpecialistGate(levels, SpecialistGateConfig(), 16)


def _score(system: LocalExperts, mixture: Tensor, frames: Tensor | None = None) -> Tensor:
    spectra = system.frontend(mixture)
    return system.score(spectra.features, spectra.spectrum.abs(), frames)


def test_scores_are_linear_in_what_the_mask_keeps_removes_and_doubts() -> None:
    gate, mask, magnitude = _gate(-5.0, 10.0), torch.rand(2, 7, 3), torch.rand(2, 7, 3)
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


@pytest.mark.parametrize("low", [2, 3])
def test_a_hidden_layer_reads_all_low_and_high_frequencies(low: int) -> None:
    torch.manual_seed(0)
    rate = 5000.0 * 6 / (low - 1)  # Of seven frequencies, so many are at most 2.5 kHz.
    gate = SpecialistGate((-5.0, 10.0), SpecialistGateConfig(hidden_size=5), 16, round(rate))
    mask, magnitude = torch.rand(1, 4, 7), torch.rand(1, 4, 7)
    scores = gate(gate.evidence(mask, magnitude).sum(dim=1))[0]
    figures = []
    for freqs in (slice(None), slice(low), slice(low, None)):
        kept, doubt, removed = energies(mask[..., freqs], magnitude[..., freqs])[0].sum(dim=0).tolist()
        figures += [10 * math.log10(kept / removed), 10 * math.log10(doubt / (kept + doubt + removed)) + 9]
    hidden = torch.tanh(gate.hidden.weight @ torch.tensor(figures) / 10 + gate.hidden.bias)
    torch.testing.assert_close(scores, gate.linear.weight @ hidden + gate.linear.bias)


def test_with_a_hidden_layer_a_stream_asks_it_with_all_that_it_heard_fading() -> None:
    own = OWN | {"hidden_size": 4}
    system, (features, magnitude) = tiny_experts(gate=own), _noise(62)
    with torch.no_grad():
        mask, sums = torch.sigmoid(system.experts[1](features)), torch.zeros(6)
        low = 161  # Of 513 frequencies up to 8 kHz, those up to 2.5 kHz.
        parts = [
            energies(mask[..., part], magnitude[..., part])[0] for part in (slice(low), slice(low, None))
        ]
        for one in torch.cat(parts, dim=-1):
            sums = sums * 0.5 ** (1 / 125) + one
        scores = system.gate(sums[None])[0]
        for number, advantage in enumerate(1e-3 * torch.eye(4)):
            before = system.gate.linear.bias.clone()
            system.gate.linear.bias.add_(advantage - scores)  # All others are just below.
            masks = ExpertMasks(system)
            masks.push(features, magnitude)
            assert masks.expert == number
            system.gate.linear.bias.copy_(before)


def test_by_choice_a_hidden_layer_learns() -> None:
    system = tiny_experts(gate=OWN | {"hidden_size": 4})
    system.choose_part("choice")
    system.loss(_batch())["loss"].backward()
    assert all(bool(parameter.grad.any()) for parameter in system.gate.parameters())


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(-30.0, 0), (-3.0, 0), (-2.0, 1), (2.4, 1), (2.6, 2), (7.4, 2), (8.0, 3), (60.0, 3)]
)
def test_a_fresh_gate_chooses_the_nearest_level(ratio: float, chosen: int) -> None:
    gate = _gate(-5.0, 0.0, 5.0, 10.0)
    assert int(gate(torch.tensor([[10 ** (ratio / 10), 0.3, 1.0]])).argmax()) == chosen


def test_a_fresh_gate_takes_the_ratio_for_the_snr_with_a_deviation_of_4_db() -> None:
    gate, ratio = _gate(-5.0, 10.0), 1.0
    low, high = gate(torch.tensor([[10 ** (ratio / 10), 0.3, 1.0]]))[0].tolist()
    likelihoods = [-((ratio - level) ** 2) / (2 * 4.0**2) for level in (-5.0, 10.0)]
    assert high - low == pytest.approx(likelihoods[1] - likelihoods[0], abs=1e-4)


def test_at_low_sample_rates_all_frequencies_are_low() -> None:
    for rate, share in ((4000, 1.0), (8000, 0.625)):
        config = SpecialistGateConfig(hidden_size=2)
        assert SpecialistGate((-5.0, 10.0), config, 16, rate).low_share == share
    # Bins 31.25 and 15.625 Hz apart, up to 2.5 kHz: bins 0 to 80, and 0 to 160.
    assert (low_freqs(0.625, 129), low_freqs(0.625, 257)) == (81, 161)


def test_a_gate_of_its_own_chooses_the_highest_score() -> None:
    assert LstmGate(5, 3, LstmGateConfig(layers=1, hidden_size=4)).choose(torch.tensor([0.1, 0.7, 0.2])) == 1


def test_silence_and_masks_of_nothing_have_finite_scores() -> None:
    gate = _gate(-5.0, 10.0)
    torch.nn.init.normal_(gate.linear.weight)
    # Silence speaks for no specialist.
    torch.testing.assert_close(gate(torch.zeros(1, 3))[0], gate.linear.bias)
    for mask, magnitude in ((0.5, 0.0), (0.0, 1.0), (1.0, 1.0)):
        evidence = energies(torch.full((1, 2, 3), mask), torch.full((1, 2, 3), magnitude)).sum(dim=1)
        assert gate(evidence).isfinite().all()


def test_it_hears_how_an_utterance_begins() -> None:
    system, batch = tiny_experts(gate=OWN), _batch()
    spectra = system.frontend(batch.mixture)
    magnitude = spectra.spectrum.abs()
    for index in range(4):
        one = slice(index, index + 1)
        mask = torch.sigmoid(system.experts[1](spectra.features[one, :16]))
        alone = system.gate(energies(mask, magnitude[one, :16]).sum(dim=1))
        torch.testing.assert_close(_score(system, batch.mixture)[one], alone)


def _choose_by_ratio(system: LocalExperts, ratio: float) -> None:
    """Specialist 1 below what is kept to what is removed in dB, 3 above it."""
    weight = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    with torch.no_grad():
        system.gate.linear.weight.copy_(weight)
        system.gate.linear.bias.copy_(torch.tensor([-9e3, 0.0, -9e3, -ratio]))


def _remembering(**changes: object) -> LocalExperts:
    """What it heard seconds ago still matters."""
    system = tiny_experts(gate=OWN, **changes)
    for expert in system.experts:
        expert.layers.bias_ih_l0.data[8:16] += 8.0  # Of the forget gates.
        expert.linear.weight.data *= 4.0
    return system


def _noise(frames: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, frames, 513, generator=generator), torch.rand(1, frames, 513, generator=generator)


def _frames_run(system: LocalExperts) -> dict[int, int]:
    """How many frames each specialist has masked, from now on."""
    ran: dict[int, int] = {}

    def count(number: int, outputs: Tensor) -> None:
        ran[number] = ran.get(number, 0) + outputs.shape[0] * outputs.shape[1]

    for number, expert in enumerate(system.experts):
        expert.linear.register_forward_hook(
            lambda _module, _inputs, outputs, number=number: count(number, outputs)
        )
    return ran


@torch.no_grad()
def test_chosen_it_goes_on_and_each_frame_is_masked_once() -> None:
    system, batch = _remembering(), _batch()
    lengths = torch.tensor([2000, 6000, 8000, 8000])
    frames = lengths // 256 + 1
    # What follows the first one would change its choice.
    batch.mixture[0, 2600:] *= 100
    spectra = system.frontend(batch.mixture)
    _choose_by_ratio(system, 0.0)
    choice = system.score(spectra.features, spectra.spectrum.abs(), frames).argmax(dim=1)
    assert set(choice.tolist()) == {1, 3}
    assert choice[0] != system.score(spectra.features, spectra.spectrum.abs()).argmax(dim=1)[0]
    ran = _frames_run(system)
    masks = system.mask(batch.mixture, 1, lengths)[1]
    total, ones = spectra.features.shape[1], int((choice == 1).sum())
    assert ran == {1: 4 * 16 + ones * (total - 16), 3: (4 - ones) * total}
    torch.testing.assert_close(masks, system.masks_of(spectra.features, choice))


@torch.no_grad()
@pytest.mark.parametrize("ratio", [-100.0, 100.0])
def test_a_file_in_pieces_begins_with_it(ratio: float) -> None:
    system, (features, magnitude) = tiny_experts(gate=OWN, default_expert=0), _noise(150)
    _choose_by_ratio(system, ratio)
    masks = ExpertMasks(system, look_ahead=70)
    heard = [
        masks.push(features[:, k : k + 30], magnitude[:, k : k + 30], ended=k == 120)
        for k in range(0, 150, 30)
    ]
    chosen = 3 if ratio < 0 else 1
    assert (masks.expert, masks.switches) == (chosen, 0)
    torch.testing.assert_close(torch.cat(heard, dim=1), torch.sigmoid(system.experts[chosen](features)))


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
    gate, evidence = _gate(-5.0, 0.0, 5.0, 10.0), torch.tensor([[5.69, 1.3, 1.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = gate(evidence)
    torch.testing.assert_close(scores, gate(evidence), atol=0.0, rtol=0.0)


def test_its_arithmetic_is_that_of_what_it_hears() -> None:
    system = tiny_experts(gate=OWN)
    frame = 4 * 8 * (513 + 8) + 8 * 513
    assert system.multiply_accumulates(1.0) == (63 + 16) * frame
    assert system.multiply_accumulates(1.0, 3) == (63 + 16) * frame
    assert system.multiply_accumulates(1.0, 1) == 63 * frame
    assert system.multiply_accumulates(0.1) == 2 * 7 * frame
    one = sum(p.numel() for p in system.experts[0].parameters())
    assert system.active_parameter_count() == 2 * one + 3 * 4
    assert system.parameter_count() == 4 * one + 3 * 4


@torch.no_grad()
def test_in_pieces_it_goes_on_from_where_it_was_or_hears_the_last_second_again() -> None:
    system, (features, magnitude) = _remembering(), _noise(210)
    ran = _frames_run(system)
    masks, heard = ExpertMasks(system, look_ahead=70), []
    for begin, ratio in ((0, 100.0), (70, -100.0), (140, 100.0)):
        _choose_by_ratio(system, ratio)
        part = slice(begin, begin + 70)
        heard.append(masks.push(features[:, part], magnitude[:, part]))
    # Both: three pieces, of which each masks its own; and a last second, what the gate heard, and a fade.
    assert ran == {1: 70 + 16 + 16 + 62 + 70, 3: 62 + 70 + 16}
    first, third = system.experts[1], system.experts[3]
    alone = torch.sigmoid(first(features[:, :86]))
    other = torch.sigmoid(third(features[:, 70 - 62 :]))[:, 62:]
    again = torch.sigmoid(first(features[:, 140 - 62 :]))[:, 62:]
    share = (torch.arange(1, 17) / 17)[None, :, None]
    torch.testing.assert_close(heard[0], alone[:, :70])
    torch.testing.assert_close(heard[1][:, :16], share * other[:, :16] + (1 - share) * alone[:, 70:])
    torch.testing.assert_close(heard[1][:, 16:], other[:, 16:70])
    torch.testing.assert_close(heard[2][:, :16], share * again[:, :16] + (1 - share) * other[:, 70:86])
    torch.testing.assert_close(heard[2][:, 16:], again[:, 16:])


@torch.no_grad()
@pytest.mark.parametrize("default", [1, 2])
def test_a_stream_asks_it_with_all_that_it_heard_fading(default: int) -> None:
    system, (features, magnitude) = _remembering(default_expert=default), _noise(440)
    gate = torch.sigmoid(system.experts[1](features))
    sums, ratios = torch.zeros(3), []
    for frame, one in enumerate(energies(gate, magnitude)[0], start=1):
        sums = sums * 0.5 ** (1 / 125) + one
        if frame in (62, 187, 312, 437):
            ratios.append(float(10 * (sums[0] / sums[2]).log10()))
    masks, begin = ExpertMasks(system), 0
    # Another one takes over and hands back; the gate has heard all of it.
    for end, ratio, chosen in zip((62, 187, 312, 437), ratios, (1, 3, 1, 3), strict=True):
        _choose_by_ratio(system, ratio + (1e-3 if chosen == 1 else -1e-3))
        for cut in (slice(begin, end - 9), slice(end - 9, end)):
            masks.push(features[:, cut], magnitude[:, cut])
        begin = end
        assert masks.expert == chosen


@torch.no_grad()
def test_in_a_stream_it_takes_over_with_all_that_it_heard() -> None:
    system, (features, magnitude) = _remembering(default_expert=3), _noise(100)
    _choose_by_ratio(system, 100.0)
    masks = ExpertMasks(system)
    heard = torch.cat(
        [masks.push(features[:, k : k + 1], magnitude[:, k : k + 1]) for k in range(100)], dim=1
    )
    assert masks.expert == 1
    torch.testing.assert_close(heard[:, 78:], torch.sigmoid(system.experts[1](features))[:, 78:])


def test_apart_the_specialists_alone_learn_where_one_of_them_is_the_gate() -> None:
    system, batch = tiny_experts(gate=OWN), _batch()
    system.choose_part("apart")
    ran = _frames_run(system)
    losses = system.loss(batch)
    # Each hears its own mixture, and the gate's none more.
    assert ran == dict.fromkeys(range(4), batch.mixture.shape[1] // 256 + 1)
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in system.gate.parameters())
    assert all(float(expert.linear.weight.grad.abs().sum()) > 0 for expert in system.experts)
    torch.testing.assert_close(losses["loss"], losses["specialists"])


def test_by_choice_the_gate_alone_learns_what_each_specialist_scores() -> None:
    # Two figures tell less than an LSTM hears.
    for gate, left in (({"layers": 1, "hidden_size": 8}, 0.4), (OWN, 0.7)):
        system, batch = tiny_experts(gate=gate, sharpness=1.5), _batch()
        system.choose_part("choice")
        loss = system.loss(batch)["loss"]
        spectra = system.frontend(batch.mixture)
        shares = torch.softmax(system.config.sharpness * _score(system, batch.mixture), dim=1)
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


def test_with_a_margin_a_specialist_for_higher_snrs_must_be_worth_it() -> None:
    system, batch = tiny_experts(gate=OWN | {"margin": 2.5}), _batch()
    system.choose_part("choice")
    spectra = system.frontend(batch.mixture)
    errors = torch.zeros(4, 4)
    for number in range(4):
        masks = system.masks_of(spectra.features, torch.full((4,), number))
        errors[:, number] = system.objective(spectra, masks, batch).detach()
    for number in range(4):
        # One-hot: its loss is that of the specialist chosen, and the margin if it is above the gate's own.
        torch.nn.init.zeros_(system.gate.linear.weight)
        system.gate.linear.bias.data = 100.0 * torch.nn.functional.one_hot(torch.tensor(number), 4)
        expected = errors[:, number].mean() + (2.5 if number > OWN["specialist"] else 0.0)
        torch.testing.assert_close(system.loss(batch)["loss"].detach(), expected)


def test_together_a_specialist_learns_as_gate_too() -> None:
    system, batch = tiny_experts(gate=OWN, sharpness=0.1), _batch()
    system.choose_part("all")
    _score(system, batch.mixture)[:, 0].sum().backward()
    assert float(system.experts[1].linear.weight.grad.abs().sum()) > 0
    system.zero_grad()
    system.choose_part("apart")
    _score(system, batch.mixture)[:, 0].sum().backward()
    assert system.experts[1].linear.weight.grad is None
    assert float(system.gate.linear.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("number", [0, 1])
def test_together_and_in_use_each_frame_is_masked_once(number: int) -> None:
    system, batch = tiny_experts(gate=OWN | {"specialist": number}, sharpness=0.1), _batch()
    frames = batch.mixture.shape[1] // 256 + 1
    system.choose_part("all")
    ran = _frames_run(system)
    system.loss(batch)
    assert ran == dict.fromkeys(range(4), 4 * frames)
    system.gate.linear.weight.data.zero_()
    system.gate.linear.bias.data = 9.0 * torch.nn.functional.one_hot(torch.tensor(number), 4)
    ran.clear()
    system.mask(batch.mixture, 1)
    assert ran == {number: 4 * frames}


def test_impossible_gates_are_refused() -> None:
    with pytest.raises(ValueError, match="not the gender"):
        tiny_experts(gate={"specialist": 0}, latent="gender")
    with pytest.raises(ValueError, match="must be below 4"):
        tiny_experts(gate={"specialist": 4})
    with pytest.raises(ValueError, match=r"gate\.specialist\.secnds"):
        tiny_experts(gate={"specialist": 0, "secnds": 1.0})
