"""Separate files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmingle.audio import check_format, encode_audio, pick_channel, read_audio, read_header, replace_files
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_template, go_through, refuse_too_long, targets_of
from unmingle.models import DEFAULT_MODEL
from unmingle.separation.offline import Separation, Separator, Speakers, load


@dataclass
class FileResult:
    """What became of one input."""

    input: str
    outputs: list[str] = field(default_factory=list)
    speakers: int = 0
    confidence: float = 1.0
    """Trust in the number of speakers, 0.5 to 1; 1 where it was given."""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Seconds of work, reading and writing included, for a second of audio."""
    gain_db: float = 0.0
    """Gain given to all speakers alike so that no sample clips; 0 for float files."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Separated(Separation):
    """One file, separated."""

    sample_rate: int


def separate(
    path: Path | str,
    *,
    speakers: Speakers = None,
    model: str | Path = DEFAULT_MODEL,
    channel: str = "mix",
    device: str = "auto",
) -> Separated:
    """Separate one file; the estimates come back as an array, nothing is written.

    Raises:
        UnmingleError: the file, the model or the number of speakers will not do; the text says why.
    """
    separator = load(model, device)
    _check_memory(Path(path), separator, separator.check_speakers(speakers) or separator.speakers)
    recording = read_audio(path)
    mixture = pick_channel(recording.samples, channel)
    separation = separator.separate_recording(mixture, recording.sample_rate, speakers)
    return Separated(separation.estimates, separation.confidence, recording.sample_rate)


def separate_files(
    paths: Sequence[Path],
    separator: Separator,
    output: Output,
    *,
    speakers: Speakers = None,
    channel: str = "mix",
    on_done: Callable[[FileResult], None] | None = None,
) -> list[FileResult]:
    """Separate files one after the other; one that fails does not stop the others.

    Raises:
        UnmingleError: the options themselves are impossible; nothing was done then.
    """
    wanted = separator.check_speakers(speakers)
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 2)
    taken = {os.path.realpath(path) for path in paths}

    def work(path: Path, stem: str, result: FileResult) -> None:
        # Where speakers are counted, there is room for as many as the model can find.
        targets = targets_of(stem, wanted or separator.speakers, output, taken)
        taken.update(os.path.realpath(target) for target in targets)
        _separate_file(path, targets, separator, output, channel, result, counted=wanted is None)

    results = [FileResult(str(path)) for path in paths]
    go_through(paths, results, work, "separated", on_done)
    return results


def _separate_file(
    path: Path,
    targets: list[Path],
    separator: Separator,
    output: Output,
    channel: str,
    result: FileResult,
    *,
    counted: bool,
) -> None:
    existing = [target for target in targets if target.exists()]
    if existing and not output.overwrite:
        raise UnmingleError(f"{existing[0]} exists; add --overwrite, or name another folder with -o.")
    _check_memory(path, separator, len(targets))
    recording = read_audio(path)
    check_format(output.format, recording.sample_rate, output.bits)
    if recording.warning:
        result.warnings.append(recording.warning)
    if not counted and len(targets) > 1 and not separator.trained_for(len(targets)):
        result.warnings.append(f"the model was trained for {separator.speakers} speakers")
    mixture = pick_channel(recording.samples, channel)
    result.seconds = len(mixture) / recording.sample_rate
    result.sample_rate = recording.sample_rate
    separation = separator.separate_recording(
        mixture, recording.sample_rate, "auto" if counted else len(targets)
    )
    estimates = separation.estimates
    result.speakers, result.confidence = len(estimates), separation.confidence
    peak = float(np.abs(estimates).max())
    if peak > 1.0 and not (output.format == "wav" and output.bits in (None, 32)):
        estimates *= np.float32(0.999 / peak)
        result.gain_db = 20 * float(np.log10(0.999 / peak))
    encoded = [
        encode_audio(estimate, recording.sample_rate, output.format, output.bits) for estimate in estimates
    ]
    # All speakers of a recording or none; what was there before stays until then.
    written = targets[: len(encoded)]
    replace_files(list(zip(written, encoded, strict=True)))
    for stale in targets[len(encoded) :]:
        # --overwrite: a third speaker of an earlier run would look like one of this run.
        stale.unlink(missing_ok=True)
    result.outputs = [str(target) for target in written]


def _check_memory(path: Path, separator: Separator, speakers: int) -> None:
    header = read_header(path)
    if header is None:
        return
    # Decoded twice over for a moment, then a few arrays of the mixture's length for every speaker.
    samples = header.seconds * header.sample_rate
    needed = separator.system.working_bytes(header.seconds, speakers) + 4 * samples * (
        2 * header.channels + 4 * speakers + 6
    )
    refuse_too_long(path, header.seconds, needed)
