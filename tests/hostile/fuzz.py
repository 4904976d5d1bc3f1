"""A seeded fuzzer: damaged audio, models, recipes, manifests and results go through the readers.

    python tests/hostile/fuzz.py --seconds 3600 [--seed 1] [--keep FOLDER]

Right is a result that is finite, or an ``UnmingleError`` of one sentence. A fault is any other exception, an answer
with NaN, more than 20 s for one input, or a crash. Case k of a target is a pure function of (seed, target, k), so a
fault can be made again with ``--target NAME --case K``; its input is kept in FOLDER. Exit code: 1 after faults.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from unmingle.audio import down_mix, read_audio, read_header
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.mixture_folders import read_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.runs import difference, interval, read_runs
from unmingle.models import ModelFacts, load_system, save_system
from unmingle.samples import LOUDEST_SAMPLE
from unmingle.systems import EmbeddingSeparator, EmbeddingSeparatorConfig
from unmingle.training.recipe import read_recipe, shrink

SECONDS_A_CASE = 20
BATCH = 200
ROOT = Path(__file__).parents[2]
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFF000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**9, 10**30, -(10**30), 1e308, float("inf"), float("nan"), "", "..", "../x", "/etc",
    "=1+1", "$x_{", "a\nb", "\0", "é" * 300, "<script>", [], {}, [[]], {"kind": "x"}, [1] * 50, "1e999", "2026-99-99",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to four pieces of damage, most of them in its first kilobyte."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        place = rng.randrange(min(len(data), 1024) if rng.random() < 0.8 else len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            number = rng.choice(NUMBERS).to_bytes(4, rng.choice(["little", "big"]))
            data[place : place + 4] = number
        elif kind == 2:
            del data[place : place + rng.choice([1, 2, 4, 8, 100, 10**6])]
        elif kind == 3:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 40])))
        elif kind == 4:
            other = rng.randrange(len(data))
            data[place:place] = data[other : other + rng.choice([4, 64, 5000])]
        elif kind == 5:
            data += bytes(rng.choice([8, 24, 100, 5000]))  # Some recorders fill their last block with zeros.
        else:
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def changed(value: Any, rng: random.Random) -> Any:
    """A structure of dictionaries and lists with one value replaced, removed or moved."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        rest = dict(value)
        if rng.random() < 0.1:
            del rest[key]
        elif rng.random() < 0.1:
            rest[str(rng.choice(VALUES))] = rest.pop(key)
        else:
            rest[key] = changed(value[key], rng)
        return rest
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def _audio_seeds() -> dict[str, bytes]:
    noise = 0.1 * np.random.default_rng(0).standard_normal((4000, 2))
    seeds = {}
    for suffix, container, subtype in (
        ("wav", "WAV", "FLOAT"), ("16.wav", "WAV", "PCM_16"), ("gsm.wav", "WAV", "GSM610"),
        ("flac", "FLAC", "PCM_16"),
        ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
        ("aiff", "AIFF", "PCM_24"),
        ("w64", "W64", "PCM_16"), ("caf", "CAF", "PCM_16"), ("au", "AU", "PCM_16"), ("sph", "NIST", "PCM_16"),
        ("rf64", "RF64", "FLOAT"), ("voc", "VOC", "PCM_16"),
    ):  # fmt: skip
        encoded = io.BytesIO()
        audio = noise[:, :1] if subtype == "GSM610" else noise
        with suppress(soundfile.LibsndfileError):  # Not in every libsndfile.
            soundfile.write(encoded, audio, 16000, format=container, subtype=subtype)
            seeds[suffix] = encoded.getvalue()
    try:
        import av
    except ImportError:
        return seeds
    for suffix, codec in (("m4a", "aac"), ("webm", "libopus"), ("avi", "pcm_s16le")):
        encoded = io.BytesIO()
        with (
            suppress(av.FFmpegError),
            av.open(encoded, "w", format={"m4a": "mp4"}.get(suffix, suffix)) as file,
        ):
            stream = file.add_stream(codec, rate=48000, layout="mono")
            for start in range(0, 4000, 960):
                part = noise[start : start + 960, 0].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
                frame.sample_rate = 48000
                for packet in stream.encode(frame):
                    file.mux(packet)
            for packet in stream.encode(None):
                file.mux(packet)
        seeds[suffix] = encoded.getvalue()
    return seeds


_kept: dict[str, Any] = {}


def _once(name: str, make: Callable[[], Any]) -> Any:
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


def audio(rng: random.Random, folder: Path) -> None:
    """Headers of every container, cut, joined and changed."""
    seeds = _once("audio", _audio_seeds)
    name = rng.choice(list(seeds))
    content = mutated(seeds[name], rng)
    if rng.random() < 0.1:
        content += mutated(seeds[name], rng)
    path = folder / f"input.{name if rng.random() < 0.8 else rng.choice(['wav', 'bin', 'mp3'])}"
    path.write_bytes(content)
    read_header(path)
    recording = read_audio(path)
    assert recording.samples.ndim == 2
    assert recording.samples.shape[1] > 0
    assert float(np.abs(recording.samples).max()) <= LOUDEST_SAMPLE, "samples that are no numbers"
    assert np.isfinite(down_mix(recording.samples)[0]).all()


def _model_seed() -> bytes:
    network = {"kind": "blstm", "layers": 1, "hidden_size": 4}
    values = {
        "kind": "embedding_separator",
        "stft": {"hop": 128},
        "network": network,
        "dimension": 4,
        "anchors": 4,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_system(EmbeddingSeparator(EmbeddingSeparatorConfig.model_validate(values)), path, ModelFacts())
        return path.read_bytes()


def model(rng: random.Random, folder: Path) -> None:
    """Model files: bytes changed, or the config inside."""
    content = _once("model", _model_seed)
    if rng.random() < 0.5:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        meta = header["__metadata__"]
        meta["config"] = json.dumps(changed(json.loads(meta["config"]), rng))
        encoded = json.dumps(header).encode()
        content = len(encoded).to_bytes(8, "little") + encoded + content[8 + size :]
    else:
        content = mutated(content, rng)
    path = folder / "input.safetensors"
    path.write_bytes(content)
    system = load_system(path)
    assert all(bool(value.isfinite().all()) for value in system.state_dict().values())


def recipe(rng: random.Random, folder: Path) -> None:
    """Recipes of the project, one value changed, or their text."""
    files = _once("recipes", lambda: sorted(ROOT.glob("recipes/*/*.yaml")))
    values: dict[str, Any] = {}
    source = rng.choice(files)
    path = folder / "input.yaml"
    if rng.random() < 0.4:
        path.write_bytes(
            mutated(source.read_bytes(), rng).replace(
                b"base: ", b"base: " + str(source.parent).encode() + b"/"
            )
        )
    else:
        values = _once(str(source), lambda: _whole(source))
        for _ in range(rng.randint(1, 3)):
            values = changed(values, rng)
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="replace")
    shrink(read_recipe(path))


def _whole(source: Path) -> Any:
    try:
        return json.loads(read_recipe(source).model_dump_json())
    except UnmingleError:  # A part of recipes, that is none alone.
        return {}


_MANIFEST = (
    "path,speaker,class,corpus,gender,split,license,text\n"
    's0/a.wav,s0,rain,c,F,train,CC0,hello\ns1/b.wav,s1,wind,c,M,valid,CC0,"a, b"\ns2/c.wav,s2,wind,c,,test,,\n'
)


def manifest(rng: random.Random, folder: Path) -> None:
    """speech.csv, noise.csv and mixtures.csv."""
    (folder / "input.csv").write_bytes(mutated(_MANIFEST.encode(), rng))
    for name in ("mix", "s1"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a.wav").write_bytes(b"x")
    for read in (read_corpora, read_noise):
        with suppress(UnmingleError):
            read([folder / "input.csv"])
    listed = mutated(b"name,speaker_1,gender_1,corpus_1,text_1,snr_db\na,s1,F,c,=x,1.5\n", rng)
    (folder / "mixtures.csv").write_bytes(listed)
    read_mixture_folder(folder)


def _summary_seed() -> tuple[Any, bytes]:
    one = {"mean": 1.5, "median": 1.0, "low_95": 0.5, "high_95": 2.5, "count": 3}
    metrics = {"si_sdr": one, "si_sdr_improvement": one}
    summary = {
        "system": "mixture", "candidate": {"mixture": True}, "mixtures": 3, "metrics": metrics,
        "groups": {"genders": {"same": {"mixtures": 2, "metrics": metrics}}},
        "made_worse": {"mixtures": 0.0, "speakers": 0.1, "meaning": "x"},
        "failures": {"count": 1, "names": ["c"], "reasons": {"it crashed": 1}}, "notes": {"3 files": 1},
        "seconds": 12.0, "real_time_factor": 0.1, "peak_mib": 100.0, "threads": 1, "processes": 1, "folder": "test",
        "path": "/nowhere", "list_sha256": "abc", "mixing": None, "definitions": {}, "permutation": "x",
        "date": "2026-11-28", "version": "0.1.0", "machine": "x",
    }  # fmt: skip
    columns = "name,seconds,genders,si_sdr,si_sdr_improvement,si_sdr_1,si_sdr_improvement_1,speakers,notes,failure\n"
    rows = "a,4,same,1.0,2.0,1.0,2.0,x|y,,\nb,4,same,2.0,1.0,2.0,1.0,x|z,,\nc,4,same,,,,,,,it crashed\n"
    return summary, (columns + rows).encode()


def summary(rng: random.Random, folder: Path) -> None:
    """summary.json and scores.csv, as far as a report's numbers and page."""
    from unmingle.evaluation.report import write_report

    values, scores = _summary_seed()
    whole = folder / "whole"
    whole.mkdir(exist_ok=True)
    (whole / "summary.json").write_text(json.dumps(values))
    (whole / "scores.csv").write_bytes(scores)
    if rng.random() < 0.6:
        for _ in range(rng.randint(1, 2)):
            values = changed(values, rng)
        (folder / "summary.json").write_text(json.dumps(values))
    else:
        (folder / "summary.json").write_bytes(mutated(json.dumps(values).encode(), rng))
    (folder / "scores.csv").write_bytes(scores if rng.random() < 0.4 else mutated(scores, rng))
    runs = read_runs([folder, whole])
    for run in runs:
        interval(run, "si_sdr_improvement")
        difference(run, runs[0], "si_sdr_improvement")
    if rng.random() < 0.2:
        write_report([folder, whole], folder / "report.html")


TARGETS: dict[str, Callable[[random.Random, Path], None]] = {
    target.__name__: target for target in (audio, model, recipe, manifest, summary)
}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"it took more than {SECONDS_A_CASE} s")


def run_case(target: str, seed: int, case: int, folder: Path) -> str | None:
    """What is wrong with the answer to one input, or None. The input's files stay in ``folder``."""
    _limit(SECONDS_A_CASE)
    try:
        TARGETS[target](random.Random(f"{seed}-{target}-{case}"), folder)
    except UnmingleError as error:
        return "an error of several lines" if "\n" in str(error) else None
    except Exception:
        return traceback.format_exc()
    finally:
        _limit(0)
    return None


def _limit(seconds: float) -> None:
    """Processor time for what computes, ten times as much by the clock for what waits; 0 for none."""
    if hasattr(signal, "setitimer"):
        for timer, number, factor in (
            (signal.ITIMER_PROF, signal.SIGPROF, 1),
            (signal.ITIMER_REAL, signal.SIGALRM, 10),
        ):
            signal.signal(number, _too_long)
            signal.setitimer(timer, factor * seconds)


def run_batch(target: str, seed: int, first: int, count: int, keep: Path) -> int:
    """Cases one after the other; a fault's input and its traceback are kept. Returns the number of faults."""
    faults = 0
    with tempfile.TemporaryDirectory() as scratch, suppress(Exception):
        # Without a limit: what is imported at the first use takes its time.
        TARGETS[target](random.Random(0), Path(scratch))
    for case in range(first, first + count):
        folder = keep / f"{target}-{seed}-{case}"
        folder.mkdir(parents=True)
        wrong = run_case(target, seed, case, folder)
        if wrong is not None:
            faults += 1
            (folder / "fault.txt").write_text(wrong)
            print(f"FAULT {folder}: {wrong.strip().splitlines()[-1]}", flush=True)
        else:
            shutil.rmtree(folder)
    return faults


def run_for(seconds: float, seed: int, keep: Path) -> int:
    """Batches in processes of their own, which may crash, until the time is up. Returns the number of faults."""
    ends, tried, faults, first = time.monotonic() + seconds, dict.fromkeys(TARGETS, 0), 0, 0
    while time.monotonic() < ends:
        for target in TARGETS:
            command = [
                sys.executable,
                __file__,
                "--target",
                target,
                "--case",
                str(first),
                "--count",
                str(BATCH),
            ]
            done = subprocess.run(
                [*command, "--seed", str(seed), "--keep", str(keep)],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            found = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
            if done.returncode not in (0, 1):
                found.append(f"FAULT {target} from case {first}: the process ended with {done.returncode}")
            faults += len(found)
            tried[target] += BATCH
            for line in found:
                print(line, flush=True)
            if time.monotonic() > ends:
                break
        first += BATCH
    print(f"seed {seed}: {', '.join(f'{count} {name}' for name, count in tried.items())}; {faults} faults")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"))
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--case", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args()
    if given.target:
        faults = run_batch(given.target, given.seed, given.case, given.count, given.keep)
    else:
        faults = run_for(given.seconds, given.seed, given.keep)
    with suppress(OSError):
        given.keep.rmdir()
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
