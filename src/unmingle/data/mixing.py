"""Mixtures from utterances: mixture k of a run is a pure function of (recipe, seed, k).

First a plan is drawn (who speaks what, when, how loud), which costs nothing, then it is rendered
from decoded speech. The same plan gives the same samples whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unmingle.audio import Samples, active_level, resample
from unmingle.batch import GENDERS
from unmingle.config import Config
from unmingle.data.cache import DecodedSpeech
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.noise import NoiseConfig, NoiseMaker, noise_level
from unmingle.errors import UnmingleError

ACTIVE_LEVEL = 0.056
"""Active level of the loudest talker before the mixture is checked for clipping: -25 dBFS."""
_SPEED_STEPS = 40
"""Speeds are multiples of 1/40: a small set of resampling ratios, each a ratio of small integers."""
_PAUSE_SECONDS = (0.1, 0.5)
SNR_LIMIT = 100.0
"""In dB: SNRs of speech without noise, and, negative, of noise without speech."""
_QUIETEST_LEVEL = 0.1 * ACTIVE_LEVEL
"""Noise is not lowered further with speech that hardly is any."""


class MixingConfig(Config):
    """How mixtures are drawn."""

    talkers: int = Field(2, ge=1)
    fewest_talkers: int | None = Field(None, ge=1)
    """Crops for training draw their number of talkers from this one up to ``talkers``, evenly."""
    snr: tuple[float, float] = (0.0, 5.0)
    """Range in dB of the active level of the first talker over that of the second. With three or
    more talkers each draws a gain of +- half of a value from this range."""
    corpus_weights: dict[str, float] = {}
    """Chance of each corpus to give a mixture's talkers, by name; equal where nothing is said."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Range of speeds; speed changes pitch and formants too."""
    partial_overlap: float = Field(0.0, ge=0.0, le=1.0)
    """Share of mixtures in which all talkers but the first speak only for a part of the time."""
    lone: float = Field(0.0, ge=0.0, le=1.0)
    """Share of mixtures in which the first talker alone speaks."""
    noise: NoiseConfig | None = None
    """Noise beside the talkers; none if not given."""

    @model_validator(mode="after")
    def _ranges(self) -> MixingConfig:
        for name in ("snr", "speed"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be [low, high], got [{low}, {high}]")
        if self.fewest_talkers is not None and self.fewest_talkers > self.talkers:
            raise ValueError(f"fewest_talkers {self.fewest_talkers} is more than talkers {self.talkers}")
        if self.speed[0] < 0.5 or self.speed[1] > 2.0:
            raise ValueError("speed must lie between 0.5 and 2")
        return self


@dataclass(frozen=True)
class Segment:
    """A stretch of one utterance in a mixture; times in samples after the change of speed."""

    utterance: int
    start: int
    """Where the stretch begins, in samples of the utterance as it was decoded."""
    position: int
    """Where it goes in the mixture."""
    length: int
    """How long it is in the mixture."""


@dataclass(frozen=True)
class Voice:
    """One talker of a mixture."""

    segments: tuple[Segment, ...]
    speed: float
    gain_db: float


@dataclass(frozen=True)
class MixturePlan:
    """All that is random about one mixture."""

    voices: tuple[Voice, ...]
    samples: int


@dataclass(frozen=True)
class Example:
    """One mixture with what is known of it."""

    sources: Samples
    """``(talkers, samples)``."""
    noise: Samples | None = None
    """``(samples,)``: what the mixture holds beside the sources."""
    snr: float | None = None
    """Active level of the talkers over the level of the noise, in dB; -100 where nobody talks."""
    gender: str = "unknown"
    """Of the first talker."""
    noise_name: str = ""
    """What the noise is."""

    @property
    def mixture(self) -> Samples:
        """``(samples,)``."""
        total: Samples = self.sources.sum(axis=0)
        return total if self.noise is None else total + self.noise


class Mixer:
    """Draws and renders mixtures of decoded speech.

    Args:
        utterances: of one split, in the order in which ``speech`` was decoded.
        speech: the decoded utterances.
        sample_rate: of the decoded speech, in hertz.
        config: how to mix.
        seed: of the run.
        noise: makes the noise, where the config wants some.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        speech: DecodedSpeech,
        sample_rate: int,
        config: MixingConfig,
        seed: int,
        noise: NoiseMaker | None = None,
    ) -> None:
        self.config, self.seed, self.sample_rate = config, seed, sample_rate
        self._speech, self._noise, self._utterances = speech, noise, utterances
        self._speakers = by_speaker(utterances)
        unknown = set(config.corpus_weights) - set(self._speakers)
        if unknown:
            raise UnmingleError(
                f"corpus_weights names {', '.join(sorted(unknown))}; "
                f"the data has {', '.join(sorted(self._speakers))}."
            )
        self._corpora = sorted(self._speakers)
        weights = np.array([config.corpus_weights.get(name, 0.0) for name in self._corpora])
        if not config.corpus_weights:
            weights = np.ones(len(self._corpora))
        if weights.sum() <= 0:
            raise UnmingleError("corpus_weights leaves no corpus with a chance above 0.")
        self._chances = weights / weights.sum()
        total = sum(
            len(self._speakers[name])
            for name, chance in zip(self._corpora, self._chances, strict=True)
            if chance > 0
        )
        if total < config.talkers:
            raise UnmingleError(f"{config.talkers} talkers are to be mixed, but the data has {total}.")

    def example(self, index: int, samples: int) -> Example:
        """Mixture ``index`` as a crop of a fixed length, for training, with noise if there is any."""
        return self.add_noise(index, self.crop(index, samples), crop=True)

    def add_noise(self, index: int, plan: MixturePlan, *, crop: bool = False) -> Example:
        """Render mixture ``index`` by its plan, and add its noise if the config wants some.

        The level of the noise counts against the active level of the sources' sum. In some crops,
        if the config says so, nobody talks.
        """
        sources = self.render(plan)
        # Drawn from a generator of their own, so that noise changes nothing about the speech.
        rng = np.random.default_rng([self.seed, index, 1])
        first = plan.voices[0].segments
        gender = self._utterances[first[0].utterance].gender if first else "unknown"
        if self._noise is None:
            return Example(sources, gender=gender)
        config = self._noise.config
        snr = float(rng.choice(config.snr_levels) + rng.uniform(-1.0, 1.0) * config.snr_spread)
        noise, name = self._noise.draw(rng, plan.samples)
        level = max(active_level(sources.sum(axis=0), self.sample_rate), _QUIETEST_LEVEL)
        noise = noise * np.float32(level * 10 ** (-snr / 20))
        # As it became: over a gap in its recording, noise is not raised to the full.
        snr = float(20 * np.log10(level / max(noise_level(noise), 1e-9)))
        if crop and rng.random() < config.noise_only:
            sources, snr = np.zeros_like(sources), -SNR_LIMIT
        peak = float(np.abs(sources.sum(axis=0) + noise).max(initial=0.0))
        if peak > 0.95:
            sources, noise = sources * np.float32(0.95 / peak), noise * np.float32(0.95 / peak)
        return Example(sources, noise, snr, gender, name)

    def crop(self, index: int, samples: int) -> MixturePlan:
        """Plan of mixture ``index`` as a crop of a fixed length, for training."""
        rng = self._rng(index)
        kind = rng.random()
        lone = kind < self.config.lone
        partial = not lone and kind < self.config.lone + self.config.partial_overlap
        present = 1 if lone else self._draw_count(rng)
        gains = self._gains(rng, self.config.talkers if lone else present)
        voices = []
        for number, speaker in enumerate(self._draw_speakers(rng)):
            speed = self._draw_speed(rng)
            first, last = 0, samples
            if number > 0 and partial:
                length = int(samples * rng.uniform(0.1, 0.9))
                first = int(rng.integers(0, samples - length + 1))
                last = first + length
            if number < present:
                voices.append(Voice(self._fill(rng, speaker, speed, first, last), speed, gains[number]))
            else:
                voices.append(Voice((), speed, 0.0))
        return MixturePlan(tuple(voices), samples)

    def whole(self, index: int, mode: str) -> MixturePlan:
        """Plan of mixture ``index`` from one whole utterance a talker, for test lists.

        ``mode`` "min" cuts to the shortest utterance, "max" pads to the longest, as WSJ0-mix does.
        """
        rng = self._rng(index)
        gains = self._gains(rng, self.config.talkers)
        picked = [int(rng.choice(speaker)) for speaker in self._draw_speakers(rng)]
        lengths = [self._speech.length(utterance) for utterance in picked]
        samples = min(lengths) if mode == "min" else max(lengths)
        voices = [
            Voice((Segment(utterance, 0, 0, min(length, samples)),), 1.0, gain)
            for utterance, length, gain in zip(picked, lengths, gains, strict=True)
        ]
        return MixturePlan(tuple(voices), samples)

    def render(self, plan: MixturePlan) -> Samples:
        """Sources ``(talkers, samples)`` at their levels in the mixture, which is their sum.

        Gains count between active levels; one common gain keeps the sum below full scale.
        """
        sources = np.zeros((len(plan.voices), plan.samples), dtype=np.float32)
        for source, voice in zip(sources, plan.voices, strict=True):
            for segment in voice.segments:
                source[segment.position : segment.position + segment.length] = self._render(segment, voice)
        peak = max(
            float(np.abs(sources.sum(axis=0)).max(initial=0.0)), float(np.abs(sources).max(initial=0.0))
        )
        if peak > 0.95:
            sources *= 0.95 / peak
        return sources

    def _render(self, segment: Segment, voice: Voice) -> Samples:
        wanted = int(np.ceil(segment.length * voice.speed)) + 1
        available = self._speech.length(segment.utterance) - segment.start
        samples = self._speech.read(segment.utterance, segment.start, min(wanted, available))
        if voice.speed != 1.0:
            samples = resample(samples, round(voice.speed * _SPEED_STEPS), _SPEED_STEPS)
        gain = ACTIVE_LEVEL * 10 ** (voice.gain_db / 20) / max(self._speech.level(segment.utterance), 1e-6)
        rendered = np.zeros(segment.length, dtype=np.float32)
        rendered[: len(samples)] = samples[: segment.length] * np.float32(gain)
        return rendered

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index])

    def _draw_count(self, rng: np.random.Generator) -> int:
        fewest, most = self.config.fewest_talkers, self.config.talkers
        # Nothing is drawn where nothing is open: the lists of old seeds stay what they were.
        return most if fewest in (None, most) else int(rng.integers(fewest, most + 1))

    def _gains(self, rng: np.random.Generator, talkers: int) -> list[float]:
        """Gains in dB, of which the largest is 0."""
        low, high = self.config.snr
        if talkers <= 2:
            gains = [0.0, -float(rng.uniform(low, high))][:talkers]
        else:
            gains = [float(rng.choice([-0.5, 0.5]) * rng.uniform(low, high)) for _ in range(talkers)]
        loudest = max(gains)
        return [gain - loudest for gain in gains]

    def _draw_speed(self, rng: np.random.Generator) -> float:
        low, high = self.config.speed
        return round(float(rng.uniform(low, high)) * _SPEED_STEPS) / _SPEED_STEPS

    def _draw_speakers(self, rng: np.random.Generator) -> list[list[int]]:
        """The utterances of each of as many different speakers as the mixture has talkers."""
        drawn: dict[tuple[str, str], list[int]] = {}
        while len(drawn) < self.config.talkers:
            corpus = self._corpora[int(rng.choice(len(self._corpora), p=self._chances))]
            names = list(self._speakers[corpus])
            name = names[int(rng.integers(len(names)))]
            drawn.setdefault((corpus, name), self._speakers[corpus][name])
        return list(drawn.values())

    def _fill(
        self, rng: np.random.Generator, speaker: Sequence[int], speed: float, first: int, last: int
    ) -> tuple[Segment, ...]:
        """Utterances of one speaker, joined with short pauses, from ``first`` to ``last``."""
        segments: list[Segment] = []
        position = first
        while position < last:
            utterance = int(speaker[int(rng.integers(len(speaker)))])
            length = int(self._speech.length(utterance) / speed)
            start = 0
            if not segments and length > 0:
                # The first one begins anywhere, so that crops do not all open with an onset.
                slack = max(length - (last - first), length // 2)
                offset = int(rng.integers(0, slack + 1))
                start, length = int(offset * speed), length - offset
            length = min(length, last - position)
            if length > 0:
                segments.append(Segment(utterance, start, position, length))
            position += length + int(rng.uniform(*_PAUSE_SECONDS) * self.sample_rate)
        return tuple(segments)


def active_sources(example: Example) -> NDArray[np.bool_]:
    """Which of ``(talkers,)`` talk: those within 40 dB of the mixture's energy."""
    energy = np.square(example.sources).sum(axis=-1)
    active: NDArray[np.bool_] = energy > 1e-4 * max(float(np.square(example.mixture).sum()), 1e-12)
    return active


def gender_index(example: Example) -> int:
    """The place of the first talker's gender among :data:`~unmingle.batch.GENDERS`."""
    return GENDERS.index(example.gender)
