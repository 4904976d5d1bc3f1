"""Mixtures of utterances: mixture k of a run is a pure function of (recipe, seed, k).

A plan says who speaks what, when and how loud (:mod:`unmingle.data.mixture_plans`). A mixer renders it from decoded
speech. The number of workers changes no sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmingle.audio import Samples, active_level, resample
from unmingle.data.cache import Speech
from unmingle.data.codecs import check_codecs
from unmingle.data.corpora import Utterance
from unmingle.data.examples import SNR_LIMIT, Example, MixturePlan, Segment, Voice
from unmingle.data.formants import move_formants
from unmingle.data.microphones import apply_response, draw_response
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.mixture_plans import SPEED_STEPS, MixturePlanner
from unmingle.data.noise import NoiseMaker, noise_level
from unmingle.data.recorders import RecorderConfig, device_noise, draw_recorder
from unmingle.data.room_bank import RoomBank
from unmingle.data.rooms import Room, RoomMaker, early_part, in_room

ACTIVE_LEVEL = 0.056
"""Active level of the loudest speaker before the mixture is checked for clipping: -25 dBFS."""
_RAMP_SECONDS = 0.02
"""Length of the fades at both ends of a conversation's turn."""
_LEVEL_SECONDS = (1.0, 3.0)
"""Range of the time between two points of a moving level."""
_QUIETEST_LEVEL = 0.1 * ACTIVE_LEVEL
"""Minimum level of speech from which the level of the noise is computed."""


class Mixer(MixturePlanner):
    """Draws plans of mixtures and renders them from decoded speech.

    Args:
        utterances: of one split, in the order in which ``speech`` was decoded.
        speech: the decoded utterances.
        sample_rate: of the decoded speech, in hertz.
        config: how to mix.
        seed: of the run.
        noise: draws the noise. Needed if the config has noise.
        rooms: source of the rooms (default: every room is computed when it is drawn).

    Raises:
        UnmingleError: the data has too few speakers, or a library for rooms or codecs is missing.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        speech: Speech,
        sample_rate: int,
        config: MixingConfig,
        seed: int,
        noise: NoiseMaker | None = None,
        rooms: RoomBank | None = None,
    ) -> None:
        super().__init__(utterances, speech, sample_rate, config, seed)
        self._noise = noise
        self._rooms = rooms or (RoomMaker(config.room, sample_rate, seed) if config.room else None)
        if config.recorder is not None and config.recorder.codec:
            check_codecs(config.recorder.codecs)

    def example(self, index: int, samples: int) -> Example:
        """Mixture ``index`` as a crop of a fixed length, for training."""
        return self.realize(index, self.crop(index, samples), crop=True)

    def realize(self, index: int, plan: MixturePlan, *, crop: bool = False) -> Example:
        """Render mixture ``index`` by its plan, with the room and the noise of the config.

        The SNR of the noise is relative to the active level of the sources' sum. With ``noise_only`` in the config,
        some crops have no speech.
        """
        speech, room, response = self._render_at_microphone(index, plan, crop=crop)
        noise, snr, name = self._draw_noise(index, speech.sum(axis=0), response, crop=crop)
        if noise is not None:
            if snr == -SNR_LIMIT:
                speech = np.zeros_like(speech)
            peak = float(np.abs(speech.sum(axis=0) + noise).max(initial=0.0))
            if peak > 0.95:
                speech, noise = speech * np.float32(0.95 / peak), noise * np.float32(0.95 / peak)
        sources, late = speech[: len(plan.voices)], speech[len(plan.voices) :]
        if self.config.second_speaker:
            sources = sources.sum(axis=0, keepdims=True)
        if len(late):
            noise = late[0] if noise is None else noise + late[0]
        if crop and self.config.recorder is not None:
            sources, noise = self._through_recorder(index, self.config.recorder, sources, noise)
        first = plan.voices[0].segments
        gender = self._utterances[first[0].utterance].gender if first else "unknown"
        return Example(sources, noise, snr, gender, name, room)

    def _render_at_microphone(
        self, index: int, plan: MixturePlan, *, crop: bool
    ) -> tuple[Samples, Room | None, Samples | None]:
        """Each speaker's sound at the microphone ``(speakers, samples)``, the room, and the microphone's response.

        With ``early`` in the room's config, one more row holds the late reverberation of all speakers.
        """
        sources, room, response = self.render(plan), None, None
        if crop and self.config.moving_level:
            sources = self._with_moving_levels(np.random.default_rng([self.seed, index, 4]), sources)
        if self._rooms is not None:
            rng = np.random.default_rng([self.seed, index, 2])
            # ``share`` is for training: every mixture of a test list is in a room.
            if not crop or self._rooms.config.share == 1.0 or rng.random() < self._rooms.config.share:
                room = self._rooms.draw(rng, len(sources))
                sources = self._in_room(sources, room)
        if crop and self.config.microphone is not None:
            drawn = np.random.default_rng([self.seed, index, 3])
            response = draw_response(drawn, self.config.microphone, plan.samples, self.sample_rate)
        if response is not None:
            sources = self._through_microphone(sources, response)
        return sources, room, response

    def _draw_noise(
        self, index: int, speech: Samples, response: Samples | None, *, crop: bool
    ) -> tuple[Samples | None, float | None, str]:
        """The noise for ``speech`` ``(samples,)``, the SNR in dB, and the noise's name.

        Without noise it returns None, None and "". The noise has its own random generators, so it does not change the
        speech of a seed.
        """
        noise, noise_only, name = None, False, ""
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
                filtered = apply_response(response, noise)
                noise = filtered * np.float32(noise_level(noise) / max(noise_level(filtered), 1e-9))
            noise = noise * np.float32(level * 10 ** (-snr / 20))
            noise_only = crop and bool(rng.random() < config.noise_only)
        drawn = np.random.default_rng([self.seed, index, 6])
        if recorder and drawn.random() < recorder.device_noise:
            gain = np.float32(level * 10 ** (-float(drawn.uniform(*recorder.device_snr)) / 20))
            own = gain * device_noise(drawn, len(speech), self.sample_rate)
            noise, name = (own, "device") if noise is None else (noise + own, f"{name} + device")
        if noise is None:
            return None, None, ""
        # The actual SNR differs from the drawn one where a recording of noise has a gap: gaps are not amplified.
        snr = float(20 * np.log10(level / max(noise_level(noise), 1e-9)))
        return noise, -SNR_LIMIT if noise_only else snr, name

    def _through_recorder(
        self, index: int, config: RecorderConfig, sources: Samples, noise: Samples | None
    ) -> tuple[Samples, Samples | None]:
        """Sources and noise as a recorder stores them."""
        rng = np.random.default_rng([self.seed, index, 7])
        rest = np.zeros(sources.shape[1], dtype=np.float32) if noise is None else noise
        recorder = draw_recorder(rng, config, sources.sum(axis=0) + rest, self.sample_rate)
        return (sources, noise) if recorder is None else recorder.record(sources, rest, self.sample_rate)

    def render(self, plan: MixturePlan) -> Samples:
        """Sources ``(speakers, samples)`` at their levels in the mixture. The mixture is their sum.

        A plan's gains are ratios of active levels. One common gain keeps the sum below full scale.
        """
        sources = np.zeros((len(plan.voices), plan.samples), dtype=np.float32)
        for source, voice in zip(sources, plan.voices, strict=True):
            for segment in voice.segments:
                source[segment.position : segment.position + segment.length] = self._render(segment, voice)
        return _below_full_scale(sources)

    def _in_room(self, sources: Samples, room: Room) -> Samples:
        """Sources in a room. In random rooms, each keeps its planned level at the microphone.

        With ``early`` in the config, one more row holds the late reverberation of all speakers.
        """
        reverberant = in_room(sources, room)
        before = [active_level(source, self.sample_rate) for source in sources]
        after = [max(active_level(source, self.sample_rate), 1e-9) for source in reverberant]
        gains = np.array(before) / np.array(after)
        config = self.config.room
        if config is not None and config.setting == "loudspeakers":
            gains[:] = gains[0]  # A speaker farther away is quieter.
        scale = gains[:, None].astype(np.float32)
        if config is None or config.early is None:
            return _below_full_scale(reverberant * scale)
        early = in_room(sources, early_part(room, config.early, self.sample_rate))
        late = ((reverberant - early) * scale).sum(axis=0, keepdims=True)
        return _below_full_scale(np.concatenate([early * scale, late]))

    def _with_moving_levels(self, rng: np.random.Generator, sources: Samples) -> Samples:
        """Sources with moving levels: linear in dB between random points."""
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

    def _through_microphone(self, sources: Samples, response: Samples) -> Samples:
        """Sources filtered by a microphone. The active level of their sum stays the same."""
        recorded = apply_response(response, sources)
        before, after = (active_level(each.sum(axis=0), self.sample_rate) for each in (sources, recorded))
        return _below_full_scale(recorded * np.float32(before / max(after, 1e-9)))

    def _render(self, segment: Segment, voice: Voice) -> Samples:
        wanted = int(np.ceil(segment.length * voice.speed)) + 1
        available = self._speech.length(segment.utterance) - segment.start
        samples = self._speech.read(segment.utterance, segment.start, min(wanted, available))
        if voice.speed != 1.0:
            samples = resample(samples, round(voice.speed * SPEED_STEPS), SPEED_STEPS)
        samples = move_formants(samples, voice.formants, self.sample_rate)
        gain = ACTIVE_LEVEL * 10 ** (voice.gain_db / 20) / max(self._speech.level(segment.utterance), 1e-6)
        rendered = np.zeros(segment.length, dtype=np.float32)
        rendered[: len(samples)] = samples[: segment.length] * np.float32(gain)
        if voice.ramps:
            size = min(round(_RAMP_SECONDS * self.sample_rate), segment.length // 2)
            ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
            rendered[:size] *= ramp
            rendered[segment.length - size :] *= ramp[::-1]
        return rendered


def _below_full_scale(sources: Samples) -> Samples:
    """``(speakers, samples)`` with one common gain, so that each row and the sum stay below full scale."""
    peak = max(float(np.abs(sources.sum(axis=0)).max(initial=0.0)), float(np.abs(sources).max(initial=0.0)))
    return sources * np.float32(0.95 / peak) if peak > 0.95 else sources
