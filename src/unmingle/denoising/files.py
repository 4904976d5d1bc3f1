"""Clean files of noise, of any length in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmingle.audio import check_format, read_header
from unmingle.audio_blocks import AudioWriter, Blocks, must_be_decoded_whole
from unmingle.denoising.enhancer import BLOCK_SECONDS, LOOK_AHEAD_SECONDS, Enhancer
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output, check_template, go_through, refuse_too_long, targets_of


@dataclass
class DenoisingResult:
    """What became of one input."""

    input: str
    output: str = ""
    seconds: float = 0.0
    sample_rate: int = 0
    real_time_factor: float = 0.0
    """Seconds of work, reading and writing included, for a second of audio."""
    switches: int = 0
    """How often another specialist took over."""
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
) -> list[DenoisingResult]:
    """Clean files one after the other; one that fails does not stop the others.

    Raises:
        UnmingleError: the options themselves are impossible; nothing was done then.
    """
    check_format(output.format, 48000, output.bits)
    check_template(output.name, 1)
    taken = {os.path.realpath(path) for path in paths}

    def work(path: Path, stem: str, result: DenoisingResult) -> None:
        (target,) = targets_of(stem, 1, output, taken)
        taken.add(os.path.realpath(target))
        _denoise_file(path, target, enhancer, output, result)

    results = [DenoisingResult(str(path)) for path in paths]
    go_through(paths, results, work, "cleaned", on_done)
    return results


def _denoise_file(
    path: Path, target: Path, enhancer: Enhancer, output: Output, result: DenoisingResult
) -> None:
    if target.exists() and not output.overwrite:
        raise UnmingleError(f"{target} exists; add --overwrite, or name another folder with -o.")
    header = read_header(path)
    if header is not None and must_be_decoded_whole(path):
        refuse_too_long(path, header.seconds, 12.0 * header.seconds * header.sample_rate * header.channels)
    recording = Blocks(path, BLOCK_SECONDS)
    stream = enhancer.stream(recording.sample_rate, recording.channels, look_ahead_seconds=LOOK_AHEAD_SECONDS)
    samples = 0
    rate, channels = recording.sample_rate, recording.channels
    with AudioWriter(target, rate, channels, output.format, output.bits, recording.seconds) as writer:
        for block in recording:
            samples += block.shape[1]
            writer.write(stream.push(block))
        if not samples:
            raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")
        writer.write(stream.flush())
    result.seconds, result.sample_rate = samples / recording.sample_rate, recording.sample_rate
    result.output, result.switches = str(target), stream.masks.switches
    if recording.warning:
        result.warnings.append(recording.warning)
    if writer.clipped:
        result.warnings.append(f"{writer.clipped} samples were clipped; write 32-bit wav to keep them")
