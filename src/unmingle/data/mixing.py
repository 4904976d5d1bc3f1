"""Mixtures from utterances: mixture k of a run is a pure function of (recipe, seed, k).

First a plan is drawn (who speaks what, when, how loud), which costs nothing, then it is rendered
from decoded speech. The same plan gives the same samples whatever the number of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unmingle.audio import Samples, active_level, resample
from unmingle.data.cache import DecodedSpeech, PickedSpeech
from unmingle.data.codecs import check_codecs
from unmingle.data.conversations import ConversationConfig, draw_turns
from unmingle.data.corpora import Utterance, by_speaker
from unmingle.data.examples import SNR_LIMIT, Example, MixturePlan, Segment, Voice
from unmingle.data.microphones import draw_response, heard_through
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseMaker, noise_level
from unmingle.data.recorders import RecorderConfig, device_noise, draw_recorder
from unmingle.data.room_bank import RoomBank
from unmingle.data.rooms import Room, RoomMaker, early_part, in_room
from unmingle.errors import UnmingleError

_log = logging.getLogger(__name__)

ACTIVE_LEVEL = 0.056
"""Active level of the loudest speaker before the mixture is checked for clipping: -25 dBFS."""
_SPEED_STEPS = 40
"""Speeds are multiples of 1/40: a small set of resampling ratios, each a ratio of small integers."""
_PAUSE_SECONDS = (0.1, 0.5)
_RAMP_SECONDS = 0.02
"""Over which a turn of a conversation rises and falls where it cuts an utterance."""
_LEVEL_SECONDS = (1.0, 3.0)
"""Between the points from which a moving level moves to the next."""
_QUIETEST_LEVEL = 0.1 * ACTIVE_LEVEL
"""Noise is not lowered further with speech that hardly is any."""


class Mixer:
    """Draws and renders mixtures of decoded speech.

    Args:
        utterances: of one split, in the order in which ``speech`` was decoded.
        speech: the decoded utterances; None for who only asks what is :meth:`picked`.
        sample_rate: of the decoded speech, in hertz.
        config: how to mix.
        seed: of the run.
        noise: makes the noise, where the config wants some.
        rooms: where the rooms come from (default: each is computed when it is drawn).
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        speech: DecodedSpeech | PickedSpeech | None,
        sample_rate: int,
        config: MixingConfig,
        seed: int,
        noise: NoiseMaker | None = None,
        rooms: RoomBank | None = None,
    ) -> None:
        self.config, self.seed, self.sample_rate = config, seed, sample_rate
        self._decoded, self._noise, self._utterances = speech, noise, utterances
        self._rooms = rooms or (RoomMaker(config.room, sample_rate, seed) if config.room else None)
        self._speakers = by_speaker(utterances)
        absent = sorted(set(config.corpus_weights) - set(self._speakers))
        if absent:
            # A recipe's own corpora: another corpus can be trained on all the same.
            there = ", ".join(sorted(self._speakers))
            _log.warning("corpus_weights names %s; the data has %s.", ", ".join(absent), there)
        self._corpora = sorted(self._speakers)
        weights = np.array([config.corpus_weights.get(name, 1.0) for name in self._corpora])
        if weights.sum() <= 0:
            raise UnmingleError("corpus_weights leaves no corpus with a chance above 0.")
        self._chances = weights / weights.sum()
        total = sum(
            len(self._speakers[name])
            for name, chance in zip(self._corpora, self._chances, strict=True)
            if chance > 0
        )
        if total < config.most_at_once:
            raise UnmingleError(f"{config.most_at_once} speakers are to be mixed, but the data has {total}.")
        if config.recorder is not None and config.recorder.codec:
            check_codecs(config.recorder.codecs)

    @property
    def _speech(self) -> DecodedSpeech | PickedSpeech:
        assert self._decoded is not None
        return self._decoded

    def example(self, index: int, samples: int) -> Example:
        """Mixture ``index`` as a crop of a fixed length, for training, with noise if there is any."""
        return self.realize(index, self.crop(index, samples), crop=True)

    def realize(self, index: int, plan: MixturePlan, *, crop: bool = False) -> Example:
        """Render mixture ``index`` by its plan, in its room and with its noise if the config wants them.

        The level of the noise counts against the active level of the sources' sum. In some crops,
        if the config says so, nobody talks.
        """
        heard, room, response = self._heard(index, plan, crop=crop)
        noise, snr, name = self._beside(index, heard.sum(axis=0), response, crop=crop)
        if noise is not None:
            if snr == -SNR_LIMIT:
                heard = np.zeros_like(heard)
            peak = float(np.abs(heard.sum(axis=0) + noise).max(initial=0.0))
            if peak > 0.95:
                heard, noise = heard * np.float32(0.95 / peak), noise * np.float32(0.95 / peak)
        sources, late = heard[: len(plan.voices)], heard[len(plan.voices) :]
        if self.config.second_speaker:
            sources = sources.sum(axis=0, keepdims=True)
        if len(late):
            noise = late[0] if noise is None else noise + late[0]
        if crop and self.config.recorder is not None:
            sources, noise = self._kept(index, self.config.recorder, sources, noise)
        first = plan.voices[0].segments
        gender = self._utterances[first[0].utterance].gender if first else "unknown"
        return Example(sources, noise, snr, gender, name, room)

    def _heard(
        self, index: int, plan: MixturePlan, *, crop: bool
    ) -> tuple[Samples, Room | None, Samples | None]:
        """What arrives of every speaker, ``(speakers, samples)``, the room, and the microphone's response.

        A further row is late reverberation, where it belongs to no speaker.
        """
        sources, room, response = self.render(plan), None, None
        if crop and self.config.moving_level:
            sources = self._moved(np.random.default_rng([self.seed, index, 4]), sources)
        if self._rooms is not None:
            rng = np.random.default_rng([self.seed, index, 2])
            # Test lists are all in rooms; a share below 1 is for training.
            if not crop or self._rooms.config.share == 1.0 or rng.random() < self._rooms.config.share:
                room = self._rooms.draw(rng, len(sources))
                sources = self._in_room(sources, room)
        if crop and self.config.microphone is not None:
            drawn = np.random.default_rng([self.seed, index, 3])
            response = draw_response(drawn, self.config.microphone, plan.samples, self.sample_rate)
        if response is not None:
            sources = self._recorded(sources, response)
        return sources, room, response

    def _beside(
        self, index: int, speech: Samples, response: Samples | None, *, crop: bool
    ) -> tuple[Samples | None, float | None, str]:
        """The noise beside ``speech`` ``(samples,)``, the SNR in dB, and what the noise is; None where there is none.

        Generators of its own: noise changes nothing about the speech.
        """
        noise, nobody, name = None, False, ""
        recorder = self.config.recorder if crop else None
        if self._noise is None and recorder is None:
            return None, None, ""
        level = max(active_level(speech, self.sample_rate), _QUIETEST_LEVEL)
        rng = np.random.default_rng([self.seed, index, 1])
        config = self._noise.config if self._noise is not None else None
        if config and self._noise and not (crop and config.share < 1.0 and rng.random() >= config.share):
            snr = float(rng.choice(config.snr_levels) + rng.uniform(-1.0, 1.0) * config.snr_spread)
            noise, name = self._noise.draw(rng, len(speech))
            if response is not None:
                filtered = heard_through(response, noise)
                noise = filtered * np.float32(noise_level(noise) / max(noise_level(filtered), 1e-9))
            noise = noise * np.float32(level * 10 ** (-snr / 20))
            nobody = crop and bool(rng.random() < config.noise_only)
        drawn = np.random.default_rng([self.seed, index, 6])
        if recorder and drawn.random() < recorder.device_noise:
            gain = np.float32(level * 10 ** (-float(drawn.uniform(*recorder.device_snr)) / 20))
            own = gain * device_noise(drawn, len(speech), self.sample_rate)
            noise, name = (own, "device") if noise is None else (noise + own, f"{name} + device")
        if noise is None:
            return None, None, ""
        # As it became: over a gap in its recording, noise is not raised to the full.
        snr = float(20 * np.log10(level / max(noise_level(noise), 1e-9)))
        return noise, -SNR_LIMIT if nobody else snr, name

    def _kept(
        self, index: int, config: RecorderConfig, sources: Samples, noise: Samples | None
    ) -> tuple[Samples, Samples | None]:
        """Sources and noise as a recorder keeps them."""
        rng = np.random.default_rng([self.seed, index, 7])
        rest = np.zeros(sources.shape[1], dtype=np.float32) if noise is None else noise
        recorder = draw_recorder(rng, config, sources.sum(axis=0) + rest, self.sample_rate)
        return (sources, noise) if recorder is None else recorder.record(sources, rest, self.sample_rate)

    def crop(self, index: int, samples: int) -> MixturePlan:
        """Plan of mixture ``index`` as a crop of a fixed length, for training."""
        rng = self._rng(index)
        if np.random.default_rng([self.seed, index, 5]).random() < self.config.second_speaker:
            return self._conversation(rng, samples, self.config.conversation or ConversationConfig(), 2)
        kind = rng.random()
        single_speaker = kind < self.config.single_speaker
        partial = not single_speaker and kind < self.config.single_speaker + self.config.partial_overlap
        conversation = None if single_speaker or partial else self.config.conversation
        # A share of what is left: the rest overlaps fully.
        if conversation is not None and rng.random() < conversation.share:
            return self._conversation(rng, samples, conversation, self._draw_count(rng))
        present = 1 if single_speaker else self._draw_count(rng)
        gains = self._gains(rng, self.config.speakers if single_speaker else present)
        voices = []
        for number, speaker in enumerate(self._draw_speakers(rng, self.config.speakers)):
            speed = self._draw_speed(rng)
            first, last = 0, samples
            if number == 0 and self.config.late and rng.random() < self.config.late:
                first = int(rng.integers(samples // 3))
            if number > 0 and partial:
                length = int(samples * rng.uniform(0.1, 0.9))
                first = int(rng.integers(0, samples - length + 1))
                last = first + length
            if number < present:
                voices.append(Voice(self._fill(rng, speaker, speed, first, last), speed, gains[number]))
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
            speed = self._draw_speed(rng)
            own = [turn for turn in turns if turn.speaker == number]
            segments = [
                segment for turn in own for segment in self._fill(rng, speaker, speed, turn.first, turn.last)
            ]
            voices.append(Voice(tuple(segments), speed, gains[number] if own else 0.0, ramps=True))
        return MixturePlan(tuple(voices), samples)

    def whole(self, index: int, mode: str) -> MixturePlan:
        """Plan of mixture ``index`` from one whole utterance per speaker, for test lists.

        ``mode`` "min" cuts to the shortest utterance, "max" pads to the longest, as WSJ0-mix does. With
        ``overlap`` in the config the utterances stay whole, in turns, whatever the mode.
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
        """The utterances that :meth:`whole` takes for mixture ``index``; they need not be decoded to know."""
        rng = self._rng(index)
        self._gains(rng, self.config.speakers)
        return self._pick(rng)

    def _pick(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.choice(speaker)) for speaker in self._draw_speakers(rng, self.config.speakers)]

    def is_whole(self, segment: Segment) -> bool:
        """Whether a segment at the speed 1 is all of its utterance."""
        return segment.start == 0 and segment.length == self._speech.length(segment.utterance)

    def render(self, plan: MixturePlan) -> Samples:
        """Sources ``(speakers, samples)`` at their levels in the mixture, which is their sum.

        Gains count between active levels; one common gain keeps the sum below full scale.
        """
        sources = np.zeros((len(plan.voices), plan.samples), dtype=np.float32)
        for source, voice in zip(sources, plan.voices, strict=True):
            for segment in voice.segments:
                source[segment.position : segment.position + segment.length] = self._render(segment, voice)
        return _below_full_scale(sources)

    def _in_room(self, sources: Samples, room: Room) -> Samples:
        """Sources as they arrive: with random rooms each at the level that it was planned to have there.

        Late reverberation is a row of its own, if the config says so.
        """
        reverberant = in_room(sources, room)
        before = [active_level(source, self.sample_rate) for source in sources]
        after = [max(active_level(source, self.sample_rate), 1e-9) for source in reverberant]
        gains = np.array(before) / np.array(after)
        config = self.config.room
        if config is not None and config.setting == "loudspeakers":
            gains[:] = gains[0]  # What is farther off is quieter.
        scale = gains[:, None].astype(np.float32)
        if config is None or config.early is None:
            return _below_full_scale(reverberant * scale)
        early = in_room(sources, early_part(room, config.early, self.sample_rate))
        late = ((reverberant - early) * scale).sum(axis=0, keepdims=True)
        return _below_full_scale(np.concatenate([early * scale, late]))

    def _moved(self, rng: np.random.Generator, sources: Samples) -> Samples:
        """Sources whose levels move, linearly in dB from one random point to the next."""
        samples, decibels = sources.shape[1], self.config.moving_level
        moved = np.empty_like(sources)
        for row, source in zip(moved, sources, strict=True):
            points = np.cumsum(
                rng.uniform(*_LEVEL_SECONDS, 2 + int(samples / (_LEVEL_SECONDS[0] * self.sample_rate)))
            )
            times = (points - points[0]) * self.sample_rate
            curve = np.interp(np.arange(samples), times, rng.uniform(-decibels, decibels, len(times)))
            row[:] = source * (10 ** (curve / 20)).astype(np.float32)
        return _below_full_scale(moved)

    def _recorded(self, sources: Samples, response: Samples) -> Samples:
        """Sources through a microphone; their sum keeps its active level."""
        recorded = heard_through(response, sources)
        before, after = (active_level(each.sum(axis=0), self.sample_rate) for each in (sources, recorded))
        return _below_full_scale(recorded * np.float32(before / max(after, 1e-9)))

    def _render(self, segment: Segment, voice: Voice) -> Samples:
        wanted = int(np.ceil(segment.length * voice.speed)) + 1
        available = self._speech.length(segment.utterance) - segment.start
        samples = self._speech.read(segment.utterance, segment.start, min(wanted, available))
        if voice.speed != 1.0:
            samples = resample(samples, round(voice.speed * _SPEED_STEPS), _SPEED_STEPS)
        gain = ACTIVE_LEVEL * 10 ** (voice.gain_db / 20) / max(self._speech.level(segment.utterance), 1e-6)
        rendered = np.zeros(segment.length, dtype=np.float32)
        rendered[: len(samples)] = samples[: segment.length] * np.float32(gain)
        if voice.ramps:
            size = min(round(_RAMP_SECONDS * self.sample_rate), segment.length // 2)
            ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
            rendered[:size] *= ramp
            rendered[segment.length - size :] *= ramp[::-1]
        return rendered

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index])

    def _draw_count(self, rng: np.random.Generator) -> int:
        fewest, most = self.config.fewest_speakers, self.config.speakers
        # Nothing is drawn where nothing is open: the lists of old seeds stay what they were.
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
        return round(float(rng.uniform(low, high)) * _SPEED_STEPS) / _SPEED_STEPS

    def _draw_speakers(self, rng: np.random.Generator, number: int) -> list[list[int]]:
        """The utterances of each of so many different speakers."""
        drawn: dict[tuple[str, str], list[int]] = {}
        while len(drawn) < number:
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


def overlapping_starts(lengths: Sequence[int], shares: NDArray[np.float64]) -> list[int]:
    """Where utterances begin that overlap with what came before by shares of the shorter of both."""
    starts, end = [0], lengths[0]
    for length, before, share in zip(lengths[1:], lengths, shares[1:], strict=False):
        starts.append(max(0, end - round(share * min(length, before))))
        end = max(end, starts[-1] + length)
    return starts


def _below_full_scale(sources: Samples) -> Samples:
    """``(speakers, samples)`` with one gain for all that keeps each, and their sum, below full scale."""
    peak = max(float(np.abs(sources.sum(axis=0)).max(initial=0.0)), float(np.abs(sources).max(initial=0.0)))
    return sources * np.float32(0.95 / peak) if peak > 0.95 else sources
