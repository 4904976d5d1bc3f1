"""Remove noise from files of any length in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmingle.audio import check_format
from unmingle.audio_blocks import AudioWriter
from unmingle.audio_reading import AudioFile
from unmingle.denoising.enhancer import BLOCK_SECONDS, Enhancer, clean_blocks
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_template, process_files, targets_of


@dataclass
class DenoisingResult:
    """The result for one input."""

    input: str
    output: str = ""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Processing time, with reading and writing, per second of audio."""
    switches: int = 0
    """Number of changes of the specialist."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def denoise_files(
    paths: Sequence[Path],
    enhancer: Enhancer,
    output: Output,
    on_done: Callable[[DenoisingResult], None] | None = None,
    *,
    track: int | None = None,
    stems: Sequence[str] | None = None,
) -> list[DenoisingResult]:
    """Clean files one after the other. A file that fails does not stop the others.

    Args:
        paths: of the files.
        enhancer: cleans them.
        output: how and where the results are written.
        on_done: called with each result.
        track: number of the audio track in files with several, from 1 (default: the first, with a warning).
        stems: of the outputs' names, one per file, all distinct (default: from the paths).

    Raises:
        UnmingleError: the options are not valid; no file was processed.
    """
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 1)
    taken = {os.path.realpath(path) for path in paths}

    def work(path: Path, stem: str, result: DenoisingResult) -> None:
        (target,) = targets_of(stem, 1, output, taken)
        taken.add(os.path.realpath(target))
        _denoise_file(path, target, enhancer, output, result, track)

    results = [DenoisingResult(str(path)) for path in paths]
    process_files(paths, results, work, "cleaned", on_done, output.roots, stems)
    return results


def _denoise_file(
    path: Path, target: Path, enhancer: Enhancer, output: Output, result: DenoisingResult, track: int | None
) -> None:
    if target.exists() and not output.overwrite:
        raise UnmingleError(f"{target} exists; add --overwrite, or name another folder with -o.")
    with AudioFile(path, track) as recording:
        rate, channels, seconds = recording.sample_rate, recording.channels, recording.seconds or 0.0
        stream = enhancer.file_stream(rate, channels)
        samples = 0
        with AudioWriter(target, rate, channels, output.format, output.bits, seconds) as writer:
            for cleaned in clean_blocks(stream, recording.blocks(round(BLOCK_SECONDS * rate))):
                samples += cleaned.shape[1]
                writer.write(cleaned)
            if not samples:
                raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
        result.warnings += recording.warnings
    result.seconds, result.sample_rate = samples / rate, rate
    result.output, result.switches = str(target), stream.masks.switches
    if writer.clipped:
        result.warnings.append(f"{writer.clipped} samples were clipped; write 32-bit wav to keep them")
