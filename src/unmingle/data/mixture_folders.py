"""Folders of mixtures in the layout that WSJ0-mix and LibriMix users know.

    DIR/mix/NAME.wav   DIR/s1/NAME.wav   DIR/s2/NAME.wav [ DIR/s3/NAME.wav ]
    DIR/mixtures.csv   one row a mixture: sources, talkers, genders, gains, SNR, seconds
    DIR/recipe.json    how the folder was made

LibriMix's ``mix_clean/`` is read too, where there is no ``mix/``.
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
from unmingle.data.corpora import Utterance, read_corpora
from unmingle.data.mixing import Mixer, MixingConfig, MixturePlan
from unmingle.errors import UnmingleError


class MixtureFolderConfig(Config):
    """How a folder of mixtures is made."""

    corpora: list[str]
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
        return self


@dataclass(frozen=True)
class MixtureItem:
    """One mixture of a folder, with its references."""

    name: str
    mixture: Path
    sources: tuple[Path, ...]
    details: dict[str, str]
    """Its row of ``mixtures.csv``, or empty."""

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
    mixing = MixingConfig(talkers=config.talkers, snr=config.snr)
    speech = decode(utterances, config.sample_rate, cache, on_decoded)
    mixer = Mixer(utterances, speech, config.sample_rate, mixing, config.seed)
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
        sources = mixer.render(plan)
        name = _name(index, plan, utterances)
        # The mixture is the sum of the sources as written, in float: no rounding between them.
        write_audio(folder / "mix" / f"{name}.wav", sources.sum(axis=0), config.sample_rate)
        for number, source in enumerate(sources, start=1):
            write_audio(folder / f"s{number}" / f"{name}.wav", source, config.sample_rate)
        rows.append(_row(name, plan, utterances, config.sample_rate))
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
        UnmingleError: it has no ``mix/`` (or ``mix_clean/``), no ``s1/``, or a reference is missing.
    """
    if not folder.is_dir():
        raise UnmingleError(f"The folder {folder} does not exist.")
    mixes = next((folder / name for name in ("mix", "mix_clean") if (folder / name).is_dir()), None)
    source_folders: list[Path] = []
    while (path := folder / f"s{len(source_folders) + 1}").is_dir():
        source_folders.append(path)
    if mixes is None or not source_folders:
        raise UnmingleError(
            f"{folder} needs the folders mix/ (or mix_clean/), s1/, s2/ ... with equal file names."
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
        items.append(MixtureItem(mixture.stem, mixture, sources, details.get(mixture.stem, {})))
    if not items:
        raise UnmingleError(f"{mixes} is empty; there is nothing to score.")
    return items


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
