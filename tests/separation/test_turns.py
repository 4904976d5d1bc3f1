"""Turns: pieces of the estimates go to the speaker whose voice it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unmingle.audio import Samples, resample
from unmingle.separation import turns as module
from unmingle.separation.turns import Turns, recognize_turns
from unmingle.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig, pretrained_speaker_encoder

RATE = 8000


class TonesAsVoices(SpeakerEncoder):
    """The embedding is the share of the energy in each of four bands, so that right answers are known."""

    def __init__(self) -> None:
        super().__init__(SpeakerEncoderConfig(bands=4))

    def frames(self, features: Tensor) -> Tensor:
        energy = features.exp()[:, ::2].transpose(1, 2)
        return energy / energy.sum(dim=1, keepdim=True)

    def pool(self, frames: Tensor, weights: Tensor | None = None) -> Tensor:
        assert weights is not None
        return normalize((frames * (weights[:, None] + 1e-6)).sum(dim=-1), dim=1)


def _voice(hertz: float, seconds: float) -> Samples:
    """Bursts of a tone, with pauses."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone: Samples = (np.sin(2 * np.pi * hertz * time) * (time % 1.0 < 0.7)).astype(np.float32)
    return tone


def test_estimates_that_change_places_are_put_right() -> None:
    low, high = _voice(200, 12), _voice(3000, 12)
    half = np.arange(len(low)) < len(low) // 2
    estimates = np.stack([np.where(half, low, high), np.where(half, high, low)])
    turns = recognize_turns(TonesAsVoices().eval(), estimates, RATE)
    first, last = turns.labels[:, 2], turns.labels[:, -4]
    assert sorted(first) == sorted(last) == [0, 1]
    assert (first != last).all()
    assert len({tuple(column) for column in turns.labels[:, 1:22].T}) == 1
    masks = torch.from_numpy(estimates)[:, ::80, None]
    regrouped = turns.regroup(masks, 80 / RATE)[..., 0].numpy()
    wanted = np.stack([low, high])[:, ::80]
    if np.abs(regrouped[0] - wanted[0]).sum() > np.abs(regrouped[0] - wanted[1]).sum():
        wanted = wanted[::-1]
    away = np.abs(np.arange(wanted.shape[1]) * 80 / RATE - 6.0) > 0.3
    np.testing.assert_allclose(regrouped[:, away], wanted[:, away], atol=1e-6)


def test_one_who_speaks_alone_in_both_estimates_gets_one() -> None:
    """Speaker 1 in both estimates for twelve seconds, then both speakers as they should be."""
    low, high = _voice(200, 30), _voice(3000, 30)
    early = np.arange(len(low)) < 12 * RATE
    estimates = np.stack([low, np.where(early, 0.9 * low, high)])
    turns = recognize_turns(TonesAsVoices().eval(), estimates, RATE)
    assert turns.labels[:, 4].tolist() == [0, 0]
    assert turns.labels[:, -6].tolist() == [0, 1]


def test_good_estimates_stay_as_they_are() -> None:
    estimates = np.stack([_voice(200, 10), np.roll(_voice(3000, 10), RATE // 3)])
    turns = recognize_turns(TonesAsVoices().eval(), estimates, RATE)
    assert (turns.labels == np.array([[0], [1]])).all()
    masks = torch.rand(2, 1000, 3)
    torch.testing.assert_close(turns.regroup(masks, 0.01), masks)


@pytest.mark.parametrize(("hertz", "divided"), [(230, False), (3000, True)])
def test_one_estimate_is_divided_if_it_holds_two_voices(hertz: float, divided: bool) -> None:
    """Everything is in the first estimate; the second one is 40 dB below."""
    one, two = _voice(200, 12), _voice(hertz, 12)
    early = np.arange(len(one)) < len(one) // 2
    both = np.where(early, one, two)
    turns = recognize_turns(TonesAsVoices().eval(), np.stack([both, 0.01 * both]), RATE)
    assert (turns.labels[0, 3] != turns.labels[0, -4]) == divided
    if not divided:
        assert (turns.labels == np.array([[0], [1]])).all()


def test_more_sources_than_choices_stay_as_they_are() -> None:
    estimates = np.stack([_voice(300 * (k + 1), 3) for k in range(5)])
    turns = recognize_turns(TonesAsVoices().eval(), estimates, RATE)
    assert (turns.labels == np.arange(5)[:, None]).all()


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_short_and_silent_estimates_are_no_special_case(samples: int) -> None:
    for estimates in (np.zeros((2, samples)), np.random.default_rng(0).standard_normal((2, samples))):
        turns = recognize_turns(pretrained_speaker_encoder(), estimates.astype(np.float32), RATE)
        masks = torch.rand(2, 1 + samples // 128, 5)
        torch.testing.assert_close(turns.regroup(masks, 0.016).sum(dim=0), masks.sum(dim=0))


def test_the_masks_of_the_speakers_add_up_to_those_of_the_sources() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (3, 40))
    turns = Turns(labels, np.zeros((3, 2)), 0.24)
    masks = torch.rand(3, 620, 7)
    torch.testing.assert_close(turns.regroup(masks, 0.016).sum(dim=0), masks.sum(dim=0))


def test_the_order_of_the_sources_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    low, high = _voice(200, 12), _voice(3000, 12)
    swapped = np.repeat(rng.integers(0, 2, 6), 2 * RATE).astype(bool)
    estimates = np.stack([np.where(swapped, high, low), np.where(swapped, low, high)])
    encoder = TonesAsVoices().eval()
    there, back = (recognize_turns(encoder, each, RATE) for each in (estimates, estimates[::-1].copy()))
    masks = torch.from_numpy(estimates)[:, ::80, None]
    one = there.regroup(masks, 80 / RATE)
    other = back.regroup(masks.flip(0), 80 / RATE)
    assert torch.allclose(one, other) or torch.allclose(one, other.flip(0))


def test_what_is_heard_equals_a_slow_computation() -> None:
    """Voices of 0.48 s to both sides of a piece's middle, by the frames' energy and share; loudness at borders."""
    rng = np.random.default_rng(5)
    steps = np.repeat(10 ** rng.uniform(-2.2, 0, (2, 40)), 640, axis=1)[:, : 39 * 640 + 100]
    estimates = (steps * rng.standard_normal(steps.shape)).astype(np.float32)
    encoder = TonesAsVoices().eval()
    voices, presence, loudness = module._hear(encoder, estimates, RATE)
    frames = encoder.frames(encoder.features(torch.from_numpy(estimates))).double().numpy()
    count = frames.shape[-1]
    energy = np.zeros((2, count))
    for frame in range(count):
        energy[:, frame] = np.square(estimates[:, 320 * frame : 320 * (frame + 1)].astype(float)).sum(axis=1)
    energy /= np.sort(energy.max(axis=0))[::-1][: round(0.3 * count)].mean()
    weights = np.clip(100 * energy - 0.1, 0, 1) * energy / energy.sum(axis=0)
    pieces = -(-count // 6)
    assert voices.shape == (2, pieces, 4)
    for source in range(2):
        for piece in range(pieces):
            near = range(max(0, 6 * piece + 3 - 12), min(count, 6 * piece + 3 + 12))
            expected = sum(frames[source, :, k] * (weights[source, k] + 1e-6) for k in near)
            expected /= np.linalg.norm(expected)
            np.testing.assert_allclose(voices[source, piece], expected, atol=1e-4)
            own = range(6 * piece, min(count, 6 * piece + 6))
            assert presence[source, piece] == pytest.approx(
                sum(weights[source, k] for k in own) / 6, abs=1e-4
            )
    for border in range(1, pieces):
        expected_loudness = min(1.0, 10 * energy[:, 6 * border - 1 : 6 * border + 1].sum() / 2)
        assert loudness[border - 1] == pytest.approx(expected_loudness, abs=1e-4)


def test_choices_are_the_best_of_all_sequences() -> None:
    """Viterbi against every sequence of choices of six pieces."""
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((2, 6, 3))
    voices /= np.linalg.norm(voices, axis=-1, keepdims=True)
    presence, centres, loudness = rng.random((2, 6)), rng.standard_normal((2, 3)), rng.random(5)
    choices = module._choices(2)
    assert choices.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    changes = 0.5 + 1.5 * loudness
    links = -changes[:, None, None] * (1 - np.eye(4))
    states, total = module._decode(module._fits(voices, presence, centres), choices, links)

    def likelihood(sequence: tuple[int, ...]) -> float:
        value = 0.0
        for piece, choice in enumerate(sequence):
            for source, speaker in enumerate(choices[choice]):
                centre = centres[speaker] / np.linalg.norm(centres[speaker])
                value += 8.0 * presence[source, piece] * float(voices[source, piece] @ centre)
            value -= 0.5 * (choice >= 2)
            if piece and sequence[piece - 1] != choice:
                value -= changes[piece - 1]
        return value

    best = max(product(range(4), repeat=6), key=likelihood)
    assert tuple(states) == best
    assert total == pytest.approx(likelihood(best))


def test_real_voices_that_change_places_are_put_right(example_sources: Samples) -> None:
    """The two people of the example, four times in a row; from the third time on in the other's estimate."""
    voices = resample(np.tile(example_sources, 4), 16000, RATE)
    half = np.arange(voices.shape[1]) < voices.shape[1] // 2
    estimates = np.where(half, voices, voices[::-1])
    turns = recognize_turns(pretrained_speaker_encoder(), estimates, RATE)
    masks = torch.from_numpy(np.ascontiguousarray(estimates[:, ::80, None]))
    regrouped = turns.regroup(masks, 80 / RATE)[..., 0].numpy()
    wanted = voices[:, ::80]
    wrong = [np.square(regrouped - each).sum() / np.square(wanted).sum() for each in (wanted, wanted[::-1])]
    assert min(wrong) < 0.1
