"""Pieces of a recording are divided among more speakers than the network separates, and these are counted."""

from __future__ import annotations

from dataclasses import replace
from math import perm

import numpy as np
import pytest

from unmingle.separation.turns import recognize_turns
from unmingle.separation.voice_clusters import Heard, Labels, VoiceClusters, most_speakers

DIM = 64


def _recording(
    rng: np.random.Generator, speakers: int, windows: int = 4, pieces: int = 60
) -> tuple[list[Heard], list[Labels]]:
    """Two sources, in each of which somebody speaks for some pieces at a time; and who it is."""
    voices = rng.standard_normal((speakers, DIM))
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    heard, truth = [], []
    for _ in range(windows):
        turns = np.array([rng.choice(speakers, 2, replace=False) for _ in range(pieces // 6)])
        who = np.repeat(turns.T, 6, axis=1)
        active = np.repeat(rng.random((2, pieces // 6)) < 0.6, 6, axis=1)
        active[0] |= ~active[1]
        seen = voices[who] + 0.5 * rng.standard_normal((2, pieces, DIM)) / np.sqrt(DIM)
        seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
        presence = active / active.sum(axis=0)
        loudness = np.where(np.arange(1, pieces) % 6 == 0, 0.0, 1.0)
        heard.append(Heard(seen.astype(np.float16), presence, loudness, 1.0, seen[0].astype(np.float16)))
        truth.append(np.where(active, who, -1))
    return heard, truth


@pytest.mark.parametrize("speakers", [3, 5])
def test_pieces_go_to_more_speakers_than_sources(speakers: int) -> None:
    heard, truth = _recording(np.random.default_rng(speakers), speakers)
    labels = VoiceClusters(heard, [np.array([0, 1])] * 4, 2).divide(speakers).labels
    shared = np.zeros((speakers, speakers))
    for found, right in zip(labels, truth, strict=True):
        np.add.at(shared, (found[right >= 0], right[right >= 0]), 1)
    assert sorted(shared.argmax(axis=1)) == list(range(speakers))
    assert shared.max(axis=1).sum() > 0.98 * shared.sum()


@pytest.mark.parametrize("speakers", [2, 3, 4])
def test_clearly_different_voices_are_counted(speakers: int) -> None:
    heard, _ = _recording(np.random.default_rng(10 + speakers), speakers)
    count, confidence = VoiceClusters(heard, [np.array([0, 1])] * 4, 2).count()
    assert count == speakers
    assert 0.5 <= confidence <= 1


def test_a_further_voice_is_noticed() -> None:
    for speakers in (2, 3):
        heard, _ = _recording(np.random.default_rng(20 + speakers), speakers)
        turns = recognize_turns(heard, [np.array([0, 1])] * 4, 2, 2)
        assert (turns.speakers, turns.confidence) == (2, 1.0)
        assert (turns.further > 0.7) == (speakers == 3)
        assert (turns.further < 0.3) == (speakers == 2)


def test_a_short_recording_has_no_more_speakers_than_sources() -> None:
    """Three voices, but only 12 s of speech."""
    heard, _ = _recording(np.random.default_rng(3), 3, windows=1, pieces=48)
    assert VoiceClusters(heard, [np.array([0, 1])], 2).count() == (2, 1.0)


def test_voices_that_are_never_alone_are_divided_too() -> None:
    heard, truth = _recording(np.random.default_rng(4), 3)
    both = [replace(each, presence=np.full_like(each.presence, 0.5)) for each in heard]
    labels = VoiceClusters(both, [np.array([0, 1])] * 4, 2).divide(3).labels
    # Where a source is silent in the truth, its voice is that of a speaker all the same.
    for first in range(3):
        found = labels[0][truth[0] == first]
        assert (found == np.bincount(found).argmax()).mean() > 0.9


@pytest.mark.parametrize(("share", "margin"), [(0.01, 50.0), (0.05, 0.0)])
def test_a_nearly_silent_source_needs_more_evidence(share: float, margin: float) -> None:
    """The share is that of the whole recording; the second source is heard in the first window only."""
    rng = np.random.default_rng(0)
    levels = [(0.5, 3.5 * share), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
    heard = [
        Heard(
            rng.standard_normal((2, 10, DIM)).astype(np.float16),
            np.repeat(np.array([pair]).T, 10, axis=1),
            np.ones(9),
            1.0,
            np.zeros((10, DIM), dtype=np.float16),
        )
        for pair in levels
    ]
    assert VoiceClusters(heard, [np.array([0, 1])] * 4, 2)._margin() == margin


def test_the_number_of_choices_limits_the_speakers() -> None:
    """All different or all the same, at most 64 choices and 8 speakers."""
    for sources in range(1, 7):
        possible = [k for k in range(sources, 9) if perm(k, sources) + k <= 64]
        assert most_speakers(sources) == max(possible, default=0)
    assert most_speakers(2) == 8
    assert most_speakers(5) == 0


def test_evidence_equals_its_definition() -> None:
    heard, truth = _recording(np.random.default_rng(1), 3, windows=2)
    clusters = VoiceClusters(heard, [np.array([0, 1])] * 2, 2)
    one, log_gain, closest, log_share = clusters.evidence(2)
    two, three = clusters.divide(2), clusters.divide(3)
    assert one == 1
    assert np.exp(log_gain) == pytest.approx(three.likelihood / two.likelihood - 1)
    spoken, sums = np.zeros(3), np.zeros((3, DIM))
    for window, labels in zip(heard, three.labels, strict=True):
        for source in range(2):
            for piece in range(60):
                speaker, weight = labels[source, piece], window.presence[source, piece]
                spoken[speaker] += weight
                sums[speaker] += weight * window.voices[source, piece].astype(float)
    assert np.exp(log_share) == pytest.approx(spoken.min() / spoken.sum())
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    assert closest == pytest.approx(max(unit[0] @ unit[1], unit[0] @ unit[2], unit[1] @ unit[2]), abs=1e-3)
    assert {int(label) for label in np.unique(np.concatenate(truth))} == {-1, 0, 1, 2}
