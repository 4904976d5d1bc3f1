"""Plans of mixtures: segments, speakers, numbers of speakers, turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmingle.data.cache import decode
from unmingle.data.corpora import Utterance, by_speaker, read_corpora
from unmingle.data.examples import active_sources
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.mixture_plans import MixturePlanner, overlapping_starts
from unmingle.errors import UnmingleError


def _mixer(corpus: Path, seed: int = 0, **changes: Any) -> Mixer:
    utterances = read_corpora([corpus], "train")
    return Mixer(utterances, decode(utterances, 8000), 8000, MixingConfig.model_validate(changes), seed)


def test_partial_overlap_leaves_a_part_to_the_first_speaker(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, partial_overlap=1.0)
    for k in range(8):
        segments = mixer.crop(k, 16000).voices[1].segments
        covered = segments[-1].position + segments[-1].length - segments[0].position
        assert 0.1 * 16000 * 0.5 < covered < 0.9 * 16000 + 1


@given(st.integers(0, 200), st.integers(100, 30000))
def test_plans_stay_inside_the_mixture_and_the_utterances(k: int, samples: int) -> None:
    class Lengths:
        silent = frozenset[int]()

        def length(self, index: int) -> int:
            return (5000, 12000, 700, 24000)[index]

    utterances = [Utterance(Path(f"{n}.wav"), "c", f"s{n % 2}", "F", "train") for n in range(4)]
    config = MixingConfig(speed=(0.8, 1.2), partial_overlap=0.4, single_speaker=0.2, late=0.5)
    planner = MixturePlanner(utterances, Lengths(), 8000, config, 3)  # type: ignore[arg-type]
    plan = planner.crop(k, samples)
    for voice in plan.voices:
        for segment in voice.segments:
            assert segment.position >= 0
            assert segment.position + segment.length <= samples
            assert segment.start + segment.length * voice.speed <= Lengths().length(segment.utterance) + 2


def test_some_crops_begin_before_anybody_talks(example_corpus: Path) -> None:
    plain, late = _mixer(example_corpus), _mixer(example_corpus, late=0.4)
    firsts = [late.crop(k, 6000).voices[0].segments[0].position for k in range(300)]
    assert all(first < 2000 for first in firsts)
    begun_late = [first for first in firsts if first > 0]
    assert 0.3 < len(begun_late) / 300 < 0.5
    assert min(begun_late) < 100 < 1900 < max(begun_late)
    for k in range(20):
        for number, voice in enumerate(late.crop(k, 6000).voices):
            assert voice.segments[0].position == (firsts[k] if number == 0 else 0)
        assert plain.crop(k, 6000).voices[0].segments[0].position == 0


def test_speakers_of_a_mixture_differ(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus)
    utterances = read_corpora([example_corpus], "train")
    for k in range(20):
        voices = mixer.crop(k, 8000).voices
        assert len({utterances[voice.segments[0].utterance].speaker for voice in voices}) == 2


def test_too_few_speakers_are_refused(example_corpus: Path) -> None:
    with pytest.raises(UnmingleError, match="3 speakers"):
        _mixer(example_corpus, speakers=3)


def test_weights_of_other_corpora_change_nothing_but_are_told(
    example_corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixer = _mixer(example_corpus, corpus_weights={"nobody": 0.2})
    assert "corpus_weights names nobody" in caplog.text
    np.testing.assert_array_equal(
        mixer.example(0, 8000).mixture, _mixer(example_corpus).example(0, 8000).mixture
    )
    name = next(iter(by_speaker(read_corpora([example_corpus], "train"))))
    with pytest.raises(UnmingleError, match="no corpus"):
        _mixer(example_corpus, corpus_weights={name: 0.0})


def test_a_varying_number_of_speakers_is_drawn_evenly(crowd_corpus: Path, tmp_path: Path) -> None:
    utterances = read_corpora([crowd_corpus], "train")
    speech = decode(utterances, 8000, tmp_path / "cache")
    mixer = Mixer(utterances, speech, 8000, MixingConfig(speakers=3, fewest_speakers=1), 0)
    counts = [int(active_sources(mixer.example(k, 8000)).sum()) for k in range(60)]
    assert {1, 2, 3} == set(counts)
    assert all(counts.count(number) > 8 for number in (1, 2, 3))
    sources = mixer.render(mixer.crop(counts.index(1), 8000))
    assert np.abs(sources[1:]).max() == 0


def test_turns_begin_before_the_end_of_the_previous_one() -> None:
    assert overlapping_starts([100, 50], np.array([0.3, 0.0])) == [0, 100]
    assert overlapping_starts([100, 50], np.array([0.3, 1.0])) == [0, 50]
    assert overlapping_starts([50, 100], np.array([0.3, 0.5])) == [0, 25]
    assert overlapping_starts([100, 50, 80], np.array([0.3, 0.0, 0.5])) == [0, 100, 125]
