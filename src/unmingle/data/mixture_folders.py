"""Folders of mixtures in the layout that WSJ0-mix and LibriMix users know.

    DIR/mix/NAME.wav   DIR/s1/NAME.wav   DIR/s2/NAME.wav [ DIR/s3/NAME.wav ]
    DIR/mixtures.csv   one row a mixture: sources, talkers, genders, gains, SNR, seconds
    DIR/recipe.json    how the folder was made

LibriMix's ``mix_clean/`` is read too, where there is no ``mix/``. One talker in noise is a folder of the layout
that users of VoiceBank-DEMAND know, whose names ``noisy_testset_wav/``, ``clean_testset_wav/`` are read too:

    DIR/noisy/NAME.wav   DIR/clean/NAME.wav   DIR/noise/NAME.wav
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from unmingle.audio import Samples, read_audio, replace_files, write_audio
from unmingle.config import Config
from unmingle.data.cache import decode
from unmingle.data.corpora import Utterance, read_corpora, read_noise
from unmingle.data.mixing import Mixer, MixingConfig, MixturePlan
from unmingle.data.noise import NoiseConfig, NoiseMaker
from unmingle.errors import UnmingleError


class MixtureFolderConfig(Config):
    """How a folder of mixtures is made."""

    corpora: list[str]
    noise: list[str] = []
    """Corpora of noise; with one talker, ``snr`` is then that of the talker over the noise."""
    split: str | None = None
    count: int = Field(ge=1)
    talkers: int = Field(2, ge=1, le=16)
    snr: tuple[float, float] = (0.0, 5.0)
    sample_rate: int = Field(8000, ge=1000)
    mode: Literal["min", "max"] = "min"
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ranges(self) -> MixtureFolderConfig:
        if self.snr[0] > self.snr[1]:
            raise ValueError(f"snr must be low and high, got {self.snr[0]:g} and {self.snr[1]:g}")
        if self.noise and self.talkers != 1:
            raise ValueError("noise goes with one talker")
        return self

    @property
    def mixing(self) -> MixingConfig:
        """What the mixer is told."""
        if not self.noise:
            return MixingConfig(talkers=self.talkers, snr=self.snr)
        low, high = self.snr
        noise = NoiseConfig(snr_levels=[(low + high) / 2], snr_spread=(high - low) / 2)
        return MixingConfig(talkers=1, noise=noise)


@dataclass(frozen=True)
class MixtureItem:
    """One mixture of a folder, with its references."""

    name: str
    mixture: Path
    sources: tuple[Path, ...]
    details: dict[str, str]
    """Its row of ``mixtures.csv``, or empty."""
    noisy: bool = False
    """One talker in noise."""

    @property
    def gender_pair(self) -> str:
        """``same``, ``different``, or ``unknown``."""
        genders = [self.details.get(f"gender_{n}", "unknown") for n in range(1, len(self.sources) + 1)]
        if any(gender not in ("M", "F") for gender in genders):
            return "unknown"
        return "same" if len(set(genders)) == 1 else "different"


def write_mixture_folder(
    folder: Path,
    config: MixtureFolderConfig,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
) -> None:
    """Draw, mix and write ``config.count`` mixtures; the folder appears when all is there.

    Raises:
        UnmingleError: the folder holds mixtures already, the data will not do, or the disk is full.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UnmingleError(f"{folder} is not empty; name another folder.")
    utterances = read_corpora(config.corpora, config.split)
    mixing = config.mixing
    recordings = read_noise(config.noise, config.split) if config.noise else []
    speech = decode(utterances, config.sample_rate, cache, on_decoded)
    noise = None
    if mixing.noise is not None:
        decoded = decode(recordings, config.sample_rate, cache, on_decoded)
        noise = NoiseMaker(recordings, decoded, speech, config.sample_rate, mixing.noise)
    mixer = Mixer(utterances, speech, config.sample_rate, mixing, config.seed, noise)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _write(partial, config, mixer, utterances, on_progress)
        partial.rename(folder)
    except OSError as error:
        raise UnmingleError(
            f"{folder} cannot be written ({(error.strerror or str(error)).lower()})."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path,
    config: MixtureFolderConfig,
    mixer: Mixer,
    utterances: Sequence[Utterance],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    rows = []
    for index in range(config.count):
        plan = mixer.whole(index, config.mode)
        example = mixer.add_noise(index, plan)
        name = _name(index, plan, utterances)
        # The mixture is the sum of the sources as written, in float: no rounding between them.
        parts = {f"s{number}": source for number, source in enumerate(example.sources, start=1)}
        if example.noise is None:
            parts["mix"] = example.mixture
        else:
            parts = {"noisy": example.mixture, "clean": parts["s1"], "noise": example.noise}
        for part, audio in parts.items():
            write_audio(folder / part / f"{name}.wav", audio, config.sample_rate)
        row = _row(name, plan, utterances, config.sample_rate)
        if example.snr is not None:
            row |= {"snr_db": f"{example.snr:.4f}", "noise": example.noise_name}
        rows.append(row)
        if on_progress:
            on_progress(index + 1, config.count)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_files(
        [
            (folder / "recipe.json", config.model_dump_json(indent=2).encode()),
            (folder / "mixtures.csv", text.getvalue().encode()),
        ]
    )


def _name(index: int, plan: MixturePlan, utterances: Sequence[Utterance]) -> str:
    stems = [utterances[voice.segments[0].utterance].path.stem[-24:] for voice in plan.voices]
    return "_".join([f"{index:05d}", *stems])


def _row(name: str, plan: MixturePlan, utterances: Sequence[Utterance], sample_rate: int) -> dict[str, str]:
    row = {"name": name}
    for number, voice in enumerate(plan.voices, start=1):
        utterance = utterances[voice.segments[0].utterance]
        row |= {
            f"source_{number}": "/".join(utterance.path.parts[-4:]),
            f"corpus_{number}": utterance.corpus,
            f"talker_{number}": utterance.speaker,
            f"gender_{number}": utterance.gender,
            f"gain_db_{number}": f"{voice.gain_db:.4f}",
        }
    gains = [voice.gain_db for voice in plan.voices]
    row["snr_db"] = f"{gains[0] - gains[1]:.4f}" if len(gains) == 2 else ""
    row["seconds"] = f"{plan.samples / sample_rate:.3f}"
    return row


def read_mixture_folder(folder: Path) -> list[MixtureItem]:
    """The mixtures of a folder with their references, by name.

    Raises:
        UnmingleError: it has no ``mix/`` (or ``mix_clean/``) and ``s1/``, no ``noisy/`` and ``clean/``,
            or a reference is missing.
    """
    if not folder.is_dir():
        raise UnmingleError(f"The folder {folder} does not exist.")
    mixes = next((folder / name for name in ("mix", "mix_clean") if (folder / name).is_dir()), None)
    source_folders: list[Path] = []
    while (path := folder / f"s{len(source_folders) + 1}").is_dir():
        source_folders.append(path)
    noisy = _noisy_folders(folder) if mixes is None else None
    if noisy is not None:
        mixes, source_folders = noisy[0], [noisy[1]]
    if mixes is None or not source_folders:
        raise UnmingleError(
            f"{folder} needs the folders mix/ (or mix_clean/), s1/, s2/ ..., or noisy/ and clean/, "
            "with equal file names."
        )
    details = _read_details(folder / "mixtures.csv")
    items = []
    for mixture in sorted(
        path for path in mixes.iterdir() if path.is_file() and not path.name.startswith(".")
    ):
        sources = tuple(source_folder / mixture.name for source_folder in source_folders)
        missing = [source for source in sources if not source.is_file()]
        if missing:
            raise UnmingleError(
                f"{mixture} has no reference {missing[0]}; every folder needs equal file names."
            )
        items.append(
            MixtureItem(mixture.stem, mixture, sources, details.get(mixture.stem, {}), noisy is not None)
        )
    if not items:
        raise UnmingleError(f"{mixes} is empty; there is nothing to score.")
    return items


def _noisy_folders(folder: Path) -> tuple[Path, Path] | None:
    """``noisy...`` and the ``clean...`` of the same name, if there are such folders."""
    for noisy in sorted(folder.glob("noisy*")):
        clean = folder / noisy.name.replace("noisy", "clean", 1)
        if noisy.is_dir() and clean.is_dir():
            return noisy, clean
    return None


def _read_details(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["name"]: row for row in csv.DictReader(file) if "name" in row}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnmingleError(f"{path} is not a UTF-8 CSV file ({error}); save it as one.") from error


def read_item(item: MixtureItem) -> tuple[Samples, Samples, int]:
    """Mixture ``(samples,)``, sources ``(sources, samples)`` and the rate of all of them.

    Raises:
        UnmingleError: rates or lengths differ, or a file has more than one channel.
    """
    recordings = [read_audio(path) for path in (item.mixture, *item.sources)]
    for path, recording in zip((item.mixture, *item.sources), recordings, strict=True):
        if recording.sample_rate != recordings[0].sample_rate:
            raise UnmingleError(f"{path} has another sample rate than {item.mixture}; resample one of them.")
        if recording.samples.shape != recordings[0].samples.shape or len(recording.samples) != 1:
            raise UnmingleError(
                f"{path} must have one channel and the length of {item.mixture}; "
                f"it has the shape {recording.samples.shape}."
            )
    sources = np.concatenate([recording.samples for recording in recordings[1:]])
    return recordings[0].samples[0], sources, recordings[0].sample_rate
