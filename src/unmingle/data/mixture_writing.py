"""Write a folder of mixtures of a corpus, with a data card. Mixture k is a pure function of (recipe, seed, k)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unmingle.audio import active_level, write_audio
from unmingle.config import Config
from unmingle.data.cache import PickedSpeech, Speech, decode, is_decoded
from unmingle.data.corpora import Utterance, read_corpora, read_noise, state_of
from unmingle.data.data_card import data_card
from unmingle.data.examples import SNR_LIMIT, Example, MixturePlan
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.mixture_folders import list_hash, read_mixture_folder
from unmingle.data.mixture_jobs import check_new, is_complete, write_mixtures
from unmingle.data.mixture_plans import MixturePlanner
from unmingle.data.noise import NoiseConfig, NoiseMaker
from unmingle.data.rooms import RoomConfig
from unmingle.shares import WHOLE, Share

Decibels = Annotated[float, Field(ge=-SNR_LIMIT, le=SNR_LIMIT, allow_inf_nan=False)]


class MixtureFolderConfig(Config):
    """Settings for a folder of mixtures."""

    corpora: list[str]
    noise: list[str] = []
    """Corpora of noise."""
    split: str | None = None
    count: int = Field(ge=1, le=1_000_000)
    speakers: int = Field(2, ge=1, le=16)
    snr: tuple[Decibels, Decibels] = (0.0, 5.0)
    """SNR range in dB: first speaker over second, or, with one speaker, speech over noise."""
    noise_snr: tuple[Decibels, Decibels] | None = None
    """SNR range in dB of the sum of several speakers over the noise."""
    overlap: tuple[float, float] | None = None
    """See :class:`~unmingle.data.mixing_config.MixingConfig`."""
    room: RoomConfig | None = None
    sample_rate: int = Field(8000, ge=1000, le=192_000)
    mode: Literal["min", "max"] = "min"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _ranges(self) -> MixtureFolderConfig:
        for name in ("snr", "noise_snr"):
            limits = getattr(self, name)
            if limits is not None and limits[0] > limits[1]:
                raise ValueError(f"{name} must be low and high, got {limits[0]:g} and {limits[1]:g}")
        if self.noise_snr is not None and not self.noise:
            raise ValueError("noise_snr needs noise: give noise with --noise")
        if self.noise and self.speakers == 1 and self.noise_snr is not None:
            raise ValueError("with one speaker, --snr is the SNR over the noise: leave noise_snr out")
        if self.noise and self.speakers > 1 and self.noise_snr is None:
            raise ValueError("several speakers in noise need noise_snr: set it with --noise-snr LOW HIGH")
        return self

    @model_validator(mode="after")
    def _no_unused_options(self) -> MixtureFolderConfig:
        if self.overlap is not None and "mode" in self.model_fields_set:
            raise ValueError("--mode cannot be combined with --overlap; leave one of them out")
        if self.speakers == 1 and self.overlap is not None:
            raise ValueError("--overlap needs two speakers or more")
        if self.speakers == 1 and not self.noise and "snr" in self.model_fields_set:
            raise ValueError("--snr with one speaker is the SNR over the noise: give noise with --noise")
        _ = self.mixing  # Raises an error if a range is wrong.
        return self

    @property
    def mixing(self) -> MixingConfig:
        """The settings of the mixer."""
        noise = None
        if self.noise:
            low, high = self.noise_snr or self.snr
            noise = NoiseConfig(snr_levels=[(low + high) / 2], snr_spread=(high - low) / 2)
        snr = (0.0, 0.0) if self.speakers == 1 else self.snr
        return MixingConfig(
            speakers=self.speakers, snr=snr, overlap=self.overlap, room=self.room, noise=noise
        )


def write_mixture_folder(
    folder: Path,
    config: MixtureFolderConfig,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
    processes: int | None = None,
    share: Share | None = None,
) -> bool:
    """Draw, mix and write ``config.count`` mixtures, as :func:`~unmingle.data.mixture_jobs.write_mixtures` does.

    Args:
        folder: to write.
        config: what to mix.
        cache: for decoded speech (default: that of the user).
        on_progress: called with the number of mixtures that are done and the total.
        on_decoded: called with the number of files that are decoded and the total.
        processes: number of worker processes (default: one per core).
        share: write only these mixtures.

    Returns:
        Whether the folder is complete; if not, mixtures of other shares are missing.

    Raises:
        UnmingleError: the folder is not empty, the data cannot be used, or the disk is full.
    """
    folder = folder.absolute()
    if share is not None and is_complete(folder, _recipe(config)):
        return True
    check_new(folder)
    utterances = read_corpora(config.corpora, config.split)
    recordings = read_noise(config.noise, config.split) if config.noise else []
    # A share without mixtures has a mixer, too: it may be the one that completes the folder.
    mine = (share or WHOLE).pick(range(config.count)) or [0]
    mixer = _mixer(config, mine, utterances, recordings, cache, on_decoded)
    job = _DrawnMixtures(config, mixer, utterances, recordings)
    return write_mixtures(folder, job, on_progress, processes, share)


def _recipe(config: MixtureFolderConfig) -> str:
    return config.model_dump_json(indent=2)


def _mixer(
    config: MixtureFolderConfig,
    mine: Sequence[int],
    utterances: Sequence[Utterance],
    recordings: Sequence[Utterance],
    cache: Path | None,
    on_decoded: Callable[[int, int], None] | None,
) -> Mixer:
    """A mixer of decoded speech. If the corpus is not decoded yet, only the utterances of ``mine`` are decoded."""
    mixing, rate = config.mixing, config.sample_rate
    noise = None
    if mixing.noise is not None:
        noise = NoiseMaker(recordings, decode(recordings, rate, cache, on_decoded), None, rate, mixing.noise)
    speech: Speech
    if is_decoded(utterances, rate, cache):
        speech = decode(utterances, rate, cache)
    else:
        speech = _decode_picked(config, mine, utterances, cache, on_decoded)
    return Mixer(utterances, speech, rate, mixing, config.seed, noise)


def _decode_picked(
    config: MixtureFolderConfig,
    mine: Sequence[int],
    utterances: Sequence[Utterance],
    cache: Path | None,
    on_decoded: Callable[[int, int], None] | None,
) -> PickedSpeech:
    """The utterances of mixtures. Silent ones are known only when they are decoded; then others are picked."""
    silent: set[int] = set()
    while True:
        planner = MixturePlanner(utterances, None, config.sample_rate, config.mixing, config.seed, silent)
        picked = sorted({utterance for index in mine for utterance in planner.picked(index)})
        some = decode([utterances[index] for index in picked], config.sample_rate, cache, on_decoded)
        if not some.silent:
            return PickedSpeech(some, picked, silent)
        silent |= {picked[place] for place in some.silent}


@dataclass(frozen=True)
class _DrawnMixtures:
    """Mixtures that a mixer draws."""

    config: MixtureFolderConfig
    mixer: Mixer
    utterances: Sequence[Utterance]
    recordings: Sequence[Utterance]

    @property
    def count(self) -> int:
        return self.config.count

    @property
    def recipe(self) -> str:
        return _recipe(self.config)

    def plan(self) -> Any:
        audio = [*self.utterances, *self.recordings]
        return [
            self.config.model_dump(mode="json"),
            [[os.fsdecode(each.path), each.speaker, state_of(each)[0]] for each in audio],
        ]

    def write(self, folder: Path, index: int) -> dict[str, str]:
        plan = self.mixer.whole(index, self.config.mode)
        example = self.mixer.realize(index, plan)
        row = _row(_name(index, plan, self.utterances), plan, example, self.mixer, self.utterances)
        # The mixture is the sum of the written sources in float, without rounding in between.
        parts = {f"s{number}": source for number, source in enumerate(example.sources, start=1)}
        if example.noise is not None and self.config.speakers == 1:
            parts = {"noisy": example.mixture, "clean": parts["s1"], "noise": example.noise}
        else:
            parts["mix"] = example.mixture
            if example.noise is not None:
                parts["noise"] = example.noise
        for part, audio in parts.items():
            write_audio(folder / part / f"{row['name']}.wav", audio, self.config.sample_rate)
        return row

    def card(self, folder: Path, rows: Sequence[dict[str, str]]) -> str:
        digest = list_hash(read_mixture_folder(folder))
        return data_card(self.recipe, rows, self.utterances, self.recordings, digest)


def _name(index: int, plan: MixturePlan, utterances: Sequence[Utterance]) -> str:
    stems = [utterances[voice.segments[0].utterance].path.stem[-24:] for voice in plan.voices]
    # A line break in a file name would break every list of the mixtures.
    return "".join(letter if letter.isprintable() else "_" for letter in "_".join([f"{index:05d}", *stems]))


def _row(
    name: str,
    plan: MixturePlan,
    example: Example,
    mixer: Mixer,
    utterances: Sequence[Utterance],
) -> dict[str, str]:
    row = {"name": name}
    for number, voice in enumerate(plan.voices, start=1):
        utterance = utterances[voice.segments[0].utterance]
        row |= {
            f"source_{number}": "/".join(utterance.path.parts[-4:]),
            f"corpus_{number}": utterance.corpus,
            f"speaker_{number}": utterance.speaker,
            f"gender_{number}": utterance.gender,
            f"gain_db_{number}": f"{voice.gain_db:.4f}",
            # The words of a cut utterance are not known.
            f"text_{number}": utterance.text if mixer.is_whole(voice.segments[0]) else "",
        }
    gains = [voice.gain_db for voice in plan.voices]
    row["snr_db"] = f"{gains[0] - gains[1]:.4f}" if len(gains) == 2 else ""
    if example.room is not None and len(gains) == 2:
        first, second = (active_level(source, mixer.sample_rate) for source in example.sources)
        row["snr_db"] = f"{20 * math.log10(max(first, 1e-9) / max(second, 1e-9)):.4f}"
    row["seconds"] = f"{plan.samples / mixer.sample_rate:.3f}"
    if mixer.config.overlap is not None:
        row["overlap"] = f"{_overlap(plan):.4f}"
    if example.room is not None:
        row["rt60"] = f"{example.room.rt60:.3f}"
        for number, distance in enumerate(example.room.distances, start=1):
            row[f"distance_{number}"] = f"{distance:.3f}"
    if example.snr is not None:
        column = "snr_db" if len(gains) == 1 else "noise_snr_db"
        row |= {column: f"{example.snr:.4f}", "noise": example.noise_name}
    return row


def _overlap(plan: MixturePlan) -> float:
    """Share of the mixture's time in which two or more speakers talk."""
    edges = [(segment.position, 1) for voice in plan.voices for segment in voice.segments]
    edges += [(segment.position + segment.length, -1) for voice in plan.voices for segment in voice.segments]
    together, talking, last = 0, 0, 0
    for position, change in sorted(edges):
        together += (position - last) * (talking > 1)
        talking, last = talking + change, position
    return together / plan.samples
