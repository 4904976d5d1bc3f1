"""Noise for mixtures: recordings, changed in many ways, and synthetic noise.

There is far less recorded noise than speech that may be used freely. So a recording is played at
another speed, filtered, and put into a room; and other noise, see :data:`SYNTHETIC`, is made anew for
every mixture. Noise k of a run is a pure function of (seed, k), as its mixture is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from pydantic import Field, field_validator

from unmingle.audio import Samples, resample
from unmingle.config import Config
from unmingle.data.cache import DecodedSpeech
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.microphones import apply_response, smooth_response
from unmingle.data.synthetic_music import music
from unmingle.data.synthetic_noise import (
    calls,
    crossed,
    engines,
    flowing,
    impulses,
    modulated_noise,
    shaped_noise,
    struck,
    tones,
)
from unmingle.errors import UnmingleError

_DRAWN = {
    "shaped": shaped_noise,
    "modulated": modulated_noise,
    "tones": tones,
    "impulses": impulses,
    "struck": struck,
    "calls": calls,
    "engines": engines,
    "flowing": flowing,
    "music": music,
}
SYNTHETIC = ("babble", *_DRAWN, "crossed")
"""Synthetic noise: several speakers at once; what ``synthetic_noise.py`` draws; the sound of one recording in the
rhythm of another."""
_SPEED_STEPS = 20
_CROSSFADE_SECONDS = 0.02
_QUIETEST = 0.1
"""Noise is not raised to the wanted level over gaps: its own level counts as at least this share of
the recording's active level."""


class NoiseConfig(Config):
    """What noise a mixture gets, and how loud."""

    share: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the crops for training that get noise; test lists have noise in every mixture."""
    snr_levels: list[float] = Field([-5.0, 0.0, 5.0, 10.0], min_length=1)
    """Active level of the speakers over the level of the noise in dB; each as likely."""
    snr_spread: float = Field(0.0, ge=0.0)
    """So many dB above or below the level that was drawn, evenly."""
    weights: dict[str, float] = {}
    """Chance of each corpus of noise, and of :data:`SYNTHETIC` noise, by name; if empty, all recordings
    the same and nothing made. Recordings of a corpus that is not named are not used, unless none is."""
    by_class: bool = False
    """Draw a class of a corpus, each as likely, and then a recording of it; else each recording is as likely."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Range of speeds of recordings."""
    reverse: bool = False
    """Play every other recording backwards."""
    filter_db: float = Field(0.0, ge=0.0, le=40.0)
    """Recordings go through a random filter of at most so many dB up or down."""
    room: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the noise that sounds in a room: exponentially decaying reverberation of 0.1 to 0.8 s."""
    second: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the noise that is a sum of two, the second one up to 12 dB quieter."""
    noise_only: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of training crops in which nobody talks."""

    @field_validator("speed")
    @classmethod
    def _speeds(cls, speed: tuple[float, float]) -> tuple[float, float]:
        if not 0.25 <= speed[0] <= speed[1] <= 4.0:
            raise ValueError(f"speed must be [low, high] between 0.25 and 4, got {list(speed)}")
        return speed


class NoiseMaker:
    """Draws noise of any length.

    Args:
        recordings: of noise, of one split, in the order in which ``noise`` was decoded.
        noise: the decoded recordings.
        speech: decoded utterances of the same split, for babble; None where none is made.
        sample_rate: of both, in hertz.
        config: what to draw.
        babblers: the utterances of ``speech`` that babble is made of (default: all).

    Raises:
        UnmingleError: ``weights`` names a corpus that is not there, or leaves nothing.
    """

    def __init__(
        self,
        recordings: Sequence[Utterance],
        noise: DecodedSpeech,
        speech: DecodedSpeech | None,
        sample_rate: int,
        config: NoiseConfig,
        babblers: Sequence[int] | None = None,
    ) -> None:
        self._noise, self._speech, self._rate, self.config = noise, speech, sample_rate, config
        self._recordings = recordings
        self._babblers = range(len(speech) if speech else 0) if babblers is None else babblers
        # Groups of recordings of which each is as likely: the classes, or all as one.
        self._corpora = {
            corpus: list(classes.values()) if config.by_class else [[*chain(*classes.values())]]
            for corpus, classes in by_speaker(recordings).items()
        }
        weights = config.weights or {
            name: float(sum(len(group) for group in groups)) for name, groups in self._corpora.items()
        }
        known = [*sorted(self._corpora), *SYNTHETIC]
        unknown = set(weights) - set(known)
        if unknown:
            raise UnmingleError(
                f"The weights of noise name {', '.join(sorted(unknown))}; there is {', '.join(known)}."
            )
        self._kinds = [name for name in known if weights.get(name, 0.0) > 0]
        if not self._kinds:
            raise UnmingleError("The weights of noise leave no noise with a chance above 0.")
        chances = np.array([weights[name] for name in self._kinds])
        self._chances = chances / chances.sum()
        # A corpus that is left out, perhaps for its licence, is not heard crossed with another either.
        wanted = [name for name in self._corpora if name in self._kinds] or list(self._corpora)
        self._crossable = [index for name in wanted for group in self._corpora[name] for index in group]

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Samples, str]:
        """Noise ``(samples,)`` whose level, by :func:`noise_level`, is 1, and what it is."""
        noise, name = self._draw_one(rng, samples)
        if rng.random() < self.config.second:
            other, more = self._draw_one(rng, samples)
            noise, name = noise + np.float32(10 ** (rng.uniform(-12.0, 0.0) / 20)) * other, f"{name} + {more}"
            noise = noise / np.float32(max(noise_level(noise), 1.0))
        return noise, name

    def _draw_one(self, rng: np.random.Generator, samples: int) -> tuple[Samples, str]:
        kind = self._kinds[int(rng.choice(len(self._kinds), p=self._chances))]
        name, floor = kind, 0.0
        if kind == "babble":
            noise = self._babble(rng, samples)
        elif kind == "crossed":
            sound, rhythm = (int(index) for index in rng.choice(self._crossable, size=2))
            noise = crossed(
                self._recording(rng, sound, samples), self._recording(rng, rhythm, samples), self._rate
            )
        elif kind in _DRAWN:
            noise = _DRAWN[kind](rng, samples, self._rate)
        else:
            groups = self._corpora[kind]
            # Nothing is drawn where there is no choice: the lists of old seeds stay what they were.
            group = groups[int(rng.integers(len(groups)))] if len(groups) > 1 else groups[0]
            index = int(rng.choice(group))
            name = f"{kind}/{self._recordings[index].path.stem}"
            noise = self._recording(rng, index, samples)
            floor = _QUIETEST * self._noise.level(index)
        if rng.random() < self.config.room:
            noise = _in_a_room(rng, noise, self._rate)
        scaled: Samples = (noise / max(noise_level(noise), floor, 1e-9)).astype(np.float32)
        return scaled, name

    def _recording(self, rng: np.random.Generator, index: int, samples: int) -> Samples:
        low, high = self.config.speed
        speed = round(float(rng.uniform(low, high)) * _SPEED_STEPS) / _SPEED_STEPS
        wanted = int(np.ceil(samples * speed)) + 1
        length = self._noise.length(index)
        if length >= wanted:
            noise = self._noise.read(index, int(rng.integers(length - wanted + 1)), wanted)
        else:
            fade = int(self._rate * _CROSSFADE_SECONDS)
            noise = looped(self._noise.read(index, 0, length), wanted + length, fade)
            noise = noise[int(rng.integers(length)) :]
        if speed != 1.0:
            noise = resample(noise, round(speed * _SPEED_STEPS), _SPEED_STEPS)
        noise = np.pad(noise[:samples], (0, max(0, samples - len(noise))))
        if self.config.reverse and rng.random() < 0.5:
            noise = noise[::-1]
        if self.config.filter_db:
            size = len(noise) // 2 + 1
            noise = apply_response(smooth_response(rng, size, self.config.filter_db, self._rate), noise)
        return noise

    def _babble(self, rng: np.random.Generator, samples: int) -> Samples:
        assert self._speech is not None
        babble = np.zeros(samples, dtype=np.float32)
        for _ in range(int(rng.integers(4, 9))):
            index = self._babblers[int(rng.integers(len(self._babblers)))]
            length = self._speech.length(index)
            start = int(rng.integers(max(0, length - samples) + 1))
            voice = looped(self._speech.read(index, start, min(length, samples)), samples, 0)
            gain = 10 ** (rng.uniform(-6.0, 0.0) / 20) / max(self._speech.level(index), 1e-6)
            babble += np.float32(gain) * voice
        return babble


def noise_level(noise: Samples) -> float:
    """Root mean square of ``(samples,)``."""
    return float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))


def _in_a_room(rng: np.random.Generator, noise: Samples, sample_rate: int) -> Samples:
    """Noise convolved with white noise that decays by 60 dB in 0.1 to 0.8 s (Polack's model)."""
    seconds = float(rng.uniform(0.1, 0.8))
    time = np.arange(int(min(seconds, 0.4) * sample_rate)) / sample_rate
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    # Of energy one: the room changes the sound, not the level.
    response /= max(float(np.sqrt(np.square(response).sum())), 1e-9)
    # One circular convolution: the tail of the end comes before the beginning, as in a longer recording.
    size = len(noise)
    return np.fft.irfft(np.fft.rfft(noise) * np.fft.rfft(response, size), size).astype(np.float32)


def looped(samples: Samples, wanted: int, fade: int) -> Samples:
    """``samples`` over and over, at least ``wanted`` long, with cross-fades of ``fade`` between."""
    if len(samples) >= wanted:
        return samples
    if fade and len(samples) > 4 * fade:
        rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)
        body = samples[:-fade].copy()
        body[:fade] = body[:fade] * rise + samples[-fade:] * (1 - rise)
        samples = body
    return np.tile(samples, -(-wanted // max(1, len(samples))))[:wanted]
