"""Noise for mixtures: augmented recordings, and synthetic noise.

There is far less free noise than free speech. So recordings are augmented: another speed, a filter, a room. Synthetic
noise (:data:`SYNTHETIC`) is generated for every mixture. Noise k of a run is a pure function of (seed, k).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from unmingle.audio import Samples, resample
from unmingle.config import Config
from unmingle.data.cache import DecodedSpeech, JoinedSpeech
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
"""Kinds of synthetic noise. ``babble``: several speakers at once. ``crossed``: the sound of one recording with the
loudness of another over time. The others: see ``synthetic_noise.py`` and ``synthetic_music.py``."""
_SPEED_STEPS = 20
_CROSSFADE_SECONDS = 0.02
_QUIETEST = 0.1
"""A section of a recording counts as at least this share of the recording's active level, so that gaps are not
amplified to the level of noise."""


class NoiseConfig(Config):
    """Kinds and levels of noise."""

    share: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the training crops with noise. In test lists every mixture has noise."""
    snr_levels: list[float] = Field([-5.0, 0.0, 5.0, 10.0], min_length=1)
    """Active level of the speakers over the level of the noise in dB, each value equally likely."""
    snr_spread: float = Field(0.0, ge=0.0)
    """Maximum deviation from the drawn level in dB, uniform."""
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """Relative chance of each corpus of noise and each kind of :data:`SYNTHETIC` noise, by name. Those without a
    weight, or with 0, are not used, but ``crossed`` uses all recordings if no corpus has a weight (default: all
    recordings equally likely, no synthetic noise)."""
    by_class: bool = False
    """Draw a class of the corpus first, each equally likely, and then a recording of the class (default: all
    recordings of the corpus equally likely)."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Range of speeds of recordings."""
    reverse: bool = False
    """Play half of the recordings backwards."""
    filter_db: float = Field(0.0, ge=0.0, le=40.0)
    """Maximum deviation in dB of the random filter for recordings."""
    room: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the noise with reverberation that decays exponentially in 0.1 to 0.8 s."""
    second: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the noise that is a sum of two noises, the second up to 12 dB quieter."""
    noise_only: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of training crops without speech."""

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
        speech: decoded utterances of the same split. Only babble needs them.
        sample_rate: of both, in hertz.
        config: kinds and levels.
        babblers: indices of the utterances that babble is made of (default: all).

    Raises:
        UnmingleError: ``weights`` names a corpus that does not exist, or leaves no noise.
    """

    def __init__(
        self,
        recordings: Sequence[Utterance],
        noise: DecodedSpeech,
        speech: DecodedSpeech | JoinedSpeech | None,
        sample_rate: int,
        config: NoiseConfig,
        babblers: Sequence[int] | None = None,
    ) -> None:
        self._noise, self._speech, self._rate, self.config = noise, speech, sample_rate, config
        self._recordings = recordings
        self._babblers = range(len(speech) if speech else 0) if babblers is None else babblers
        # Groups of equally likely recordings: one group per class, or one for the whole corpus.
        self._corpora = {
            corpus: list(classes.values()) if config.by_class else [[*chain(*classes.values())]]
            for corpus, classes in by_speaker(recordings, noise.silent).items()
        }
        weights = config.weights or {
            name: float(sum(len(group) for group in groups)) for name, groups in self._corpora.items()
        }
        known = [*sorted(self._corpora), *SYNTHETIC]
        unknown = {name for name, weight in weights.items() if weight > 0} - set(known)
        if unknown:
            raise UnmingleError(
                f"The weights of noise name {', '.join(sorted(unknown))}; there is {', '.join(known)}."
            )
        self._kinds = [name for name in known if weights.get(name, 0.0) > 0]
        if not self._kinds:
            raise UnmingleError(
                "The weights of noise leave no noise with a chance above 0."
                if self._corpora
                else "All recordings of noise are silent; give others."
            )
        chances = np.array([weights[name] for name in self._kinds])
        self._chances = chances / chances.sum()
        # A corpus without a weight, perhaps because of its licence, is not used for crossed noise either.
        wanted = [name for name in self._corpora if name in self._kinds] or list(self._corpora)
        self._crossable = [index for name in wanted for group in self._corpora[name] for index in group]

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Samples, str]:
        """Noise ``(samples,)`` with a :func:`noise_level` of 1, and its name."""
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
            # With a single group nothing is drawn, so that the mixtures of existing seeds stay the same.
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
    # With energy 1, the room does not change the level.
    response /= max(float(np.sqrt(np.square(response).sum())), 1e-9)
    # Circular convolution: the reverberation of the end falls on the start, as in a longer recording.
    size = len(noise)
    return np.fft.irfft(np.fft.rfft(noise) * np.fft.rfft(response, size), size).astype(np.float32)


def looped(samples: Samples, wanted: int, fade: int) -> Samples:
    """``samples`` repeated to the length ``wanted`` or more, with cross-fades of ``fade`` samples."""
    if len(samples) >= wanted:
        return samples
    if fade and len(samples) > 4 * fade:
        rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)
        body = samples[:-fade].copy()
        body[:fade] = body[:fade] * rise + samples[-fade:] * (1 - rise)
        samples = body
    return np.tile(samples, -(-wanted // max(1, len(samples))))[:wanted]
