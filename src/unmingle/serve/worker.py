"""The process that runs a model: one job, or one live stream, then it ends.

``python -m unmingle.serve.worker`` imports PyTorch, then reads one line of JSON on stdin. For a job it answers
in lines of JSON on stdout: ``{"stage", "progress"}`` as it goes, at the end ``{"result"}`` or ``{"error"}``. For a
live stream it answers ``{"lag_seconds"}`` or ``{"error"}``; then float32 samples go in and come out.
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
import torch

import unmingle
from unmingle.audio import (
    OUTPUT_FORMATS,
    Samples,
    encode_audio,
    pick_channel,
    read_audio,
    read_header,
    write_audio,
)
from unmingle.errors import UnmingleError
from unmingle.serve.activity import speaking_times
from unmingle.serve.views import loudest_power

Tell = Callable[[dict[str, Any]], None]

_MOST_VALUES = 2**30
"""Samples of all channels in a recording, at most: 4 GiB."""


def run_job(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Do one job in its folder: ``input/NAME`` becomes ``tracks/original.wav`` and one file per estimate.

    Returns:
        The job's ``result``, as docs/serve.md has it.

    Raises:
        UnmingleError: what the command line would say.
    """
    task, folder = request["task"], Path(request["folder"])
    tell({"stage": "loading"})
    separator = _load(unmingle.load, request["model"]) if task != "denoise" else None
    denoiser = _load(unmingle.load_denoiser, request["denoiser"]) if task != "separate" else None
    tell({"stage": "reading"})
    # Read by its bare name, so that sentences about it have the name that the user gave it.
    os.chdir(folder / "input")
    path = Path(request["name"])
    refuse_too_long(path, request["recording_seconds"])
    recording = read_audio(path)
    rate, warnings = recording.sample_rate, [recording.warning] if recording.warning else []
    original = recording.samples if separator is None else pick_channel(recording.samples, "mix")
    if separator is None:
        tracks = {"denoised": _denoise(denoiser, original[None], rate, tell)[0]}
        times = speaking_times(pick_channel(tracks["denoised"], "mix")[None], rate)
    else:
        estimates = _separate(separator, original, rate, request["speakers"], tell)
        if request["speakers"] not in (None, "auto") and not separator.trained_for(request["speakers"]):
            warnings.append(f"the model was trained for {separator.speakers} speakers")
        times = speaking_times(estimates, rate)
        if denoiser is not None:
            # After the separator: it takes a second speaker for noise.
            estimates = _denoise(denoiser, estimates, rate, tell)
        tracks = {f"speaker{number}": estimate for number, estimate in enumerate(estimates, start=1)}
    tell({"stage": "writing"})
    (folder / "tracks").mkdir()
    for name, samples in {"original": original, **tracks}.items():
        write_audio(folder / "tracks" / f"{name}.wav", samples, rate)
    peak = max(float(np.abs(samples).max()) for samples in tracks.values())
    peak = max(float(np.abs(samples).max()) for samples in tracks.values())
    return {
        "sample_rate": rate,
        "samples": original.shape[-1],
        "seconds": original.shape[-1] / rate,
        "formats": [name for name in OUTPUT_FORMATS if _holds(name, len(np.atleast_2d(original)), rate)],
        # As the command line does it: one gain for all, and none for float WAV.
        "integer_gain": 0.999 / peak if peak > 1.0 else 1.0,
        "loudest_power": loudest_power(folder / "tracks" / "original.wav"),
        "warnings": warnings,
        "tracks": [
            {"name": name, "channels": len(np.atleast_2d(samples)), "speaks": speaks}
            for (name, samples), speaks in zip(
                [("original", original), *tracks.items()], [[], *times], strict=True
            )
        ],
    }


def _holds(format: str, channels: int, rate: int) -> bool:
    try:
        encode_audio(np.zeros((channels, 1), dtype=np.float32), rate, format)
    except UnmingleError:
        return False
    return True


def _separate(separator: Any, mixture: Samples, rate: int, speakers: Any, tell: Tell) -> Samples:
    tell({"stage": "separating"})

    def progress(share: float) -> None:
        tell({"stage": "separating", "progress": share})

    separation = separator.separate(mixture, sample_rate=rate, speakers=speakers, on_progress=progress)
    estimates: Samples = separation.estimates
    return estimates


def _denoise(denoiser: Any, recordings: Samples, rate: int, tell: Tell) -> Samples:
    """Each of ``(recordings, samples)`` or ``(recordings, channels, samples)`` on its own."""
    cleaned = []
    for number, recording in enumerate(recordings):
        tell({"stage": "denoising", "progress": number / len(recordings)})
        cleaned.append(denoiser.denoise(recording, sample_rate=rate))
    return np.stack(cleaned)


def _load(loader: Callable[..., Any], model: str | None) -> Any:
    return loader() if model is None else loader(model)


def refuse_too_long(path: Path, most_seconds: float) -> None:
    """Refuse a recording by what its header says, before memory is spent on it.

    Raises:
        UnmingleError: it is too long, or has too many channels for its length.
    """
    header = read_header(path)
    if header is None:
        return
    if header.seconds > most_seconds:
        raise UnmingleError(
            f"{path} is {header.seconds / 60:.0f} minutes long and this server takes "
            f"{most_seconds / 60:.0f}: cut it, or use the command line."
        )
    if header.seconds * header.sample_rate * header.channels > _MOST_VALUES:
        raise UnmingleError(
            f"{path} has too many channels for its length: mix them, or use the command line."
        )


def run_live(request: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Clean float32 samples from ``source`` into ``sink`` until it ends."""
    try:
        denoiser = _load(unmingle.load_denoiser, request["denoiser"])
        stream = denoiser.stream(request["sample_rate"])
    except UnmingleError as error:
        _write_line(sink, {"error": str(error)})
        return
    _write_line(sink, {"lag_seconds": stream.lag_seconds, "model": denoiser.name})
    rest = b""
    while data := os.read(source.fileno(), 1 << 16):
        rest += data
        whole = len(rest) // 4 * 4
        _write_samples(sink, stream.push(np.frombuffer(rest[:whole], dtype="<f4")))
        rest = rest[whole:]
    _write_samples(sink, stream.flush())


def _write_samples(sink: BinaryIO, samples: Samples) -> None:
    sink.write(samples.astype("<f4").tobytes())
    sink.flush()


def _write_line(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(json.dumps(message).encode() + b"\n")
    sink.flush()


def _end_with(source: BinaryIO) -> None:
    """End this process when the server's end of the pipe closes, however it came to that."""

    def wait() -> None:
        while os.read(source.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _volunteer_for_oom() -> None:
    # If memory runs out, Linux ends this process rather than the server or the user's other programs.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Read one request from stdin and do it."""
    # What a library prints must not get among the answers.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    _volunteer_for_oom()
    line = source.readline()
    if not line:
        return
    request = json.loads(line)
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    with suppress(BrokenPipeError):  # The server is gone.
        if request["task"] == "live":
            run_live(request, source, sink)
        else:
            _end_with(source)
            _write_line(sink, _answer(request, lambda message: _write_line(sink, message)))


def _answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    try:
        return {"result": run_job(request, tell)}
    except UnmingleError as error:
        return {"error": str(error)}
    except BrokenPipeError:
        raise
    except (OSError, MemoryError, RuntimeError) as error:
        # As the command line has it: whatever a file manages to break.
        return {"error": f"{request['name']} could not be done ({' '.join(str(error).split())})."}


if __name__ == "__main__":
    main()
