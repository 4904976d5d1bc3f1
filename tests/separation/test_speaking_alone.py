"""Frames in which one speaker is heard alone go to that speaker as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_windows import LowAndHigh, _voices
from torch import Tensor

from unmingle.audio import Samples
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.speaking_alone import (
    activity_inputs,
    alone_or_several,
    shares_of_frames,
    speaker_voices,
)
from unmingle.separation.turns import shares
from unmingle.separation.voice_clusters import Heard
from unmingle.speaker_activity import ActivityInputs, SpeakerActivity, SpeakerActivityConfig

RATE = 8000


def _heard(seed: int, level: float = 1.0, pieces: int = 5) -> Heard:
    rng = np.random.default_rng(seed)
    voices = rng.standard_normal((2, pieces, 4))
    voices /= np.linalg.norm(voices, axis=-1, keepdims=True)
    kept = voices.astype(np.float16)
    return Heard(kept, rng.random((2, pieces)), np.ones(pieces - 1), level, kept[0])


def test_voices_are_means_of_the_pieces_of_each_speaker() -> None:
    windows, labels = (
        [_heard(0), _heard(1)],
        [np.array([[0, 0, 1, 2, -1]] * 2), np.array([[2, 1, 1, 0, 0]] * 2)],
    )
    expected = np.zeros((3, 4))
    for window, label in zip(windows, labels, strict=True):
        for source in range(2):
            for piece in range(5):
                if label[source, piece] >= 0:
                    voice = window.voices[source, piece].astype(np.float64)
                    expected[label[source, piece]] += window.presence[source, piece] * voice
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(speaker_voices(windows, labels, 3), expected, atol=1e-6)


def test_a_window_that_is_almost_silent_hardly_counts() -> None:
    label = np.array([[0] * 5, [1] * 5])
    alone = speaker_voices([_heard(0)], [label], 2)
    beside = speaker_voices([_heard(0), _heard(1, level=1e-8)], [label] * 2, 2)
    np.testing.assert_allclose(beside, alone, atol=1e-3)


def test_inputs_are_of_the_estimate_with_the_nearest_voice() -> None:
    """Three pieces of three frames. The second estimate has the first voice, and no voice in the last piece."""
    one, two = np.eye(2, dtype=np.float16)
    tilted = np.array([0.6, 0.8], dtype=np.float16)
    heard = Heard(
        np.array([[two, tilted, two], [one, one, one]]),
        np.array([[1.0, 1, 1], [1, 1, 0]]),
        np.ones(2),
        1.0,
        np.array([two, one, tilted]),
    )
    labels = np.array([[1, 1, 1], [0, 0, 1]])
    magnitude, low = torch.rand(9, 3) + 0.1, torch.rand(9, 3)
    masks = torch.stack([low, 1 - low])
    inputs = activity_inputs(magnitude, masks, heard, labels, np.eye(2, dtype=np.float32), 0.08)
    share = shares(labels, 2, 9, 0.08)
    expected = sum(share[source, :, :, None] * masks[source].numpy() for source in range(2))
    np.testing.assert_allclose(inputs.masks[0].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(inputs.nearest[0, 0, :6], masks[1, :6])
    # Nothing is heard in the second estimate, so that the first one is nearest although its voice is another.
    torch.testing.assert_close(inputs.nearest[0, 0, 6:], masks[0, 6:])
    torch.testing.assert_close(inputs.nearest[0, 1], masks[0])
    wanted = {
        (0, 0): [1.0, 0.0, 0.0, 1.0],
        (0, 4): [1.0, 0.0, 1.0, 0.0],
        (0, 8): [0.0, 1.0, 0.6, 0.8],
        (1, 0): [1.0, 0.0, 1.0, 0.0],
        (1, 4): [0.8, 0.6, 0.0, 1.0],
    }
    for (speaker, frame), cosines in wanted.items():
        assert inputs.likeness[0, speaker, frame].tolist() == pytest.approx(cosines, abs=1e-3)
    torch.testing.assert_close(inputs.voices[0], torch.eye(2))
    torch.testing.assert_close(inputs.power.mean(), torch.tensor(1.0))


def test_a_voice_that_is_hardly_present_counts_less() -> None:
    one, two = np.eye(2, dtype=np.float16)
    tilted = np.array([0.6, 0.8], dtype=np.float16)
    for present, nearest in ((0.1, 1), (0.2, 0), (0.04, 1)):
        voices = np.array([[one], [tilted]])
        heard = Heard(voices, np.array([[present], [1.0]]), np.ones(0), 1.0, voices[0])
        masks = torch.rand(2, 3, 3)
        inputs = activity_inputs(
            torch.ones(3, 3),
            masks,
            heard,
            np.array([[0], [1]]),
            np.stack([one, two]).astype(np.float32),
            0.08,
        )
        torch.testing.assert_close(inputs.nearest[0, 0], masks[nearest])


def test_chances_are_those_of_the_network_in_every_frame() -> None:
    found = _answered([[0.65, 0.25], [0.25, 0.65], [0.1] * 2])
    np.testing.assert_allclose(found[:, 0], [0.65, 0.25, 0.1], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], [0.35, 0.55, 0.1], rtol=1e-5)


def _answered(chances: list[list[float]], power: list[float] | None = None) -> Samples:
    """What comes of a network's chances of two steps, in three frames with this power."""
    network = OneAlone()
    network.forward = lambda inputs: torch.tensor([chances]).log()  # type: ignore[method-assign]
    masks = torch.rand(1, 2, 3, 3)
    seen = torch.tensor(power or [1.0] * 3)[:, None].expand(3, 3)
    return alone_or_several(network, ActivityInputs(seen[None], masks, masks, masks, masks))


@pytest.mark.parametrize(
    ("several", "belief"), [(0.05, 1.0), (0.2, 1.0), (0.35, 0.5), (0.5, 0.0), (0.9, 0.0)]
)
def test_with_much_overlap_nobody_is_believed_to_be_alone(several: float, belief: float) -> None:
    alone = 1 - several
    found = _answered([[alone] * 2, [1e-9] * 2, [several] * 2])
    np.testing.assert_allclose(found[0], belief * alone, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)


def test_overlap_is_that_of_the_speech() -> None:
    """Several are heard in the last frames. They count only if they are not silent."""
    steps = [[1 - 1e-9, 1e-9], [1e-9, 1e-9], [1e-9, 1.0]]
    quiet, loud = _answered(steps, [1.0, 1.0, 1e-6]), _answered(steps, [1.0, 1.0, 0.1])
    assert quiet[0, 0] > 0.99
    assert quiet[0, 0] > loud[0, 0]


def test_shares_are_what_is_expected() -> None:
    share = np.array([[[0.75], [0.25]], [[0.0], [1.0]], [[0.0], [0.0]]])
    chances, given = np.array([[0.5], [0.2], [0.3]]), np.array([True, True, False])
    found = shares_of_frames(share, chances, given)
    np.testing.assert_allclose(found[0, :, 0], [0.5 + 0.3 * 0.75, 0.2 + 0.3 * 0.25])
    np.testing.assert_allclose(found[1, :, 0], [0.5, 0.2 + 0.3])
    np.testing.assert_array_equal(found[2], 0)
    np.testing.assert_allclose(found[:2].sum(axis=1), 1)


class OneAlone(SpeakerActivity):
    """The loudest speaker is alone for five sixths of a window, then several are heard."""

    def __init__(self) -> None:
        super().__init__(SpeakerActivityConfig(hop=LowAndHigh().hop))

    def forward(self, inputs: ActivityInputs) -> Tensor:
        steps = -(-inputs.masks.shape[2] // 2)
        chances = torch.full((1, inputs.masks.shape[1] + 1, steps), 1e-9)
        energy = (inputs.power[:, None] * inputs.masks.square()).sum(dim=(2, 3))[0]
        chances[0, energy.argmax(), : 5 * steps // 6] = 1.0
        chances[0, -1, 5 * steps // 6 :] = 1.0
        return chances.log()


def _separated(monkeypatch: pytest.MonkeyPatch, network: SpeakerActivity, mixture: Samples) -> Samples:
    monkeypatch.setattr("unmingle.separation.recording.pretrained_speaker_activity", lambda: network)
    with RecordingSeparation(LowAndHigh(), RATE, 2, 8.0, 2.0) as separation:
        separation.push(mixture)
        separation.finish()
        return np.concatenate(list(separation.estimates([mixture])), axis=1)


@pytest.mark.parametrize("speaker", [0, 1])
def test_a_speaker_who_is_alone_gets_all_sound(monkeypatch: pytest.MonkeyPatch, speaker: int) -> None:
    """The one who is alone first is speaker 1, whichever estimate of the system that is."""
    voices = _voices(6)[[speaker, 1 - speaker]]
    voices[0] *= 2
    mixture = voices.sum(axis=0)
    found = _separated(monkeypatch, OneAlone().eval(), mixture)
    loud = 0
    early, late = slice(RATE // 2, 9 * RATE // 2), slice(51 * RATE // 10, 6 * RATE)
    np.testing.assert_allclose(found[loud, early], mixture[early], atol=1e-3)
    np.testing.assert_allclose(found[1 - loud, early], 0, atol=1e-3)
    for estimate, voice in zip(found[[loud, 1 - loud]], voices, strict=True):
        assert np.square(estimate - voice)[late].sum() < 0.02 * np.square(voice)[late].sum()
    np.testing.assert_allclose(found.sum(axis=0), mixture, atol=1e-3)


def test_it_is_left_out_for_other_spectrograms(monkeypatch: pytest.MonkeyPatch) -> None:
    other = OneAlone()
    other.config = SpeakerActivityConfig(window_length=512, hop=LowAndHigh().hop)
    voices = _voices(6)
    found = _separated(monkeypatch, other.eval(), voices.sum(axis=0))
    for estimate in found:
        assert min(np.square(estimate - voice).sum() / np.square(voice).sum() for voice in voices) < 0.02


def test_long_recordings_have_chances_for_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loud speaker is alone for five sixths of each window of 8 s, where the quiet one loses all sound."""
    voices = _voices(20)
    voices[0] *= 2
    found = _separated(monkeypatch, OneAlone().eval(), voices.sum(axis=0))
    np.testing.assert_allclose(found.sum(axis=0), voices.sum(axis=0), atol=1e-3)
    quiet = np.square(found).sum(axis=1).min() / np.square(voices[1]).sum()
    assert 0.03 < quiet < 0.3
