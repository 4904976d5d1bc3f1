"""Conversations in training: turns that obey their ranges, speech only where a turn is, shares as stated."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from unmingle.data.cache import decode
from unmingle.data.conversations import ConversationConfig, Turn, draw_turns
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig

RATE = 8000


def _turns(seed: int, speakers: int = 2, seconds: float = 60.0, **changes: object) -> list[Turn]:
    config = ConversationConfig.model_validate(changes)
    return draw_turns(np.random.default_rng(seed), config, speakers, round(seconds * RATE), RATE)


def _activity(turns: list[Turn], speakers: int, samples: int) -> np.ndarray:
    active = np.zeros((speakers, samples), dtype=int)
    for turn in turns:
        active[turn.speaker, turn.first : turn.last] += 1
    return active


def _mixer(corpus: Path, **changes: object) -> Mixer:
    utterances = read_corpora([str(corpus)], "train")
    config = MixingConfig.model_validate(changes)
    return Mixer(utterances, decode(utterances, RATE), RATE, config, seed=3)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_nobody_speaks_twice_at_once_and_everybody_speaks(speakers: int) -> None:
    for seed in range(30):
        turns = _turns(seed, speakers)
        active = _activity(turns, speakers, 60 * RATE)
        assert active.max() == 1
        assert active.any(axis=1).all()
        assert [turn.first for turn in turns] == sorted(turn.first for turn in turns)


def test_turns_last_as_long_as_the_range_says() -> None:
    turns = [
        turn
        for seed in range(20)
        for turn in _turns(seed, turn=(2.0, 3.0), back_channel=0.0)
        # The first turn may have begun before the recording, the last one is cut by its end.
        if turn.first > 0 and turn.last < 60 * RATE
    ]
    seconds = [(turn.last - turn.first) / RATE for turn in turns]
    assert min(seconds) >= 2.0 - 1e-3
    assert max(seconds) <= 3.0
    assert any(later < 2.1 for later in seconds)
    assert any(later > 2.9 for later in seconds)


def test_overlap_is_nothing_at_0_and_half_of_the_speech_at_1() -> None:
    def overlap(value: float) -> float:
        several = anybody = 0
        for seed in range(40):
            turns = _turns(seed, overlap=(value, value), back_channel=0.0)
            count = _activity(turns, 2, 60 * RATE).sum(axis=0)
            several, anybody = several + int((count > 1).sum()), anybody + int((count > 0).sum())
        return several / anybody

    assert overlap(0.0) == 0.0
    assert 0.15 < overlap(0.5) < 0.35
    assert 0.4 < overlap(1.0) < 0.65


def test_pauses_come_between_turns_that_do_not_overlap() -> None:
    gaps = []
    for seed in range(20):
        turns = _turns(seed, overlap=(0.0, 0.0), back_channel=0.0, pause=(0.5, 1.0))
        gaps += [(later.first - turn.last) / RATE for turn, later in itertools.pairwise(turns)]
    assert min(gaps) >= 0.0
    assert max(gaps) <= 1.0
    assert 0.2 < np.mean([gap > 0.5 for gap in gaps]) < 0.6


def test_a_back_channel_is_short_and_lies_within_another_s_turn() -> None:
    turns = _turns(0, seconds=300.0, overlap=(0.0, 0.0), turn=(4.0, 6.0), back_channel=1.0)
    remarks = [turn for turn in turns if turn.last - turn.first < 1.0 * RATE and turn.last < 299 * RATE]
    assert len(remarks) > 20
    for remark in remarks:
        assert any(
            turn.speaker != remark.speaker and turn.first <= remark.first and remark.last <= turn.last
            for turn in turns
        )


def test_speech_sounds_only_where_its_speaker_has_a_turn(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, conversation={"overlap": (0.0, 0.3)})
    samples = 20 * RATE
    for index in range(6):
        plan = mixer.crop(index, samples)
        sources = mixer.render(plan)
        for source, voice in zip(sources, plan.voices, strict=True):
            spoken = np.zeros(samples, dtype=bool)
            for segment in voice.segments:
                spoken[segment.position : segment.position + segment.length] = True
                # Turns cut utterances anywhere: they rise from and fall to silence.
                assert source[segment.position] == 0.0
            assert not source[~spoken].any()
            assert np.abs(source[spoken]).max() > 0.01
        assert sum(len(voice.segments) for voice in plan.voices) > 4


def test_the_share_of_conversations_is_what_is_stated_and_the_rest_overlaps_fully(
    example_corpus: Path,
) -> None:
    mixer = _mixer(example_corpus, conversation={"share": 0.4})
    conversations = [mixer.crop(index, 4 * RATE).voices[0].ramps for index in range(400)]
    assert 0.32 < np.mean(conversations) < 0.48
    again = _mixer(example_corpus, conversation={"share": 0.4})
    assert [again.crop(index, 4 * RATE).voices[0].ramps for index in range(400)] == conversations


def test_a_moving_level_moves_slowly_within_its_range(example_corpus: Path) -> None:
    still, moving = _mixer(example_corpus), _mixer(example_corpus, moving_level=6.0)
    changes = []
    for index in range(5):
        before, after = still.example(index, 4 * RATE).sources, moving.example(index, 4 * RATE).sources
        loud = np.abs(before) > 0.01
        decibels = 20 * np.log10(np.abs(after[loud]) / np.abs(before[loud]))
        # One more gain for all keeps the sum below full scale: only the spread is bounded.
        changes.append(decibels.max() - decibels.min())
        row, steps = np.nonzero(loud)
        neighbours = (np.diff(row) == 0) & (np.diff(steps) == 1)
        assert np.abs(np.diff(decibels)[neighbours]).max() < 12.0 / RATE + 1e-3
    assert max(changes) <= 24.0
    assert np.mean(changes) > 3.0


@pytest.mark.parametrize(
    "bad",
    [
        {"turn": (0.1, 2.0)},
        {"turn": (3.0, 2.0)},
        {"overlap": (0.0, 1.5)},
        {"pause": (-1.0, 0.0)},
        {"share": 2},
    ],
)
def test_impossible_conversations_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConversationConfig.model_validate(bad)


def test_a_second_speaker_belongs_to_the_one_source(example_corpus: Path) -> None:
    utterances = read_corpora([str(example_corpus)], "train")
    speech = decode(utterances, RATE)
    config = MixingConfig(speakers=1, second_speaker=0.5, snr=(3.0, 3.0))
    mixer = Mixer(utterances, speech, RATE, config, 0)
    alone = Mixer(utterances, speech, RATE, MixingConfig(speakers=1), 0)
    two = 0
    for k in range(40):
        plan, example = mixer.crop(k, 4 * RATE), mixer.example(k, 4 * RATE)
        assert example.sources.shape == (1, 4 * RATE)
        if len(plan.voices) == 1:
            np.testing.assert_array_equal(example.sources, alone.example(k, 4 * RATE).sources)
            continue
        two += 1
        np.testing.assert_allclose(example.sources[0], mixer.render(plan).sum(axis=0), atol=1e-6)
        assert all(voice.segments for voice in plan.voices)
        speakers = {utterances[voice.segments[0].utterance].speaker for voice in plan.voices}
        assert len(speakers) == 2
    assert 10 < two < 30
    # Test lists have one speaker.
    assert len(mixer.whole(0, "min").voices) == 1
    with pytest.raises(ValidationError, match="mixtures of one speaker"):
        MixingConfig(speakers=2, second_speaker=0.5)
