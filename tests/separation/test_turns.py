"""Turns: pieces of the estimates go to the speaker whose voice it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from test_windows import LowAndHigh
from torch import Tensor
from torch.nn.functional import normalize

from unmingle.audio import Samples, resample
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.turns import hear, recognize_turns, shares
from unmingle.separation.voice_clusters import Heard, Labels, VoiceClusters
from unmingle.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig, pretrained_speaker_encoder

RATE = 8000


class TonesAsVoices(SpeakerEncoder):
    """The embedding is the share of the energy in each of four bands, so that right answers are known."""

    def __init__(self) -> None:
        super().__init__(SpeakerEncoderConfig(bands=4, dim=4))

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


def _turns(encoder: SpeakerEncoder, estimates: Samples) -> Labels:
    """Labels of a recording of one window."""
    sources = len(estimates)
    return recognize_turns([hear(encoder, estimates, RATE)], [np.arange(sources)], sources, sources).labels[0]


def _regrouped(labels: Labels, values: Samples, seconds: float) -> Samples:
    """What the speakers get of the sources' values ``(sources, frames)``."""
    share = shares(labels, len(values), values.shape[1], seconds)
    regrouped: Samples = np.einsum("skt,st->kt", share, values)
    return regrouped


def test_estimates_that_change_places_are_put_right() -> None:
    low, high = _voice(200, 12), _voice(3000, 12)
    half = np.arange(len(low)) < len(low) // 2
    estimates = np.stack([np.where(half, low, high), np.where(half, high, low)])
    labels = _turns(TonesAsVoices().eval(), estimates)
    first, last = labels[:, 2], labels[:, -4]
    assert sorted(first) == sorted(last) == [0, 1]
    assert (first != last).all()
    assert len({tuple(column) for column in labels[:, 1:22].T}) == 1
    regrouped = _regrouped(labels, estimates[:, ::80], 80 / RATE)
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
    labels = _turns(TonesAsVoices().eval(), estimates)
    assert labels[:, 4].tolist() == [0, 0]
    assert labels[:, -6].tolist() == [0, 1]


def test_good_estimates_stay_as_they_are() -> None:
    estimates = np.stack([_voice(200, 10), np.roll(_voice(3000, 10), RATE // 3)])
    labels = _turns(TonesAsVoices().eval(), estimates)
    assert (labels == np.array([[0], [1]])).all()
    values = np.random.default_rng(0).random((2, 1000)).astype(np.float32)
    np.testing.assert_array_equal(_regrouped(labels, values, 0.01), values)


@pytest.mark.parametrize(("hertz", "divided"), [(230, False), (3000, True)])
def test_one_estimate_is_divided_if_it_holds_two_voices(hertz: float, divided: bool) -> None:
    """Everything is in the first estimate; the second one is 40 dB below."""
    one, two = _voice(200, 12), _voice(hertz, 12)
    early = np.arange(len(one)) < len(one) // 2
    both = np.where(early, one, two)
    labels = _turns(TonesAsVoices().eval(), np.stack([both, 0.01 * both]))
    assert (labels[0, 3] != labels[0, -4]) == divided
    if not divided:
        assert (labels == np.array([[0], [1]])).all()


def test_more_people_than_the_system_separates_get_a_file_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system divides low from high sounds. Two people have low voices, and take turns."""
    monkeypatch.setattr("unmingle.separation.recording.pretrained_speaker_encoder", TonesAsVoices().eval)
    turn = (np.arange(24 * RATE) // (3 * RATE)) % 4
    voices = np.stack([_voice(hertz, 24) for hertz in (200, 850, 3000)])
    voices *= np.stack([turn == 0, turn == 2, turn % 2 == 1])
    mixture = voices.sum(axis=0)
    with RecordingSeparation(LowAndHigh(), RATE, 3, 8.0, 2.0) as separation:
        separation.push(mixture)
        tracks = separation.finish()
        estimates = np.concatenate(list(separation.estimates([mixture])), axis=1)
    assert tracks.speakers == 3
    np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=1e-3)
    for estimate, voice in zip(estimates, voices[[0, 2, 1]], strict=True):
        assert np.square(estimate - voice).sum() < 0.05 * np.square(voice).sum()


def test_more_people_than_asked_for_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmingle.separation.recording.pretrained_speaker_encoder", TonesAsVoices().eval)
    turn = (np.arange(60 * RATE) // (3 * RATE)) % 4
    voices = np.stack([_voice(hertz, 60) for hertz in (200, 850, 3000)])
    two, three = voices * (turn % 2 == [[0], [2], [1]]), voices * (turn == [[0], [2], [1]])
    for mixture, more in ((two.sum(axis=0), False), (three.sum(axis=0), True)):
        with RecordingSeparation(LowAndHigh(), RATE, 2, 8.0, 2.0) as separation:
            separation.push(mixture)
            assert (separation.finish().further_speaker > 0.5) == more


def test_more_sources_than_choices_stay_as_they_are() -> None:
    estimates = np.stack([_voice(300 * (k + 1), 3) for k in range(5)])
    labels = _turns(TonesAsVoices().eval(), estimates)
    assert (labels == np.arange(5)[:, None]).all()


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_short_and_silent_estimates_are_no_special_case(samples: int) -> None:
    for estimates in (np.zeros((2, samples)), np.random.default_rng(0).standard_normal((2, samples))):
        labels = _turns(pretrained_speaker_encoder(), estimates.astype(np.float32))
        assert labels.shape[0] == 2
        assert set(labels.ravel()) <= {0, 1}


def test_every_source_goes_to_speakers_as_a_whole() -> None:
    """Shares of a source add up to 1 in every frame, also in fades; those without a speaker have none."""
    labels = np.random.default_rng(0).integers(0, 3, (4, 40))
    labels[3] = -1
    share = shares(labels, 3, 620, 0.016)
    assert share.shape == (4, 3, 620)
    np.testing.assert_allclose(share[:3].sum(axis=1), 1.0, atol=1e-6)
    assert not share[3].any()
    assert 0 < ((share > 0) & (share < 1)).mean() < 0.2


def test_the_order_of_the_sources_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    low, high = _voice(200, 12), _voice(3000, 12)
    swapped = np.repeat(rng.integers(0, 2, 6), 2 * RATE).astype(bool)
    estimates = np.stack([np.where(swapped, high, low), np.where(swapped, low, high)])
    encoder = TonesAsVoices().eval()
    there, back = _turns(encoder, estimates), _turns(encoder, estimates[::-1].copy())
    one = _regrouped(there, estimates[:, ::80], 80 / RATE)
    other = _regrouped(back, estimates[::-1, ::80], 80 / RATE)
    assert np.allclose(one, other, atol=1e-6) or np.allclose(one, other[::-1], atol=1e-6)


def _windows(encoder: SpeakerEncoder, estimates: Samples, seconds: float) -> list[Heard]:
    size = round(seconds * RATE)
    return [hear(encoder, estimates[:, k : k + size], RATE) for k in range(0, estimates.shape[1], size)]


def test_a_voice_is_recognized_in_all_windows() -> None:
    """In the second window one voice is in both sources; only the other windows tell whose it is."""
    low, high = _voice(200, 30), _voice(3000, 30)
    middle = (np.arange(len(low)) // (10 * RATE)) == 1
    estimates = np.stack([low, np.where(middle, low, high)])
    windows = _windows(TonesAsVoices().eval(), estimates, 10.0)
    labels = recognize_turns(windows, [np.array([0, 1])] * 3, 2, 2).labels
    assert labels[1][:, 10].tolist() == [0, 0]
    for window in (0, 2):
        assert (labels[window] == np.array([[0], [1]])).all()


def test_windows_that_were_joined_wrongly_are_put_right() -> None:
    low, high = _voice(200, 40), _voice(3000, 40)
    third = (np.arange(len(low)) // (10 * RATE)) == 2
    estimates = np.stack([np.where(third, high, low), np.where(third, low, high)])
    labels = recognize_turns(
        _windows(TonesAsVoices().eval(), estimates, 10.0), [np.array([0, 1])] * 4, 2, 2
    ).labels
    assert [each[:, 10].tolist() for each in labels] == [[0, 1], [0, 1], [1, 0], [0, 1]]
    # The same sources, joined rightly at first.
    places = [np.array([1, 0]) if number == 2 else np.array([0, 1]) for number in range(4)]
    again = recognize_turns(_windows(TonesAsVoices().eval(), estimates, 10.0), places, 2, 2).labels
    for one, other in zip(labels, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sources_without_a_speaker_stay_without() -> None:
    """Three sources, two speakers; the source that is left out has the voice of one of them."""
    low, high = _voice(200, 12), np.roll(_voice(3000, 12), RATE // 2)
    half = np.arange(len(low)) < len(low) // 2
    estimates = np.stack([np.where(half, low, high), 0.5 * low, np.where(half, high, low)])
    heard = hear(TonesAsVoices().eval(), estimates, RATE)
    (labels,) = recognize_turns([heard], [np.array([1, -1, 0])], 2, 2).labels
    assert (labels[1] == -1).all()
    assert labels[0, 3] == labels[2, -4] != labels[0, -4]


def test_a_window_far_below_the_others_says_little() -> None:
    """Noise of another colour at -60 dB does not change whose voice is whose."""
    low, high = _voice(200, 10), _voice(3000, 10)
    encoder = TonesAsVoices().eval()
    estimates = np.stack([low, np.roll(high, RATE // 3)])
    quiet = np.stack([_voice(1000, 10), _voice(1000, 10)])
    loud = hear(encoder, estimates, RATE)
    assert hear(encoder, estimates, RATE, 0.5).level == pytest.approx(loud.level / 4)
    labels = recognize_turns([loud, hear(encoder, quiet, RATE, 1e-3)], [np.array([0, 1])] * 2, 2, 2).labels
    assert all((label == np.array([[0], [1]])).all() for label in labels)


def test_what_is_heard_equals_a_slow_computation() -> None:
    """Voices of 0.48 s to both sides of a piece's middle, by the frames' energy and share; loudness at borders."""
    rng = np.random.default_rng(5)
    steps = np.repeat(10 ** rng.uniform(-2.2, 0, (2, 40)), 640, axis=1)[:, : 39 * 640 + 100]
    estimates = (steps * rng.standard_normal(steps.shape)).astype(np.float32)
    encoder = TonesAsVoices().eval()
    heard = hear(encoder, estimates, RATE, scale=3.0)
    voices, presence, loudness = heard.voices.astype(float), heard.presence, heard.loudness
    frames = encoder.frames(encoder.features(torch.from_numpy(estimates))).double().numpy()
    count = frames.shape[-1]
    energy = np.zeros((2, count))
    for frame in range(count):
        energy[:, frame] = np.square(estimates[:, 320 * frame : 320 * (frame + 1)].astype(float)).sum(axis=1)
    level = np.sort(energy.max(axis=0))[::-1][: round(0.3 * count)].mean()
    assert heard.level == pytest.approx(9 * level, rel=1e-4)
    energy /= level
    weights = np.clip(100 * energy - 0.1, 0, 1) * energy / energy.sum(axis=0)
    pieces = -(-count // 6)
    assert voices.shape == (2, pieces, 4)
    for source in range(2):
        for piece in range(pieces):
            near = range(max(0, 6 * piece + 3 - 12), min(count, 6 * piece + 3 + 12))
            expected = sum(frames[source, :, k] * (weights[source, k] + 1e-6) for k in near)
            expected /= np.linalg.norm(expected)
            np.testing.assert_allclose(voices[source, piece], expected, atol=1e-3)
            own = range(6 * piece, min(count, 6 * piece + 6))
            assert presence[source, piece] == pytest.approx(
                sum(weights[source, k] for k in own) / 6, abs=1e-4
            )
    both = estimates.sum(axis=0, keepdims=True)
    frames = encoder.frames(encoder.features(torch.from_numpy(both)))[0].double().numpy()
    for piece in range(pieces):
        near = range(max(0, 6 * piece + 3 - 12), min(count, 6 * piece + 3 + 12))
        loud = np.clip(100 * energy.sum(axis=0) - 0.1, 1e-6, 1)
        expected = sum(frames[:, k] * loud[k] for k in near)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(heard.mixed[piece].astype(float), expected, atol=1e-3)
    for border in range(1, pieces):
        expected_loudness = min(1.0, 10 * energy[:, 6 * border - 1 : 6 * border + 1].sum() / 2)
        assert loudness[border - 1] == pytest.approx(expected_loudness, abs=1e-4)


def test_choices_are_the_best_of_all_sequences() -> None:
    """Viterbi against every sequence of choices of six pieces, in two windows at once."""
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(2):
        voices = rng.standard_normal((2, 6, 3))
        voices /= np.linalg.norm(voices, axis=-1, keepdims=True)
        kept = voices.astype(np.float16)
        windows.append(Heard(kept, rng.random((2, 6)), rng.random(5), 1.0, kept[0]))
    centres = rng.standard_normal((2, 3))
    places = [np.array([0, 1]), np.array([1, 0])]
    clusters = VoiceClusters(windows, places, 2)
    totals, labels = clusters._decode(clusters._fits(centres))
    choices = [(0, 1), (1, 0), (0, 0), (1, 1)]

    def likelihood(window: Heard, place: Labels, sequence: tuple[int, ...]) -> float:
        changes, value = 0.17 + 0.53 * window.loudness, 0.0
        for piece, choice in enumerate(sequence):
            for source in range(2):
                centre = centres[choices[choice][place[source]]]
                voice = window.voices[source, piece].astype(float)
                value += (
                    16.0 * window.presence[source, piece] * float(voice @ centre / np.linalg.norm(centre))
                )
            value -= 0.13 * (choice >= 2)
            if piece and sequence[piece - 1] != choice:
                value -= changes[piece - 1]
        return value

    for number, (window, place) in enumerate(zip(windows, places, strict=True)):
        best = max(product(range(4), repeat=6), key=lambda each: likelihood(window, place, each))
        assert labels[number].T.tolist() == [list(choices[choice]) for choice in best]
        assert totals[number] == pytest.approx(likelihood(window, place, best), rel=1e-4)


def test_real_voices_that_change_places_are_put_right(example_sources: Samples) -> None:
    """The two people of the example, four times in a row; from the third time on in the other's estimate."""
    voices = resample(np.tile(example_sources, 4), 16000, RATE)
    half = np.arange(voices.shape[1]) < voices.shape[1] // 2
    estimates = np.where(half, voices, voices[::-1])
    labels = _turns(pretrained_speaker_encoder(), estimates)
    regrouped = _regrouped(labels, estimates[:, ::80], 80 / RATE)
    wanted = voices[:, ::80]
    wrong = [np.square(regrouped - each).sum() / np.square(wanted).sum() for each in (wanted, wanted[::-1])]
    assert min(wrong) < 0.1
