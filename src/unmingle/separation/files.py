"""Separate files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmingle.audio import check_format, pick_channel, read_audio
from unmingle.audio_blocks import AudioWriter, Blocks
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_template, go_through, targets_of
from unmingle.models import DEFAULT_MODEL
from unmingle.separation.offline import MASKING_SHARE, Separation, Separator, Speakers, load
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.timeline import Stretch, timeline
from unmingle.separation.windows import Tracks

_BLOCK_SECONDS = 10.0
_SURE_JOIN = 0.8
"""Below this share of the recording, the join of its windows is in doubt."""
_NEARLY_SILENT = 1e-3
"""Energy of an estimate against the loudest one's: 30 dB below."""


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
    timeline: list[Stretch] = field(default_factory=list)
    """Who speaks when."""
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
    recording = read_audio(path)
    mixture = pick_channel(recording.samples, channel)
    separation = separator.separate_recording(mixture, recording.sample_rate, speakers)
    return Separated(separation.estimates, separation.tracks, recording.sample_rate)


def separate_files(
    paths: Sequence[Path],
    separator: Separator,
    output: Output,
    *,
    speakers: Speakers = None,
    channel: str = "mix",
    on_done: Callable[[FileResult], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> list[FileResult]:
    """Separate files one after the other, each in bounded memory; one that fails does not stop the others.

    Args:
        paths: the files.
        separator: the model.
        output: where estimates go, and how.
        speakers: in each file; see :data:`~unmingle.separation.offline.Speakers`.
        channel: of the file: ``mix`` (their mean), ``left``, ``right`` or a number.
        on_done: called with the result of each file.
        on_progress: called with the share of the file at work that is done, 0 to 1.

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
        _separate_file(
            path, targets, separator, output, channel, result, counted=wanted is None, on_progress=on_progress
        )

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
    on_progress: Callable[[float], None] | None = None,
) -> None:
    existing = [target for target in targets if target.exists()]
    if existing and not output.overwrite:
        raise UnmingleError(f"{existing[0]} exists; add --overwrite, or name another folder with -o.")
    recording = Blocks(path, _BLOCK_SECONDS)
    rate = recording.sample_rate
    check_format(output.format, rate, output.bits)
    if not counted and len(targets) > 1 and not separator.trained_for(len(targets)):
        result.warnings.append(f"the model was trained for {separator.speakers} speakers")
    report = on_progress or (lambda _: None)
    total = max(recording.seconds * rate, 1.0)
    with RecordingSeparation(separator.system, rate, None if counted else len(targets)) as separation:
        samples = 0
        for block in recording:
            separation.push(pick_channel(block, channel))
            samples += block.shape[1]
            report(MASKING_SHARE * min(1.0, samples / total))
        if not samples:
            raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
        result.seconds, result.sample_rate = samples / rate, rate
        tracks = separation.finish()
        result.speakers, result.confidence = tracks.speakers, tracks.count_confidence
        result.timeline = timeline(tracks)
        result.warnings += _doubts(tracks)
        written = targets[: tracks.speakers]
        writing = _Writing(separation, recording, channel, output, written, samples)
        peak = writing.run(1.0)
        if peak > 1.0 and not (output.format == "wav" and output.bits in (None, 32)):
            # Once more, quieter: one gain for all speakers keeps their balance.
            result.gain_db = 20 * float(np.log10(0.999 / peak))
            writing.run(0.999 / peak)
        report(1.0)
    if recording.warning:
        result.warnings.append(recording.warning)
    for stale in targets[len(written) :]:
        # --overwrite: a third speaker of an earlier run would look like one of this run.
        stale.unlink(missing_ok=True)
    result.outputs = [str(target) for target in written]


def _doubts(tracks: Tracks) -> list[str]:
    """What may have gone wrong without an error."""
    doubts = []
    if tracks.join_confidence < _SURE_JOIN:
        doubts.append("speakers may change files where nobody could be recognized")
    energy = tracks.power.sum(axis=1)
    for number, own in enumerate(energy, start=1):
        if own < _NEARLY_SILENT * energy.max():
            doubts.append(f"estimate {number} is nearly silent")
    return doubts


@dataclass(frozen=True)
class _Writing:
    """Writes the estimates of one recording: all of its files or none."""

    separation: RecordingSeparation
    recording: Blocks
    channel: str
    output: Output
    targets: list[Path]
    samples: int
    """Of the recording, in the first pass."""

    def run(self, gain: float) -> float:
        """Write the estimates times ``gain``; their peak is returned. What would clip is not kept.

        Raises:
            UnmingleError: the disk refuses, or the recording is another one by now.
        """
        rate, output = self.recording.sample_rate, self.output
        blocks = (pick_channel(block, self.channel) for block in self.recording)
        peak, samples = 0.0, 0
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    AudioWriter(target, rate, 1, output.format, output.bits, self.samples / rate)
                )
                for target in self.targets
            ]
            for estimates in self.separation.estimates(blocks):
                samples += estimates.shape[1]
                peak = max(peak, float(np.abs(estimates).max(initial=0.0)))
                for writer, estimate in zip(writers, estimates, strict=True):
                    writer.write(np.float32(gain) * estimate[None])
            if samples != self.samples:
                raise UnmingleError("The recording changed while it was read; separate it again.")
            for writer in writers:
                writer.close()
        return peak
