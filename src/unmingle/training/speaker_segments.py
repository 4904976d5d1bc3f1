"""Segments of speech from which a speaker encoder learns: two of every speaker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples, resample
from unmingle.data.cache import DecodedSpeech
from unmingle.data.corpora import Utterance
from unmingle.data.microphones import MicrophoneConfig, draw_response

_SECONDS = (1.0, 2.5)
_SPEEDS = (90, 100, 110)
"""Percent. Speech at another speed is another voice."""
_MICROPHONE = MicrophoneConfig(share=0.9, response_db=8.0)


class SpeakerSegments:
    """Draws batches of segments: two segments each of different speakers.

    Most batches are of one corpus, because speakers of two corpora are easily told apart by their microphones. For
    the same reason, microphones are simulated in most batches: one for both segments of a speaker, or one for each
    segment. In many segments another speaker of the batch is heard, 3 to 25 dB below, as in the estimates of a
    separator, or noise.

    Args:
        utterances: of the training split.
        speech: their samples.
        sample_rate: in hertz.
        speakers: number of speakers in a batch.
    """

    def __init__(
        self, utterances: Sequence[Utterance], speech: DecodedSpeech, sample_rate: int, speakers: int
    ) -> None:
        self._speech, self._rate, self._speakers = speech, sample_rate, speakers
        of_speaker: dict[tuple[str, str], list[int]] = {}
        for number, utterance in enumerate(utterances):
            of_speaker.setdefault((utterance.corpus, utterance.speaker), []).append(number)
        self._corpora: list[list[list[int]]] = [
            [of_speaker[key] for key in sorted(of_speaker) if key[0] == corpus]
            for corpus in sorted({corpus for corpus, _ in of_speaker})
        ]
        # A corpus with few speakers is drawn more often than its share of speakers, and less often than the others.
        share = np.sqrt([len(corpus) for corpus in self._corpora])
        self._shares = share / share.sum()

    def batch(self, rng: np.random.Generator) -> Samples:
        """Segments ``(2, speakers, samples)``; of each speaker two, from different places."""
        samples = round(self._rate * rng.uniform(*_SECONDS))
        voices = self._draw_voices(rng)
        pairs = np.stack([self._pair(rng, *voice, samples) for voice in voices], axis=1)
        kind = rng.random()
        made = np.empty_like(pairs)
        for speaker in range(len(voices)):
            seed = int(rng.integers(2**31))
            for side in range(2):
                # The same microphone for both segments, another one for each, or none.
                source = None if kind < 0.35 else np.random.default_rng(seed) if kind < 0.6 else rng
                made[side, speaker] = self._vary(rng, pairs[side, speaker], pairs[0], source)
        return made

    def _draw_voices(self, rng: np.random.Generator) -> list[tuple[list[int], int]]:
        """Utterances of a speaker, and the speed in percent: different voices, as many as a batch has."""
        everybody = [speaker for corpus in self._corpora for speaker in corpus]
        pool = (
            everybody if rng.random() < 0.2 else self._corpora[rng.choice(len(self._corpora), p=self._shares)]
        )
        # A corpus with few speakers has more voices at several speeds.
        speeds = _SPEEDS if len(pool) < 200 or rng.random() < 0.3 else (100,)
        count = min(self._speakers, len(pool) * len(speeds))
        chosen = rng.choice(len(pool) * len(speeds), count, replace=False)
        return [(pool[each // len(speeds)], speeds[each % len(speeds)]) for each in chosen]

    def _pair(self, rng: np.random.Generator, utterances: list[int], speed: int, samples: int) -> Samples:
        """Two segments ``(2, samples)`` of one voice, as far apart as a single utterance allows."""
        wanted = -(-samples * speed // 100) + 20
        first, second = rng.choice(utterances, 2)
        length = self._speech.length(first)
        if first == second:
            free = max(0, length - 2 * wanted)
            start = int(rng.integers(free + 1))
            other = max(0, min(length - wanted, start + wanted + int(rng.integers(free - start + 1))))
        else:
            start = int(rng.integers(max(1, length - wanted + 1)))
            other = int(rng.integers(max(1, self._speech.length(second) - wanted + 1)))
        segments = []
        for number, begin in ((first, start), (second, other)):
            read = self._speech.read(number, begin, min(wanted, self._speech.length(number) - begin))
            read = resample(np.resize(read, wanted), speed, 100)[:samples]
            segments.append(np.pad(read, (0, samples - len(read))))
        return np.stack(segments)

    def _vary(
        self, rng: np.random.Generator, segment: Samples, others: Samples, source: np.random.Generator | None
    ) -> Samples:
        level = float(np.sqrt(np.square(segment).mean()))
        samples = len(segment)
        varied = segment.astype(np.float64)
        if rng.random() < 0.6:
            other = np.roll(others[rng.integers(len(others))], rng.integers(samples))
            gain = _relative(rng, level, other, 3.0, 25.0)
            if rng.random() < 0.5:
                other = other * (np.arange(samples) > rng.integers(samples))
            varied += gain * other
        if source is not None:
            response = draw_response(source, _MICROPHONE, samples, self._rate)
            if response is not None:
                varied = np.fft.irfft(np.fft.rfft(varied) * response, samples)
        if rng.random() < 0.3:
            noise = rng.standard_normal(samples)
            varied += _relative(rng, level, noise, 10.0, 35.0) * noise
        return varied.astype(np.float32)


def _relative(
    rng: np.random.Generator, level: float, other: NDArray[np.floating], low: float, high: float
) -> float:
    """Gain of ``other`` that brings it ``low`` to ``high`` dB below ``level``."""
    return float(level * 10 ** (-rng.uniform(low, high) / 20) / max(np.sqrt(np.square(other).mean()), 1e-5))
