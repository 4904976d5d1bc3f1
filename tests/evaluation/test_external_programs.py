"""External programs are scored even if they crash, hang or write wrong files."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unmingle.audio import Samples
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.external import EstimateError, ExternalProgram

PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np, soundfile
behaviour, mixture, outdir = sys.argv[1], sys.argv[2], Path(sys.argv[3])
samples, rate = soundfile.read(mixture)
low = np.convolve(samples, np.ones(8) / 8, "same")
outputs = [low, samples - low]
if behaviour == "three": outputs.append(samples)
if behaviour == "one": outputs = outputs[:1]
if behaviour == "none": outputs = []
if behaviour == "many": outputs *= 9
if behaviour == "other_rate": outputs, rate = [each[::2] for each in outputs], rate // 2
if behaviour == "short": outputs = [each[: len(each) // 2] for each in outputs]
if behaviour == "stereo": outputs = [np.stack([each, each], axis=1) for each in outputs]
if behaviour == "nan": outputs[0] = np.full_like(low, np.nan)
if behaviour == "slow": time.sleep(60)
if behaviour == "memory": kept = bytearray(200_000_000)
if behaviour == "child": import subprocess; subprocess.run(["sleep", "60"])
for number, output in enumerate(outputs):
    soundfile.write(outdir / f"speaker{number}.wav", output, rate, "FLOAT")
if behaviour == "text": (outdir / "notes.txt").write_text("done")
if behaviour == "crash_once" and not Path("crashed").exists():
    Path("crashed").touch()
    sys.exit("no more memory, says the program")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a program.py").write_text(PROGRAM)
    return f"{sys.executable} '{tmp_path}/a program.py'"


def _run(program: str, behaviour: str, sources: Samples, timeout: float = 60.0):  # type: ignore[no-untyped-def]
    mixture = sources.sum(axis=0)
    external = ExternalProgram(f"{program} {behaviour} {{mixture}} {{outdir}}", timeout)
    return external.run(mixture, sources, 16000)


@pytest.mark.parametrize(
    ("behaviour", "files", "note"),
    [
        ("well", 2, None),
        ("stereo", 2, None),
        ("three", 3, "3 files for 2 speakers"),
        ("one", 1, "1 file for 2 speakers"),
        ("other_rate", 2, "8000 Hz for 16000 Hz"),
        ("short", 2, "0.50 s for 1.00 s"),
    ],
)
def test_wrong_rates_lengths_and_counts_are_noted(
    program: str, example_sources: Samples, behaviour: str, files: int, note: str | None
) -> None:
    sources = example_sources[:, 16000:32000]
    estimates, notes, peak = _run(program, behaviour, sources)
    assert estimates.shape == (files, 16000)
    assert notes == ((note,) if note else ())
    assert peak > 1e7
    if behaviour in ("well", "stereo"):
        np.testing.assert_allclose(estimates.sum(axis=0), sources.sum(axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("none", "no file"),
        ("many", "18 files"),
        ("nan", "not a number|NaN"),
        ("text", "notes.txt cannot be used"),
        ("crash_once", "exit code 1: no more memory"),
    ],
)
def test_unusable_output_is_a_failure(
    program: str, example_sources: Samples, behaviour: str, words: str
) -> None:
    with pytest.raises(EstimateError, match=words):
        _run(program, behaviour, example_sources[:, 16000:20000])


@pytest.mark.parametrize("behaviour", ["slow", "child"])
def test_a_program_that_takes_too_long_is_ended_with_its_children(
    program: str, example_sources: Samples, behaviour: str
) -> None:
    began = time.monotonic()
    with pytest.raises(EstimateError, match="more than 2 s"):
        _run(program, behaviour, example_sources[:, 16000:20000], timeout=2.0)
    assert time.monotonic() - began < 30


def test_the_memory_is_the_program_s_own(program: str, example_sources: Samples) -> None:
    sources = example_sources[:, 16000:20000]
    assert _run(program, "memory", sources)[2] > _run(program, "well", sources)[2] + 150e6


def test_a_folder_is_scored_although_the_program_fails_on_some(
    program: str, example_corpus: Path, tmp_path: Path
) -> None:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=3, seed=1)
    write_mixture_folder(tmp_path / "test", config)
    candidate = CandidateConfig(command=f"{program} crash_once {{mixture}} {{outdir}}")
    summary = evaluate_folder(tmp_path / "test", candidate, tmp_path / "out", metrics=["si_sdr"])
    assert summary["failures"]["count"] == 1
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 10 < summary["peak_mib"] < 0.8 * own  # The program's, not this process's.
    assert summary["metrics"]["si_sdr"]["count"] == 2
    assert "no more memory" in next(iter(summary["failures"]["reasons"]))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["candidate"]["command"]
    lines = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert sum("no more memory" in line for line in lines) == 1

    broken = CandidateConfig(command=f"{program} none {{mixture}} {{outdir}}")
    summary = evaluate_folder(tmp_path / "test", broken, tmp_path / "none", metrics=["si_sdr"])
    assert summary["failures"]["count"] == 3
    assert summary["metrics"] == {}
    assert summary["real_time_factor"] is None


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_ends_the_program_too(
    program: str,
    example_corpus: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    processes: int,
    how: signal.Signals,
) -> None:
    write_mixture_folder(
        tmp_path / "test", MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=16, seed=1)
    )
    mark = tmp_path / "started"
    script = tmp_path / "wait.sh"
    script.write_text(f'#!/bin/sh\necho $$ >> "{mark}"\nexec sleep 300\n')
    script.chmod(0o755)
    command = [sys.executable, "-m", "unmingle", "evaluate", "test", "--processes", str(processes)]
    command += ["--command", f"{script} {{mixture}} {{outdir}}", "--metric", "si_sdr"]
    scratch = tmp_path_factory.mktemp(
        "s"
    )  # Short: the workers' sockets in it have names of at most 107 bytes.
    environment = os.environ | {"TMPDIR": str(scratch)}
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        # Tests in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (mark.exists() and len(mark.read_text().split()) >= processes):
        time.sleep(0.05)
    running.send_signal(how)
    assert running.wait(30) != 0
    # The operating system takes a moment to remove ended processes.
    started = [Path("/proc") / pid / "stat" for pid in mark.read_text().split()]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(_runs, started)):
        time.sleep(0.1)
    assert not any(map(_runs, started))
    if how != signal.SIGKILL:  # After SIGKILL nothing can be cleaned up.
        assert not list(scratch.glob("unmingle-*"))


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_shell_script_around_sox(run, example_corpus: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    if shutil.which("sox") is None:
        pytest.skip("sox is not installed")
    script = tmp_path / "split.sh"
    script.write_text('#!/bin/sh\nsox "$1" "$2/low.wav" lowpass 800 && sox "$1" "$2/high.wav" highpass 800\n')
    script.chmod(0o755)
    made = run("mix", example_corpus, "-o", "test", "--count", 2, "--split", "test")
    assert made.code == 0, made.err
    scored = run("evaluate", "test", "--command", f"{script} {{mixture}} {{outdir}}", "--metric", "si_sdr")
    assert scored.code == 0, scored.err
    assert "split.sh" in scored.out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prog {mixture}", "needs {outdir}"),
        ("prog {outdir}", "needs {mixture}"),
        ("there-is-no-such-program {mixture} {outdir}", "is not found"),
        ("'open {mixture} {outdir}", "cannot be read"),
    ],
)
def test_bad_commands_are_refused(command: str, words: str) -> None:
    with pytest.raises(UnmingleError, match=words):
        ExternalProgram(command, 1.0)
