"""Cases of the stress tests: mixtures from a corpus, and changes of mixtures.

Case k is a pure function of (seed, k), so all systems get the same mixtures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from unmingle.audio import Samples, active_level, resample
from unmingle.data.cache import DecodedSpeech
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.examples import MixturePlan, Segment, Voice
from unmingle.data.microphones import apply_response, known_response
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseMaker

SECONDS = 9.0
"""Default length of a case in seconds."""
BURST_SECONDS = 0.25
_CODEC_RATES = (8000, 16000, 24000, 48000)
"""In hertz: MP3, Opus and mu-law support all of them."""
BURST_DB = 10.0
"""Level of the burst relative to the active level of the mixture."""


@dataclass(frozen=True)
class Material:
    """Speech and noise from which cases are made."""

    utterances: Sequence[Utterance]
    speech: DecodedSpeech
    sample_rate: int
    seed: int
    recordings: Sequence[Utterance] = ()
    noise: DecodedSpeech | None = None

    def mixer(self, **config: object) -> Mixer:
        """A mixer, by default of two speakers at 0 to 5 dB."""
        settings = MixingConfig.model_validate({"speakers": 2, "snr": (0.0, 5.0)} | config)
        maker = None
        if settings.noise is not None:
            assert self.noise is not None
            maker = NoiseMaker(self.recordings, self.noise, self.speech, self.sample_rate, settings.noise)
        return Mixer(self.utterances, self.speech, self.sample_rate, settings, self.seed, maker)

    def by_speaker(self) -> dict[str, dict[str, list[int]]]:
        """Indices of the utterances that are not silent, as ``{corpus: {speaker: [index, ...]}}``."""
        return by_speaker(self.utterances, self.speech.silent)

    def samples(self, seconds: float) -> int:
        return round(seconds * self.sample_rate)


@dataclass(frozen=True)
class Case:
    """One mixture to separate."""

    mixture: Samples
    """``(samples,)``."""
    references: Samples
    """``(speakers, samples)``, to score against."""
    sample_rate: int
    outputs: int = 2
    """Number of speakers that the system is asked for."""


def crop(seconds: float = SECONDS, **config: object) -> Callable[[Material, int], Case]:
    """A mixture of a fixed length, with changes of the mixer's config."""

    def make(material: Material, index: int) -> Case:
        example = material.mixer(**config).example(index, material.samples(seconds))
        return Case(example.mixture, example.sources, material.sample_rate)

    return make


def changed(change: Callable[[Case], Case]) -> Callable[[Material, int], Case]:
    """A mixture of the default length, changed afterwards."""
    plain = crop()
    return lambda material, index: change(plain(material, index))


def whole(mode: str, **config: object) -> Callable[[Material, int], Case]:
    """A mixture of whole utterances; see :meth:`~unmingle.data.mixture_plans.MixturePlanner.whole`."""

    def make(material: Material, index: int) -> Case:
        mixer = material.mixer(**config)
        example = mixer.realize(index, mixer.whole(index, mode))
        return Case(example.mixture, example.sources, material.sample_rate)

    return make


def burst(material: Material, index: int) -> Case:
    """A mixture with a burst of white noise in its middle."""
    case = crop()(material, index)
    length = material.samples(BURST_SECONDS)
    first = (len(case.mixture) - length) // 2
    level = active_level(case.mixture, case.sample_rate) * 10 ** (BURST_DB / 20)
    noise = np.random.default_rng([material.seed, index, 4]).standard_normal(length) * level
    mixture = case.mixture.copy()
    mixture[first : first + length] += noise.astype(np.float32)
    return Case(mixture, case.references, case.sample_rate)


def same_voice(material: Material, index: int) -> Case:
    """Two utterances of one speaker."""
    rng = np.random.default_rng([material.seed, index, 5])
    speakers = [own for speakers in material.by_speaker().values() for own in speakers.values()]
    able = [own for own in speakers if len(own) >= 2]
    picked = [int(u) for u in rng.choice(able[int(rng.integers(len(able)))], 2, replace=False)]
    samples = min(material.speech.length(u) for u in picked)
    gains = (0.0, -float(rng.uniform(0.0, 5.0)))
    voices = tuple(
        Voice((Segment(utterance, 0, 0, samples),), 1.0, gain)
        for utterance, gain in zip(picked, gains, strict=True)
    )
    sources = material.mixer().render(MixturePlan(voices, samples))
    return Case(sources.sum(axis=0), sources, material.sample_rate)


def with_gain(decibels: float) -> Callable[[Case], Case]:
    """A change of level, stored as 16-bit samples: samples beyond full scale are clipped."""
    gain = np.float32(10 ** (decibels / 20))

    def change(case: Case) -> Case:
        mixture = np.clip(np.round(gain * case.mixture * 32768.0), -32768, 32767) / 32768.0
        return Case(mixture.astype(np.float32), gain * case.references, case.sample_rate)

    return change


def at_rate(rate: int) -> Callable[[Case], Case]:
    """Another sample rate."""
    return lambda case: Case(
        resample(case.mixture, case.sample_rate, rate),
        resample(case.references, case.sample_rate, rate),
        rate,
    )


def coded(file_format: str, subtype: str) -> Callable[[Case], Case]:
    """Encoded and decoded by libsndfile."""

    def change(case: Case) -> Case:
        decoded = _through(case.mixture, case.sample_rate, file_format, subtype)
        return Case(decoded, case.references, case.sample_rate)

    return change


def _through(audio: Samples, rate: int, file_format: str, subtype: str) -> Samples:
    """``(samples,)`` encoded and decoded, at the next rate that the codec supports."""
    known = next((each for each in _CODEC_RATES if each >= rate), _CODEC_RATES[-1])
    encoded = io.BytesIO()
    soundfile.write(encoded, resample(audio, rate, known), known, subtype, format=file_format)
    encoded.seek(0)
    decoded = resample(soundfile.read(encoded, dtype="float32")[0], known, rate)
    fitted = np.zeros_like(audio)
    fitted[: len(decoded)] = decoded[: len(audio)]
    return fitted


def telephone(case: Case) -> Case:
    """300 to 3400 Hz, 8 kHz, mu-law. The references pass only the band-pass filter."""
    from scipy.signal import butter, sosfiltfilt

    low = resample(np.concatenate([case.mixture[None], case.references]), case.sample_rate, 8000)
    band = butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    narrow = sosfiltfilt(band, low, axis=-1).astype(np.float32)
    return Case(_through(narrow[0], 8000, "WAV", "ULAW"), narrow[1:], 8000)


def recorded_by(name: str) -> Callable[[Case], Case]:
    """Recorded by a microphone of :data:`~unmingle.data.microphones.KNOWN`."""

    def change(case: Case) -> Case:
        response = known_response(name, case.references.shape[1], case.sample_rate)
        mixture, references = (apply_response(response, each) for each in (case.mixture, case.references))
        return Case(mixture, references, case.sample_rate)

    return change


def three_speakers(material: Material, index: int) -> Case:
    """Three speakers for a system that is asked for two."""
    case = crop(speakers=3)(material, index)
    return Case(case.mixture, case.references, case.sample_rate, outputs=2)


def single_speaker(material: Material, index: int) -> Case:
    """One speaker for a system that is asked for two."""
    case = crop(single_speaker=1.0)(material, index)
    return Case(case.mixture, case.references[:1], case.sample_rate, outputs=2)
