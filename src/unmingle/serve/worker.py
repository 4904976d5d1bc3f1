"""The worker process: it runs a model for one job or one live stream, then it ends.

``python -m unmingle.serve.worker`` imports PyTorch, then reads one line of JSON from stdin. For a job it writes
lines of JSON to stdout: ``{"stage", "progress"}`` during the work, and ``{"result"}`` or ``{"error"}`` at the end.
For a live stream it writes ``{"lag_seconds", "model", "outputs"}`` or ``{"error"}``; then it reads and writes float32
samples, those of all outputs interleaved.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import torch

import unmingle
from unmingle.audio import OUTPUT_FORMATS, Samples, down_mixer, encode_audio
from unmingle.audio_blocks import AudioWriter
from unmingle.audio_reading import AudioFile
from unmingle.audio_stream import Stream
from unmingle.denoising import Enhancer, attenuation_limit_of, denoise_files
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output
from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL
from unmingle.samples import LOUDEST_SAMPLE
from unmingle.separation import FileResult, Separator, separate_files
from unmingle.serve.views import loudest_power

Report = Callable[[dict[str, Any]], None]

_MOST_VALUES = 2**30
"""Maximum number of samples of all channels in a recording: 4 GiB."""
_BLOCK_SECONDS = 10.0


def run_job(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run one job in its folder: ``input/NAME`` becomes ``tracks/original.wav`` and one file per estimate.

    The files are those of the command line, in float WAV.

    Returns:
        The job's ``result``, as ``/api/openapi.json`` describes it.

    Raises:
        UnmingleError: the same errors as on the command line.
    """
    task, tracks = request["task"], Path(request["folder"]) / "tracks"
    report({"stage": "loading"})
    separator: Separator | None = None
    denoiser: Enhancer | None = None
    if task != "denoise":
        separator = unmingle.load(request["model"] or DEFAULT_MODEL)
    if task != "separate":
        denoiser = _load_denoiser(request)
    # Opened by its bare name, so that error texts contain the name that the user gave it.
    os.chdir(Path(request["folder"]) / "input")
    path = Path(request["name"])
    report({"stage": "reading"})
    write_original(path, tracks / "original.wav", request["recording_seconds"], mono=separator is not None)
    if separator is not None:
        result = _separate(path, tracks, separator, denoiser, request["speakers"], report)
    else:
        assert denoiser is not None
        result = _denoise(path, tracks, denoiser, report)
    with soundfile.SoundFile(str(tracks / "original.wav")) as original:
        rate, samples, channels = original.samplerate, original.frames, original.channels
    return result | {
        "sample_rate": rate,
        "samples": samples,
        "seconds": samples / rate,
        "formats": [name for name in OUTPUT_FORMATS if _supports(name, channels, rate)],
        "loudest_power": loudest_power(tracks / "original.wav"),
        "tracks": [{"name": "original", "channels": channels, "speaks": []}, *result["tracks"]],
    }


def write_original(path: Path, target: Path, most_seconds: float, *, mono: bool) -> None:
    """Write the original track for comparison: the recording, or the mean of its channels.

    Raises:
        UnmingleError: it cannot be read, is too long, or has too many channels for its length.
    """
    with AudioFile(path) as file:
        rate, size = file.sample_rate, round(_BLOCK_SECONDS * file.sample_rate)
        seconds = file.seconds or 0.0
        _refuse_too_long(path, seconds, file.channels * rate, most_seconds)
        channels = 1 if mono else file.channels
        pick = down_mixer(file.blocks(size), file.channels)[0] if mono else None
        samples = 0
        with AudioWriter(target, rate, channels, "wav", seconds=seconds) as writer:
            for block in file.blocks(size):
                samples += block.shape[1]
                # The length in the header may be wrong.
                _refuse_too_long(path, samples / rate, file.channels * rate, most_seconds)
                writer.write(pick(block)[None] if pick else block)
            if not samples:
                raise UnmingleError(f"{path} holds 0 samples; there is nothing to read.")


def _refuse_too_long(path: Path, seconds: float, values_per_second: int, most_seconds: float) -> None:
    if seconds > most_seconds:
        raise UnmingleError(
            f"{path} is {seconds / 60:.0f} minutes long and this server allows "
            f"{most_seconds / 60:.0f}: cut it, or use the command line."
        )
    if seconds * values_per_second > _MOST_VALUES:
        raise UnmingleError(
            f"{path} has too many channels for its length: mix them, or use the command line."
        )


def _separate(
    path: Path, tracks: Path, separator: Separator, denoiser: Enhancer | None, speakers: Any, report: Report
) -> dict[str, Any]:
    def progress(share: float) -> None:
        report({"stage": "separating", "progress": share})

    progress(0.0)
    (done,) = separate_files(
        [path],
        separator,
        Output(tracks),
        speakers=speakers,
        # After separation, because the denoiser takes a second speaker for noise.
        clean=denoiser.file_stream if denoiser else None,
        on_progress=progress,
    )
    if done.error:
        raise UnmingleError(done.error)
    for number, output in enumerate(done.outputs, start=1):
        Path(output).rename(tracks / f"speaker{number}.wav")
    return {
        "warnings": done.warnings,
        "confidence": done.confidence,
        "integer_gain": _gain(tracks, done),
        "tracks": [
            {
                "name": f"speaker{number}",
                "channels": 1,
                "speaks": [(each.start, each.end) for each in done.timeline if each.speaker == number],
            }
            for number in range(1, done.speakers + 1)
        ],
    }


def _gain(tracks: Path, done: FileResult) -> float:
    """One gain for all speakers, as on the command line, for formats that clip."""
    peak = 0.0
    for number in range(1, done.speakers + 1):
        for block in soundfile.blocks(str(tracks / f"speaker{number}.wav"), 1 << 20, dtype="float32"):
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
    return 0.999 / peak if peak > 1.0 else 1.0


def _denoise(path: Path, tracks: Path, denoiser: Enhancer, report: Report) -> dict[str, Any]:
    report({"stage": "denoising"})
    (done,) = denoise_files([path], denoiser, Output(tracks, name="{stem}_denoised"))
    if done.error:
        raise UnmingleError(done.error)
    cleaned = Path(done.output).rename(tracks / "denoised.wav")
    channels = soundfile.info(str(cleaned)).channels
    return {
        "warnings": done.warnings,
        "confidence": 1.0,
        "integer_gain": 1.0,
        "tracks": [{"name": "denoised", "channels": channels, "speaks": []}],
    }


def _supports(format: str, channels: int, rate: int) -> bool:
    try:
        encode_audio(np.zeros((channels, 1), dtype=np.float32), rate, format)
    except UnmingleError:
        return False
    return True


def _load_denoiser(request: dict[str, Any]) -> Enhancer:
    limit = attenuation_limit_of(request["strength"])
    return unmingle.load_denoiser(request["denoiser"] or DEFAULT_DENOISER, attenuation_limit=limit)


def run_live(request: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Clean or separate float32 samples from ``source`` into ``sink`` until it ends."""
    try:
        name, stream = _live_stream(request)
    except UnmingleError as error:
        _write_line(sink, {"error": str(error)})
        return
    _write_line(sink, {"lag_seconds": stream.lag_seconds, "model": name, "outputs": stream.outputs})
    rest = b""
    while data := os.read(source.fileno(), 1 << 16):
        rest += data
        whole = len(rest) // 4 * 4
        samples = np.frombuffer(rest[:whole], dtype="<f4")
        # Some drivers give samples that are no numbers, or far too large. They must not end the stream.
        _write_samples(sink, stream.push(np.where(np.abs(samples) <= LOUDEST_SAMPLE, samples, np.float32(0))))
        rest = rest[whole:]
    _write_samples(sink, stream.flush())


def _live_stream(request: dict[str, Any]) -> tuple[str, Stream]:
    """The stream of a request, and the name of its model."""
    rate = request["sample_rate"]
    if request["task"] == "separate":
        separator = unmingle.load(request["model"] or DEFAULT_MODEL)
        return separator.name, separator.stream(rate, request["speakers"], request["lag"])
    denoiser = _load_denoiser(request)
    return denoiser.name, denoiser.stream(rate)


def _write_samples(sink: BinaryIO, samples: Samples) -> None:
    """Write ``(samples,)`` or ``(outputs, samples)``."""
    sink.write(samples.T.astype("<f4").tobytes())
    sink.flush()


def _write_line(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(json.dumps(message).encode() + b"\n")
    sink.flush()


def _end_when_closed(source: BinaryIO) -> None:
    """End this process when the server closes its end of the pipe, or ends."""

    def wait() -> None:
        while os.read(source.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prefer_for_oom_kill() -> None:
    # If memory runs out, Linux kills this process first, not the server or the user's other programs.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Read one request from stdin and run it."""
    # Text that libraries print to stdout must not mix with the answers.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    _prefer_for_oom_kill()
    line = source.readline()
    if not line:
        return
    request = json.loads(line)
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    with suppress(BrokenPipeError):  # The server has ended.
        if request.get("live"):
            run_live(request, source, sink)
        else:
            _end_when_closed(source)
            _write_line(sink, _answer(request, lambda message: _write_line(sink, message)))


def _answer(request: dict[str, Any], report: Report) -> dict[str, Any]:
    try:
        return {"result": run_job(request, report)}
    except UnmingleError as error:
        return {"error": str(error)}
    except BrokenPipeError:
        raise
    except (OSError, MemoryError, RuntimeError, ValueError, LookupError) as error:
        # As on the command line, a file that breaks a library must not stop the server.
        return {"error": f"{request['name']} could not be processed ({' '.join(str(error).split())})."}


if __name__ == "__main__":
    main()
