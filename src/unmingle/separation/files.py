"""Separate files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unmingle.audio import Samples, check_format, down_mix, down_mixer, read_audio
from unmingle.audio_blocks import AudioWriter
from unmingle.audio_reading import AudioFile
from unmingle.audio_stream import Stream
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_template, process_files, targets_of
from unmingle.models import DEFAULT_MODEL
from unmingle.separation.doubts import doubts
from unmingle.separation.offline import MASKING_SHARE, Separation, Separator, Speakers, load
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.timeline import Segment, timeline

_BLOCK_SECONDS = 10.0


Cleaner = Callable[[int], Stream]
"""Takes a sample rate and gives a stream of one channel that cleans one estimate of noise."""


@dataclass
class FileResult:
    """The result for one input."""

    input: str
    outputs: list[str] = field(default_factory=list)
    speakers: int = 0
    confidence: float = 1.0
    """Confidence in the number of speakers, 0 to 1; 1 if it was given."""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Processing time, with reading and writing, per second of audio."""
    gain_db: float = 0.0
    """Common gain in dB of all speakers so that no sample clips; 0 for float files."""
    timeline: list[Segment] = field(default_factory=list)
    """Who speaks when."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def separate(
    path: Path | str,
    *,
    speakers: Speakers = None,
    model: str | Path = DEFAULT_MODEL,
    channel: str = "mix",
    track: int | None = None,
    device: str = "auto",
) -> Separation[Samples]:
    """Separate one file. Returns the estimates as an array, and writes no file.

    Raises:
        UnmingleError: the file, the model or the number of speakers cannot be used.
    """
    separator = load(model, device)
    recording = read_audio(path, track)
    mixture, warnings = down_mix(recording.samples, channel)
    separation = separator.separate(mixture, recording.sample_rate, speakers)
    found = (*recording.warnings, *warnings, *doubts(separation.tracks[0], cleaned=False))
    return replace(separation, warnings=found)


def separate_files(
    paths: Sequence[Path],
    separator: Separator,
    output: Output,
    *,
    speakers: Speakers = None,
    channel: str = "mix",
    track: int | None = None,
    clean: Cleaner | None = None,
    stems: Sequence[str] | None = None,
    on_done: Callable[[FileResult], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> list[FileResult]:
    """Separate files one after the other, in bounded memory. A file that fails does not stop the others.

    Args:
        paths: the files.
        separator: the model.
        output: how and where the results are written.
        speakers: in each file; see :data:`~unmingle.separation.offline.Speakers`.
        channel: of the file: ``mix`` (their mean), ``left``, ``right`` or a number.
        track: number of the audio track in files with several, from 1 (default: the first, with a warning).
        clean: removes noise from every estimate. Then they do not add up to the recording.
        stems: of the outputs' names, one per file, all distinct (default: from the paths).
        on_done: called with the result of each file.
        on_progress: called with the finished share of the current file, 0 to 1.

    Raises:
        UnmingleError: the options are not valid; no file was processed.
    """
    wanted = separator.check_speakers(speakers)
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 2)
    inputs = {os.path.realpath(path) for path in paths}
    taken = set(inputs)
    source = _Source(channel, track)

    def work(path: Path, stem: str, result: FileResult) -> None:
        # If speakers are counted, names are reserved for the largest number.
        targets = targets_of(stem, wanted or separator.most_speakers, output, taken)
        taken.update(os.path.realpath(target) for target in targets)
        _separate_file(
            path,
            targets,
            separator,
            output,
            source,
            result,
            counted=wanted is None,
            clean=clean,
            on_progress=on_progress,
        )
        # A third file of an earlier run would look like a result of this run.
        named = targets_of(stem, separator.most_speakers, output, set())[result.speakers :]
        result.warnings += [
            f"{old} is not of this run; remove it if you do not need it"
            for old in named
            if old.is_file() and os.path.realpath(old) not in inputs
        ]

    results = [FileResult(str(path)) for path in paths]
    process_files(paths, results, work, "separated", on_done, output.roots, stems)
    return results


def _separate_file(
    path: Path,
    targets: list[Path],
    separator: Separator,
    output: Output,
    source: _Source,
    result: FileResult,
    *,
    counted: bool,
    clean: Cleaner | None,
    on_progress: Callable[[float], None] | None,
) -> None:
    existing = [target for target in targets if target.exists()]
    if existing and not output.overwrite:
        raise UnmingleError(f"{existing[0]} exists; add --overwrite, or name another folder with -o.")
    report = on_progress or (lambda _: None)
    with AudioFile(path, source.track) as file:
        rate = file.sample_rate
        check_format(output.format, rate, output.bits)
        fewer = not counted and 1 < len(targets) < separator.speakers
        if fewer and not separator.trained_for(len(targets)):
            result.warnings.append(f"the model was trained for {separator.speakers} speakers")
        recording = _Mono(file, source)
        total = max((file.seconds or 0.0) * rate, 1.0)
        with RecordingSeparation(separator.system, rate, None if counted else len(targets)) as separation:
            samples = 0
            for block in recording:
                separation.push(block)
                samples += len(block)
                report(MASKING_SHARE * min(1.0, samples / total))
            if not samples:
                raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
            result.seconds, result.sample_rate = samples / rate, rate
            tracks = separation.finish()
            result.speakers, result.confidence = tracks.speakers, tracks.count_confidence
            if tracks.speakers > separator.speakers:
                result.warnings.append(
                    f"where more than {separator.speakers} speakers speak at once, two of them share a file"
                )
            result.timeline = timeline(tracks, result.seconds)
            written = targets[: tracks.speakers]
            writing = _Writing(separation, recording, output, written, samples, clean)
            result.gain_db = writing.run()
        result.warnings += [*file.warnings, *(f"{path.name}: {text}" for text in recording.warnings)]
        result.warnings += doubts(tracks, cleaned=clean is not None)
    report(1.0)
    result.outputs = [str(target) for target in written]


@dataclass(frozen=True)
class _Source:
    """The part of a file to separate."""

    channel: str
    track: int | None


class _Mono:
    """One channel of a file. Its blocks ``(samples,)`` can be read several times."""

    def __init__(self, file: AudioFile, source: _Source) -> None:
        self.file, self._size = file, round(_BLOCK_SECONDS * file.sample_rate)
        self._pick, self.warnings = down_mixer(file.blocks(self._size), file.channels, source.channel)

    def __iter__(self) -> Iterator[Samples]:
        return (self._pick(block) for block in self.file.blocks(self._size))


class _ClipsError(Exception):
    """A sample is beyond full scale."""


@dataclass(frozen=True)
class _Writing:
    """Writes the estimates of one recording: all files or none."""

    separation: RecordingSeparation
    recording: _Mono
    output: Output
    targets: list[Path]
    samples: int
    """Of the recording, in the first pass."""
    clean: Cleaner | None

    def run(self) -> float:
        """Write all files. If a sample clips, write them again with a lower common gain. Returns the gain in dB."""
        most = np.inf if self.output.format == "wav" and self.output.bits in (None, 32) else 1.0
        peak = self._write(1.0, most)
        if peak <= most:
            return 0.0
        self._write(0.999 / peak, np.inf)
        return 20 * float(np.log10(0.999 / peak))

    def _write(self, gain: float, most: float) -> float:
        """Write the estimates times ``gain``, unless their peak is higher than ``most``. Returns the peak.

        Raises:
            UnmingleError: a file cannot be written, or the recording has changed since the first pass.
        """
        rate, output, peak, written = self.recording.file.sample_rate, self.output, 0.0, 0
        with suppress(_ClipsError), ExitStack() as stack:
            writers = [
                stack.enter_context(
                    AudioWriter(target, rate, 1, output.format, output.bits, self.samples / rate)
                )
                for target in self.targets
            ]
            for estimates in self._estimates(rate):
                written += estimates.shape[1]
                peak = max(peak, float(np.abs(estimates).max(initial=0.0)))
                for writer, estimate in zip(writers, estimates, strict=True):
                    writer.write(np.float32(gain) * estimate[None])
            if written != self.samples:
                raise UnmingleError(
                    f"{self.recording.file.path} changed while it was read; separate it again."
                )
            if peak > most:
                raise _ClipsError  # No file is kept.
            for writer in writers:
                writer.close()
        return peak

    def _estimates(self, rate: int) -> Iterator[Samples]:
        estimates = self.separation.estimates(self.recording)
        if self.clean is None:
            yield from estimates
            return
        streams = [self.clean(rate) for _ in self.targets]
        for block in estimates:
            yield np.stack([stream.push(estimate) for stream, estimate in zip(streams, block, strict=True)])
        yield np.stack([stream.flush() for stream in streams])
