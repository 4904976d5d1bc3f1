"""Voices in streams: sources that change places are put right, and what is decided stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_turns import RATE, TonesAsVoices, _voice
from test_windows import LowAndHigh, _voices
from torch import Tensor

from unmingle.audio import Samples
from unmingle.frontend import Spectra
from unmingle.metrics import si_sdr
from unmingle.separation.stream import SeparationStream
from unmingle.separation.stream_voices import StreamVoices

STEP, WINDOW, AHEAD = RATE // 2, 6 * RATE, RATE // 2
HOP = 80


def _shared(estimates: Samples, step: int = STEP) -> tuple[StreamVoices, Samples]:
    """What a stream of windows gives to the speakers: ``(sources, speakers, frames)``."""
    voices = StreamVoices(TonesAsVoices().eval(), RATE, len(estimates))
    found: list[Samples] = []
    for last in range(AHEAD + step, estimates.shape[1] + 1, step):
        start = max(0, last - WINDOW - step)
        until = last - AHEAD
        voices.listen(estimates[:, start:last], start)
        voices.decide(until)
        first = until - step if found else 0
        found.append(voices.shares(first, (until - first) // HOP, HOP))
    return voices, np.concatenate(found, axis=2)


def _two(seconds: float) -> Samples:
    """Two people in turns of a second and a half."""
    turn = (np.arange(round(seconds * RATE)) // (3 * RATE // 2)) % 2
    return np.stack([_voice(200, seconds) * (turn == 0), _voice(3000, seconds) * (turn == 1)]).astype(
        np.float32
    )


def test_good_sources_stay_as_they_are() -> None:
    _, share = _shared(_two(20))
    np.testing.assert_array_equal(share, np.broadcast_to(np.eye(2)[:, :, None], share.shape))


def test_windows_far_apart_are_heard_whole() -> None:
    voices, share = _shared(_two(64), step=10 * RATE)
    expected, _ = _shared(_two(64))
    np.testing.assert_array_equal(share, np.broadcast_to(np.eye(2)[:, :, None], share.shape))
    count = voices._presence.shape[1] - 3
    # The levels of windows differ a little.
    np.testing.assert_allclose(voices._presence[:, :count], expected._presence[:, :count], atol=0.2)


def test_sources_that_change_places_are_put_right() -> None:
    voices = _two(40)
    changed = voices.copy()
    changed[:, 18 * RATE :] = voices[::-1, 18 * RATE :]
    _, share = _shared(changed)
    estimates = np.einsum("skt,st->kt", share, changed[:, ::HOP][:, : share.shape[2]])
    wanted = voices[:, ::HOP][:, : share.shape[2]]
    seconds = np.arange(share.shape[2]) * HOP / RATE
    # Evidence has to add up first; then speakers have the signals that they had before.
    sure = (seconds < 17.7) | (seconds > 24.0)
    np.testing.assert_allclose(estimates[:, sure], wanted[:, sure], atol=1e-6)


def test_what_is_decided_stays() -> None:
    """Shares of the past are the same after later windows, whose evidence is against them."""
    voices = _two(30)
    changed = voices.copy()
    changed[:, 6 * RATE :] = voices[::-1, 6 * RATE :]
    stream = StreamVoices(TonesAsVoices().eval(), RATE, 2)
    kept: Samples | None = None
    for last in range(RATE, changed.shape[1] + 1, STEP):
        start = max(0, last - WINDOW)
        stream.listen(changed[:, start:last], start)
        stream.decide(last - AHEAD)
        share = stream.shares(0, (last - AHEAD) // HOP - 10, HOP)
        if kept is not None:
            np.testing.assert_array_equal(share[..., : kept.shape[2]], kept)
        kept = share


def test_old_pieces_are_forgotten() -> None:
    voices, share = _shared(np.tile(_two(30), 6))
    assert voices._presence.shape[1] <= 500 + 3 * RATE // 1920
    assert voices._voices.shape[1] == voices._loudness.shape[0] == voices._presence.shape[1]
    np.testing.assert_array_equal(share, np.broadcast_to(np.eye(2)[:, :, None], share.shape))


@pytest.mark.parametrize("samples", [0, 1, 500, 1000, 2500])
def test_short_and_silent_streams_stay_as_they_are(samples: int) -> None:
    stream = StreamVoices(TonesAsVoices().eval(), RATE, 2)
    stream.listen(np.zeros((2, samples), dtype=np.float32), 0)
    stream.decide(samples)
    assert stream.shares(0, 30, HOP).tolist() == np.repeat(np.eye(2)[:, :, None], 30, axis=2).tolist()


class Swapping(LowAndHigh):
    """Its two sources have the places that it is told; both are half of the mixture in between."""

    place = 0.0

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        self.calls = 0
        spectra, masks = super().mask(mixture, speakers)
        return spectra, (1 - self.place) * masks + self.place * masks.flip(1)


@pytest.mark.parametrize("place", [0.0, 1.0])
def test_a_stream_gives_pieces_to_their_speakers(place: float) -> None:
    """The places after a silent pause, during which masks tell nothing. Without voices, one of the two goes wrong."""
    voices = _voices(40.0)
    voices[:, 18 * RATE : 28 * RATE] = 0.0
    mixture, system = voices.sum(axis=0), Swapping()
    stream = SeparationStream(system, RATE, 2, 1.0, 2.0, encoder=TonesAsVoices().eval())
    pieces = []
    for start in range(0, len(mixture), 800):
        system.place = 0.0 if start < 19 * RATE else 0.5 if start < 27 * RATE else place
        pieces.append(stream.push(mixture[start : start + 800]))
    estimates = np.concatenate([*pieces, stream.flush()], axis=1)
    np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=1e-3)
    speakers = []
    for part in (slice(0, 16 * RATE), slice(32 * RATE, None)):
        pairs = si_sdr(torch.from_numpy(estimates[:, part])[None], torch.from_numpy(voices[:, part])[:, None])
        assert float(pairs.max(dim=1).values.min()) > 15.0
        speakers.append(pairs.argmax(dim=1).tolist())
    assert speakers[0] == speakers[1]
