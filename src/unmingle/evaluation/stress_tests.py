"""The tests of ``unmingle stress``: Mobin et al.'s tests of generalization (2018, 5.4.1 to 5.4.3), and more.

A test is a list of conditions. A condition makes case k from a corpus (:mod:`unmingle.evaluation.stress_cases`).
All conditions of a test have the same speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from unmingle.data.microphones import KNOWN
from unmingle.data.noise import NoiseConfig
from unmingle.data.rooms import RoomConfig
from unmingle.evaluation.stress_cases import (
    BURST_DB,
    BURST_SECONDS,
    SECONDS,
    Case,
    Material,
    at_rate,
    burst,
    changed,
    coded,
    crop,
    recorded_by,
    same_voice,
    single_speaker,
    telephone,
    three_speakers,
    whole,
    with_gain,
)


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


def _corpora(material: Material) -> list[Condition]:
    speakers = material.by_speaker()
    names = sorted(name for name, speakers in speakers.items() if len(speakers) >= 2)

    def only(name: str) -> dict[str, float]:
        # A corpus that is not named has the weight 1.
        return {other: float(other == name) for other in speakers}

    return [
        Condition(name, float(number), crop(corpus_weights=only(name))) for number, name in enumerate(names)
    ]


def _conditions(
    points: Sequence[float], label: str, make: Callable[[float], Callable[[Material, int], Case]]
) -> Callable[[Material], list[Condition]]:
    return lambda _: [Condition(label.format(point), float(point), make(point)) for point in points]


def _noisy(snr: float) -> Callable[[Material, int], Case]:
    return crop(noise=NoiseConfig(snr_levels=[snr]))


def _in_rooms(_: Material) -> list[Condition]:
    return [
        Condition(
            f"{rt60:g} s, {distance:g} m",
            rt60,
            crop(room=RoomConfig(rt60=(rt60, rt60), distance=(distance, distance))),
            f"{distance:g} m",
        )
        for distance in (0.5, 1.0, 2.0)
        for rt60 in (0.2, 0.4, 0.6, 0.8)
    ]


STRESS_TESTS = [
    StressTest(
        "length",
        "Long recordings",
        "Two speakers in recordings of increasing length, scored as a whole and by windows; the windows use the "
        "permutation of the whole recording (Mobin 5.4.1).",
        "length (s)",
        _conditions((10, 20, 40, 80, 160), "{:g} s", lambda seconds: crop(seconds)),
        score="windows",
        share=0.25,
    ),
    StressTest(
        "burst",
        "A noise burst",
        f"{BURST_SECONDS:g} s of white noise, {BURST_DB:g} dB above the mixture, in the middle of {SECONDS:g} s: how "
        "soon does the system recover? (Mobin 5.4.2)",
        "",
        lambda _: [Condition("without", 0.0, crop(), "without"), Condition("with", 1.0, burst, "with")],
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
        _conditions((0, 5, 10, 15, 20), "{:g} dB", lambda snr: crop(snr=(snr, snr))),
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
        _conditions((-40, -20, 0, 10, 20), "{:+g} dB", lambda gain: changed(with_gain(gain))),
    ),
    StressTest(
        "rates",
        "Sample rates",
        "The same mixtures, resampled.",
        "sample rate (Hz)",
        _conditions(
            (8000, 11025, 16000, 22050, 44100, 48000), "{:g} Hz", lambda rate: changed(at_rate(int(rate)))
        ),
        share=0.5,
    ),
    StressTest(
        "overlap",
        "Conversations",
        "Whole utterances. The second begins before the end of the first; the overlap is a share of the shorter one.",
        "overlap (share of the shorter utterance)",
        _conditions(
            (0.0, 0.25, 0.5, 0.75, 1.0), "{:.0%}", lambda overlap: whole("max", overlap=(overlap, overlap))
        ),
    ),
    StressTest(
        "single_speaker",
        "One speaker only",
        "One speaker alone: does one output keep the speech, and does the other stay silent?",
        "",
        lambda _: [Condition("one speaker", 0.0, single_speaker)],
        score="single_speaker",
    ),
    StressTest(
        "three",
        "Three speakers for two outputs",
        "The two speakers that fit the outputs best are scored.",
        "",
        lambda _: [Condition("three speakers", 0.0, three_speakers)],
        needs=("three speakers",),
    ),
    StressTest(
        "voice",
        "The same voice twice",
        "Two utterances of one speaker at the same time, cut to the shorter, compared with those of two speakers.",
        "",
        lambda _: [
            Condition("two speakers", 0.0, whole("min")),
            Condition("one voice twice", 1.0, same_voice),
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
            Condition("none", 0.0, crop()),
            Condition("MP3", 1.0, changed(coded("MP3", "MPEG_LAYER_III"))),
            Condition("Opus", 2.0, changed(coded("OGG", "OPUS"))),
            Condition("telephone", 3.0, changed(telephone)),
        ],
    ),
    StressTest(
        "microphones",
        "Microphones",
        "The same mixtures through other microphones: muffled (12 dB per octave above 1 kHz), thin (12 dB per octave "
        "below 1 kHz), narrow (300 to 3400 Hz). The filter acts on mixture and references.",
        "",
        lambda _: [
            Condition("as recorded", 0.0, crop()),
            *(Condition(name, 1.0 + k, changed(recorded_by(name))) for k, name in enumerate(KNOWN)),
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
