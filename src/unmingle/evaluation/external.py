"""Any external program that separates: it reads a mixture's file and writes one file per speaker.

The program may be slow, crash, or write the wrong number of files, sample rate or length. Wrong rates and lengths are
corrected and noted. Anything else makes that one mixture fail.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from unmingle.audio import Samples, read_audio, resample, to_mono, write_audio
from unmingle.errors import UnmingleError

MOST_FILES = 8
"""More outputs than this for one mixture are a failure."""
_LAUNCHER = """
import os, signal, subprocess, sys, threading
program = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
def watch():
    os.read(0, 1)  # Returns when the parent process has ended.
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    program.kill()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
code = program.wait()
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
except ImportError:
    peak = 0
with open(sys.argv[1], "w") as file:
    file.write(str(peak))
os._exit(code if code >= 0 else 128 - code)
"""
"""Starts the program from a small process, because Linux counts the parent's memory into the child's peak.

It ends the program when the process that waits for the result ends, even by ``kill -9``.
"""
_ODD_LENGTH = 0.1
"""A wrong length is noted if it differs by more than this share of the mixture's length."""


class EstimateError(Exception):
    """A candidate has no usable estimates for one mixture; the message says why."""


class ExternalProgram:
    """A command such as ``separator --quiet {mixture} --to {outdir}``, run without a shell.

    ``{mixture}`` is replaced by the path of a mono 16-bit WAV file, ``{outdir}`` by the path of an empty folder.
    ``{speakers}`` and ``{rate}`` are optional: the number of speakers and the sample rate in hertz.

    Args:
        command: with the placeholders ``{mixture}`` and ``{outdir}``.
        timeout: seconds for one mixture; after that the program and all processes it started are ended.

    Raises:
        UnmingleError: a placeholder is missing, or the program is not found.
    """

    def __init__(self, command: str, timeout: float) -> None:
        try:
            self._parts = shlex.split(command)
        except ValueError as error:
            raise UnmingleError(f"The command {command!r} cannot be read ({error}).") from error
        for place in ("{mixture}", "{outdir}"):
            if place not in command:
                raise UnmingleError(f"The command needs {place}, for example: prog {{mixture}} {{outdir}}")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise UnmingleError(f"--timeout must be a number of seconds above 0; got {timeout}.")
        if shutil.which(self._parts[0]) is None:
            raise UnmingleError(f"The program {self._parts[0]!r} is not found.")
        self.name = Path(self._parts[0]).name
        self._timeout = timeout

    def run(self, mixture: Samples, sources: Samples, rate: int) -> tuple[Samples, tuple[str, ...], int]:
        """Estimates ``(files, samples)``, notes, and the program's peak memory in bytes.

        Raises:
            EstimateError: the program wrote no usable file.
        """
        with tempfile.TemporaryDirectory(prefix="unmingle-") as folder:
            path, output = Path(folder) / "mixture.wav", Path(folder) / "out"
            output.mkdir()
            write_audio(path, np.clip(mixture, -1.0, 1.0), rate, bits=16)
            places = {"mixture": path, "outdir": output, "speakers": len(sources), "rate": rate}
            peak = self._call(places, Path(folder))
            estimates, notes = _collect(output, len(mixture), rate)
        if len(estimates) != len(sources):
            notes.append(
                f"{len(estimates)} {'file' if len(estimates) == 1 else 'files'} for {len(sources)} speakers"
            )
        return estimates, tuple(notes), peak

    def _call(self, places: dict[str, object], folder: Path) -> int:
        command = list(self._parts)
        for name, value in places.items():
            command = [part.replace(f"{{{name}}}", str(value)) for part in command]
        errors, memory = folder / "stderr", folder / "memory"
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _LAUNCHER, str(memory), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )
            try:
                code = process.wait(self._timeout)
            except subprocess.TimeoutExpired as error:
                raise EstimateError(f"it took more than {self._timeout:g} s") from error
            finally:
                _end(process)
        if code != 0:
            words = errors.read_text(errors="replace").strip().splitlines()
            message = f": {words[-1][:200]}" if words else ""
            raise EstimateError(f"exit code {code}{message}")
        return int(memory.read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher, the program, and all processes it started (on Windows: the launcher and the program)."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _collect(output: Path, samples: int, rate: int) -> tuple[Samples, list[str]]:
    """The audio files in ``output``, at the mixture's rate and length."""
    files = sorted(path for path in output.rglob("*") if path.is_file())
    if not files:
        raise EstimateError("it wrote no file")
    if len(files) > MOST_FILES:
        raise EstimateError(f"it wrote {len(files)} files")
    estimates, notes = np.zeros((len(files), samples), dtype=np.float32), []
    for estimate, file in zip(estimates, files, strict=True):
        try:
            recording = read_audio(file)
        except UnmingleError as error:
            raise EstimateError(
                f"its file {file.name} cannot be used: {str(error).replace(str(file), 'it')}"
            ) from error
        audio = resample(to_mono(recording.samples), recording.sample_rate, rate)
        if recording.sample_rate != rate:
            notes.append(f"{recording.sample_rate} Hz for {rate} Hz")
        if abs(len(audio) - samples) > _ODD_LENGTH * samples:
            notes.append(f"{len(audio) / rate:.2f} s for {samples / rate:.2f} s")
        estimate[: len(audio)] = audio[:samples]
    return estimates, list(dict.fromkeys(notes))
