"""The tests of ``unmingle stress``: Mobin et al.'s tests of generalization (2018, 5.4.1 to 5.4.3), and more.

A test is a list of conditions. A condition makes case k from a corpus, as a pure function of (seed, k). So all
systems get the same mixtures, and all conditions of a test have the same speakers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import soundfile

from unmingle.audio import Samples, active_level, resample
from unmingle.data.cache import DecodedSpeech
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.examples import MixturePlan, Segment, Voice
from unmingle.data.microphones import KNOWN, apply_response, known_response
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseConfig, NoiseMaker
from unmingle.data.rooms import RoomConfig

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


@dataclass(frozen=True)
class Condition:
    """One point of a test."""

    label: str
    x: float
    make: Callable[[Material, int], Case]
    series: str = ""
    """The curve to which it belongs."""


@dataclass(frozen=True)
class StressTest:
    """A list of conditions with a title and a description."""

    name: str
    title: str
    what: str
    x_label: str
    conditions: Callable[[Material], list[Condition]]
    score: str = "improvement"
    """``improvement``: in SI-SDR. ``windows``: also by windows of 3 s. ``single_speaker``: see
    :func:`unmingle.evaluation.stress.measure_single_speaker`."""
    share: float = 1.0
    """Share of the requested number of cases: long tests make fewer."""
    spectrogram: bool = False
    """Show the first case of the last condition: mixture, references and estimates."""
    needs: tuple[str, ...] = field(default=())
    """Requirements on the material or the machine, see :func:`lacking`."""


def _crop(seconds: float = SECONDS, **config: object) -> Callable[[Material, int], Case]:
    def make(material: Material, index: int) -> Case:
        example = material.mixer(**config).example(index, material.samples(seconds))
        return Case(example.mixture, example.sources, material.sample_rate)

    return make


def _changed(change: Callable[[Case], Case]) -> Callable[[Material, int], Case]:
    plain = _crop()
    return lambda material, index: change(plain(material, index))


def _whole(mode: str, **config: object) -> Callable[[Material, int], Case]:
    def make(material: Material, index: int) -> Case:
        mixer = material.mixer(**config)
        example = mixer.realize(index, mixer.whole(index, mode))
        return Case(example.mixture, example.sources, material.sample_rate)

    return make


def _burst(material: Material, index: int) -> Case:
    case = _crop()(material, index)
    length = material.samples(BURST_SECONDS)
    first = (len(case.mixture) - length) // 2
    level = active_level(case.mixture, case.sample_rate) * 10 ** (BURST_DB / 20)
    noise = np.random.default_rng([material.seed, index, 4]).standard_normal(length) * level
    mixture = case.mixture.copy()
    mixture[first : first + length] += noise.astype(np.float32)
    return Case(mixture, case.references, case.sample_rate)


def _corpora(material: Material) -> list[Condition]:
    speakers = material.by_speaker()
    names = sorted(name for name, speakers in speakers.items() if len(speakers) >= 2)
    return [
        Condition(name, float(number), _crop(corpus_weights={name: 1.0})) for number, name in enumerate(names)
    ]


def _same_voice(material: Material, index: int) -> Case:
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


def _with_gain(decibels: float) -> Callable[[Case], Case]:
    """A change of level, stored as 16-bit samples: samples beyond full scale are clipped."""
    gain = np.float32(10 ** (decibels / 20))

    def change(case: Case) -> Case:
        mixture = np.clip(np.round(gain * case.mixture * 32768.0), -32768, 32767) / 32768.0
        return Case(mixture.astype(np.float32), gain * case.references, case.sample_rate)

    return change


def _at_rate(rate: int) -> Callable[[Case], Case]:
    return lambda case: Case(
        resample(case.mixture, case.sample_rate, rate),
        resample(case.references, case.sample_rate, rate),
        rate,
    )


def _coded(file_format: str, subtype: str) -> Callable[[Case], Case]:
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


def _telephone(case: Case) -> Case:
    """300 to 3400 Hz, 8 kHz, mu-law. The references pass only the band-pass filter."""
    from scipy.signal import butter, sosfiltfilt

    low = resample(np.concatenate([case.mixture[None], case.references]), case.sample_rate, 8000)
    band = butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    narrow = sosfiltfilt(band, low, axis=-1).astype(np.float32)
    return Case(_through(narrow[0], 8000, "WAV", "ULAW"), narrow[1:], 8000)


def _recorded_by(name: str) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        response = known_response(name, case.references.shape[1], case.sample_rate)
        mixture, references = (apply_response(response, each) for each in (case.mixture, case.references))
        return Case(mixture, references, case.sample_rate)

    return change


def _conditions(
    points: Sequence[float], label: str, make: Callable[[float], Callable[[Material, int], Case]]
) -> Callable[[Material], list[Condition]]:
    return lambda _: [Condition(label.format(point), float(point), make(point)) for point in points]


def _noisy(snr: float) -> Callable[[Material, int], Case]:
    return _crop(noise=NoiseConfig(snr_levels=[snr]))


def _in_rooms(_: Material) -> list[Condition]:
    return [
        Condition(
            f"{rt60:g} s, {distance:g} m",
            rt60,
            _crop(room=RoomConfig(rt60=(rt60, rt60), distance=(distance, distance))),
            f"{distance:g} m",
        )
        for distance in (0.5, 1.0, 2.0)
        for rt60 in (0.2, 0.4, 0.6, 0.8)
    ]


def _three(material: Material, index: int) -> Case:
    case = _crop(speakers=3)(material, index)
    return Case(case.mixture, case.references, case.sample_rate, outputs=2)


def _single_speaker(material: Material, index: int) -> Case:
    case = _crop(single_speaker=1.0)(material, index)
    return Case(case.mixture, case.references[:1], case.sample_rate, outputs=2)


STRESS_TESTS = [
    StressTest(
        "length",
        "Long recordings",
        "Two speakers in recordings of increasing length, scored as a whole and by windows; the windows use the "
        "permutation of the whole recording (Mobin 5.4.1).",
        "length (s)",
        _conditions((10, 20, 40, 80, 160), "{:g} s", lambda seconds: _crop(seconds)),
        score="windows",
        share=0.25,
    ),
    StressTest(
        "burst",
        "A noise burst",
        f"{BURST_SECONDS:g} s of white noise, {BURST_DB:g} dB above the mixture, in the middle of {SECONDS:g} s: how "
        "soon does the system recover? (Mobin 5.4.2)",
        "",
        lambda _: [Condition("without", 0.0, _crop(), "without"), Condition("with", 1.0, _burst, "with")],
        score="windows",
        spectrogram=True,
    ),
    StressTest(
        "corpora",
        "Other corpora",
        "Both speakers from one corpus (Mobin 5.4.3).",
        "",
        _corpora,
        needs=("a corpus of two speakers",),
    ),
    StressTest(
        "rooms",
        "Rooms",
        "Random rooms of a stated reverberation time, both speakers at a stated distance; the reference is each "
        "speaker alone in the room.",
        "reverberation time (s)",
        _in_rooms,
        share=0.5,
        needs=("pyroomacoustics",),
    ),
    StressTest(
        "snr",
        "One louder than the other",
        "Active level of the first speaker over the second's.",
        "SNR (dB)",
        _conditions((0, 5, 10, 15, 20), "{:g} dB", lambda snr: _crop(snr=(snr, snr))),
    ),
    StressTest(
        "noise",
        "Noise",
        "Both speakers in recorded noise.",
        "SNR over the noise (dB)",
        _conditions((30, 20, 10, 5, 0), "{:g} dB", _noisy),
        needs=("noise",),
    ),
    StressTest(
        "gain",
        "Level",
        "The same mixtures, quieter and louder, stored as 16-bit samples: samples beyond full scale are clipped.",
        "gain (dB)",
        _conditions((-40, -20, 0, 10, 20), "{:+g} dB", lambda gain: _changed(_with_gain(gain))),
    ),
    StressTest(
        "rates",
        "Sample rates",
        "The same mixtures, resampled.",
        "sample rate (Hz)",
        _conditions(
            (8000, 11025, 16000, 22050, 44100, 48000), "{:g} Hz", lambda rate: _changed(_at_rate(int(rate)))
        ),
        share=0.5,
    ),
    StressTest(
        "overlap",
        "Conversations",
        "Whole utterances. The second begins before the end of the first; the overlap is a share of the shorter one.",
        "overlap (share of the shorter utterance)",
        _conditions(
            (0.0, 0.25, 0.5, 0.75, 1.0), "{:.0%}", lambda overlap: _whole("max", overlap=(overlap, overlap))
        ),
    ),
    StressTest(
        "single_speaker",
        "One speaker only",
        "One person speaks alone: does one output keep the speech, and does the other stay silent?",
        "",
        lambda _: [Condition("one speaker", 0.0, _single_speaker)],
        score="single_speaker",
    ),
    StressTest(
        "three",
        "Three speakers for two outputs",
        "The two speakers that fit the outputs best are scored.",
        "",
        lambda _: [Condition("three speakers", 0.0, _three)],
        needs=("three speakers",),
    ),
    StressTest(
        "voice",
        "The same voice twice",
        "Two utterances of one speaker at the same time, cut to the shorter, compared with those of two speakers.",
        "",
        lambda _: [
            Condition("two speakers", 0.0, _whole("min")),
            Condition("one voice twice", 1.0, _same_voice),
        ],
        needs=("two utterances of one speaker",),
    ),
    StressTest(
        "codecs",
        "Codecs",
        "The mixture is encoded and decoded. For the telephone (300 to 3400 Hz, mu-law) the references pass the "
        "band-pass filter too.",
        "",
        lambda _: [
            Condition("none", 0.0, _crop()),
            Condition("MP3", 1.0, _changed(_coded("MP3", "MPEG_LAYER_III"))),
            Condition("Opus", 2.0, _changed(_coded("OGG", "OPUS"))),
            Condition("telephone", 3.0, _changed(_telephone)),
        ],
    ),
    StressTest(
        "microphones",
        "Microphones",
        "The same mixtures through other microphones: muffled (12 dB per octave above 1 kHz), thin (12 dB per octave "
        "below 1 kHz), narrow (300 to 3400 Hz). The filter acts on mixture and references.",
        "",
        lambda _: [
            Condition("as recorded", 0.0, _crop()),
            *(Condition(name, 1.0 + k, _changed(_recorded_by(name))) for k, name in enumerate(KNOWN)),
        ],
    ),
]
"""All tests, in the order of the page."""


def lacking(test: StressTest, material: Material) -> str | None:
    """Why a test cannot be run, or None."""
    speakers = [own for speakers in material.by_speaker().values() for own in speakers.values()]
    corpora = material.by_speaker().values()
    have = {
        "noise": bool(material.recordings),
        "pyroomacoustics": find_spec("pyroomacoustics") is not None,
        "three speakers": len(speakers) >= 3,
        "two utterances of one speaker": any(len(own) >= 2 for own in speakers),
        "a corpus of two speakers": any(len(speakers) >= 2 for speakers in corpora),
    }
    remedy = {"noise": " (--noise)", "pyroomacoustics": " (pip install 'unmingle[rooms]')"}
    return next((f"it needs {need}{remedy.get(need, '')}" for need in test.needs if not have[need]), None)
