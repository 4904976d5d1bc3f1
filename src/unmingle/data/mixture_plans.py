"""Plans of mixtures: who speaks what, when and how loud.

A plan is drawn without reading any audio. Plan k of a run is a pure function of (recipe, seed, k).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from unmingle.data.cache import Speech
from unmingle.data.conversations import ConversationConfig, draw_turns
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.examples import MixturePlan, Segment, Voice
from unmingle.data.mixing_config import MixingConfig
from unmingle.errors import UnmingleError

_log = logging.getLogger(__name__)

SPEED_STEPS = 40
"""Speeds are multiples of 1/40. So there are few resampling ratios, each a ratio of small integers."""
_PAUSE_SECONDS = (0.1, 0.5)


class MixturePlanner:
    """Draws plans of mixtures.

    Args:
        utterances: of one split, in the order in which ``speech`` was decoded.
        speech: the decoded utterances. None is enough for :meth:`picked`.
        sample_rate: of the decoded speech, in hertz.
        config: how to mix.
        seed: of the run.
        silent: indices of utterances that are never drawn (default: the silent ones of ``speech``).

    Raises:
        UnmingleError: the data has too few speakers, or the weights leave no corpus.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        speech: Speech | None,
        sample_rate: int,
        config: MixingConfig,
        seed: int,
        silent: Collection[int] | None = None,
    ) -> None:
        self.config, self.seed, self.sample_rate = config, seed, sample_rate
        self._decoded, self._utterances = speech, utterances
        if silent is None:
            silent = speech.silent if speech is not None else ()
        self._silent = frozenset(silent)
        self._speakers = by_speaker(utterances)
        absent = sorted(set(config.corpus_weights) - set(self._speakers))
        if absent:
            # Only a warning: a recipe that names its own corpora can also train on other corpora.
            there = ", ".join(sorted(self._speakers))
            _log.warning("corpus_weights names %s; the data has %s.", ", ".join(absent), there)
        self._corpora = sorted(self._speakers)
        weights = np.array([config.corpus_weights.get(name, 1.0) for name in self._corpora])
        if weights.sum() <= 0:
            raise UnmingleError("corpus_weights leaves no corpus with a chance above 0.")
        self._chances = weights / weights.sum()
        total = sum(
            not self._silent.issuperset(own)
            for name, chance in zip(self._corpora, self._chances, strict=True)
            if chance > 0
            for own in self._speakers[name].values()
        )
        if total < config.most_at_once:
            audible = " that are not silent" if self._silent else ""
            raise UnmingleError(
                f"{config.most_at_once} speakers are to be mixed, but the data has {total}{audible}."
            )

    @property
    def _speech(self) -> Speech:
        assert self._decoded is not None
        return self._decoded

    def crop(self, index: int, samples: int) -> MixturePlan:
        """Plan of mixture ``index`` as a crop of a fixed length, for training."""
        rng = self._rng(index)
        if np.random.default_rng([self.seed, index, 5]).random() < self.config.second_speaker:
            return self._conversation(rng, samples, self.config.conversation or ConversationConfig(), 2)
        kind = rng.random()
        single_speaker = kind < self.config.single_speaker
        partial = not single_speaker and kind < self.config.single_speaker + self.config.partial_overlap
        conversation = None if single_speaker or partial else self.config.conversation
        # ``share`` counts among the mixtures that are left. The others overlap fully.
        if conversation is not None and rng.random() < conversation.share:
            return self._conversation(rng, samples, conversation, self._draw_count(rng))
        present = 1 if single_speaker else self._draw_count(rng)
        gains = self._gains(rng, self.config.speakers if single_speaker else present)
        voices = []
        for number, speaker in enumerate(self._draw_speakers(rng, self.config.speakers)):
            speed, formants = self._draw_speed(rng), self._draw_formants(rng)
            first, last = 0, samples
            if number == 0 and self.config.late and rng.random() < self.config.late:
                first = int(rng.integers(samples // 3))
            if number > 0 and partial:
                length = int(samples * rng.uniform(0.1, 0.9))
                first = int(rng.integers(0, samples - length + 1))
                last = first + length
            if number < present:
                segments = self._fill(rng, speaker, speed, first, last)
                voices.append(Voice(segments, speed, gains[number], formants=formants))
            else:
                voices.append(Voice((), speed, 0.0))
        return MixturePlan(tuple(voices), samples)

    def _conversation(
        self, rng: np.random.Generator, samples: int, config: ConversationConfig, present: int
    ) -> MixturePlan:
        turns = draw_turns(rng, config, present, samples, self.sample_rate)
        gains = self._gains(rng, present)
        voices = []
        for number, speaker in enumerate(self._draw_speakers(rng, max(present, self.config.speakers))):
            speed, formants = self._draw_speed(rng), self._draw_formants(rng)
            own = [turn for turn in turns if turn.speaker == number]
            spoken = tuple(
                segment for turn in own for segment in self._fill(rng, speaker, speed, turn.first, turn.last)
            )
            gain = gains[number] if own else 0.0
            voices.append(Voice(spoken, speed, gain, ramps=True, formants=formants))
        return MixturePlan(tuple(voices), samples)

    def whole(self, index: int, mode: str) -> MixturePlan:
        """Plan of mixture ``index`` from one whole utterance per speaker, for test lists.

        ``mode`` "min" cuts to the shortest utterance, "max" pads to the longest, as WSJ0-mix does. With
        ``overlap`` in the config, ``mode`` has no effect: whole utterances follow one another.
        """
        rng = self._rng(index)
        gains = self._gains(rng, self.config.speakers)
        picked = self._pick(rng)
        lengths = [self._speech.length(utterance) for utterance in picked]
        samples = min(lengths) if mode == "min" else max(lengths)
        starts = [0] * len(picked)
        if self.config.overlap is not None:
            starts = overlapping_starts(lengths, rng.uniform(*self.config.overlap, len(lengths)))
            samples = max(start + length for start, length in zip(starts, lengths, strict=True))
        voices = [
            Voice((Segment(utterance, 0, start, min(length, samples)),), 1.0, gain)
            for utterance, start, length, gain in zip(picked, starts, lengths, gains, strict=True)
        ]
        return MixturePlan(tuple(voices), samples)

    def picked(self, index: int) -> list[int]:
        """The utterances that :meth:`whole` takes for mixture ``index``. No decoded speech is needed."""
        rng = self._rng(index)
        self._gains(rng, self.config.speakers)
        return self._pick(rng)

    def _pick(self, rng: np.random.Generator) -> list[int]:
        return [
            self._draw_utterance(rng, speaker) for speaker in self._draw_speakers(rng, self.config.speakers)
        ]

    def is_whole(self, segment: Segment) -> bool:
        """Whether a segment at speed 1 is the whole utterance."""
        return segment.start == 0 and segment.length == self._speech.length(segment.utterance)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index])

    def _draw_count(self, rng: np.random.Generator) -> int:
        fewest, most = self.config.fewest_speakers, self.config.speakers
        # With a single possible number nothing is drawn, so that the mixtures of existing seeds stay the same.
        return most if fewest in (None, most) else int(rng.integers(fewest, most + 1))

    def _gains(self, rng: np.random.Generator, speakers: int) -> list[float]:
        """Gains in dB, of which the largest is 0."""
        low, high = self.config.snr
        if speakers <= 2:
            gains = [0.0, -float(rng.uniform(low, high))][:speakers]
        else:
            gains = [float(rng.choice([-0.5, 0.5]) * rng.uniform(low, high)) for _ in range(speakers)]
        loudest = max(gains)
        return [gain - loudest for gain in gains]

    def _draw_speed(self, rng: np.random.Generator) -> float:
        low, high = self.config.speed
        return round(float(rng.uniform(low, high)) * SPEED_STEPS) / SPEED_STEPS

    def _draw_formants(self, rng: np.random.Generator) -> float:
        low, high = self.config.formants
        # With a single possible factor nothing is drawn, so that the mixtures of existing seeds stay the same.
        return low if low == high else float(np.exp(rng.uniform(*np.log([low, high]))))

    def _draw_speakers(self, rng: np.random.Generator, number: int) -> list[list[int]]:
        """``number`` different speakers, each as the list of its utterances."""
        drawn: dict[tuple[str, str], list[int]] = {}
        while len(drawn) < number:
            corpus = self._corpora[int(rng.choice(len(self._corpora), p=self._chances))]
            names = list(self._speakers[corpus])
            name = names[int(rng.integers(len(names)))]
            own = self._speakers[corpus][name]
            if not self._silent.issuperset(own):
                drawn.setdefault((corpus, name), own)
        return list(drawn.values())

    def _draw_utterance(self, rng: np.random.Generator, speaker: Sequence[int]) -> int:
        """One utterance of a speaker, drawn again until it is not silent.

        So a plan depends only on the silent utterances that it meets. It can be drawn before the others are known.
        """
        while True:
            utterance = speaker[int(rng.integers(len(speaker)))]
            if utterance not in self._silent:
                return utterance

    def _fill(
        self, rng: np.random.Generator, speaker: Sequence[int], speed: float, first: int, last: int
    ) -> tuple[Segment, ...]:
        """Utterances of one speaker, joined with short pauses, from ``first`` to ``last``."""
        segments: list[Segment] = []
        position = first
        while position < last:
            utterance = self._draw_utterance(rng, speaker)
            length = int(self._speech.length(utterance) / speed)
            start = 0
            if not segments and length > 0:
                # The first utterance starts at a random point, so that not every crop starts with an onset.
                slack = max(length - (last - first), length // 2)
                offset = int(rng.integers(0, slack + 1))
                start, length = int(offset * speed), length - offset
            length = min(length, last - position)
            if length > 0:
                segments.append(Segment(utterance, start, position, length))
            position += length + int(rng.uniform(*_PAUSE_SECONDS) * self.sample_rate)
        return tuple(segments)


def overlapping_starts(lengths: Sequence[int], shares: NDArray[np.float64]) -> list[int]:
    """Start of each utterance, in samples. Each overlaps the one before by a share of the shorter of both."""
    starts, end = [0], lengths[0]
    for length, before, share in zip(lengths[1:], lengths, shares[1:], strict=False):
        starts.append(max(0, end - round(share * min(length, before))))
        end = max(end, starts[-1] + length)
    return starts
