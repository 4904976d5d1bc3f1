"""What happens to recordings, beside speech: pauses, late speakers, rings, jumps of level, hum, clipping.

    python benchmarks/robustness.py CORPUS [--model MODEL ...] [--count 10] [--lag SECONDS] [--condition NAME ...]

Every condition changes the same recordings of 20 s: two speakers of the test split who talk at once, at the rate of
the model. Each is separated as a file, and as a stream in blocks of 80 ms (models of whole windows: 1 s behind).

Columns: SI-SDR improvement in dB over the recording with all that was done to it (of one speaker only there is none);
SI-SDR in dB, the mean over the speakers who speak; and leakage: the level of the others' outputs while one speaker
speaks alone, against the own one (-60 at best). References are the clean sources, after pauses and jumps of level.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from unmingle.audio import Samples, active_level
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.evaluation.conversation_scores import leakage
from unmingle.metrics import si_sdr
from unmingle.models import DEFAULT_MODEL
from unmingle.separation import Separator, load

SECONDS = 20.0
BLOCK_SECONDS = 0.08
Change = Callable[[Samples, int], tuple[Samples, Samples]]
"""From sources ``(speakers, samples)`` and their rate to a mixture and the references in it."""


def _silent(sources: Samples, rate: int, *parts: tuple[int, float, float]) -> Samples:
    """Sources whose ``(speaker, start, end)``, in seconds, are silent, with ramps of 10 ms."""
    quiet, ramp = sources.copy(), round(0.01 * rate)
    for speaker, start, end in parts:
        gain = np.ones(sources.shape[1], dtype=np.float32)
        gain[round(start * rate) : round(end * rate)] = 0
        quiet[speaker] *= np.convolve(
            np.pad(gain, ramp, mode="edge"), np.ones(2 * ramp + 1) / (2 * ramp + 1), "valid"
        )
        quiet[speaker, round(start * rate) : round(end * rate)] = 0
    return quiet


def _sum(sources: Samples) -> tuple[Samples, Samples]:
    return sources.sum(axis=0), sources


def at_once(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    return _sum(sources)


def overlap_comes_and_goes(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    return _sum(_silent(sources, rate, (0, 3, 6), (1, 8, 11), (0, 13, 15), (1, 17, 20)))


def one_speaker(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    return _sum(_silent(sources, rate, (1, 0, SECONDS)))


def late_speaker(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    return _sum(_silent(sources, rate, (1, 0, 12)))


def phone_rings(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """Two rings of 2 s, 440 and 480 Hz and their octaves, as loud as the speech."""
    mixture = sources.sum(axis=0)
    time = np.arange(2 * rate) / rate
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (440, 480, 880, 960))
    ring = tones * (np.sin(2 * np.pi * 20 * time) > 0)
    ring *= active_level(mixture, rate) / np.sqrt(np.square(ring).mean())
    for start in (5, 12):
        mixture[start * rate : (start + 2) * rate] += ring.astype(np.float32)
    return mixture, sources


def level_jumps(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """20 dB down after 7 s, and up again after 14 s."""
    changed = sources.copy()
    changed[:, 7 * rate : 14 * rate] *= np.float32(0.1)
    return _sum(changed)


def digital_silence(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """Two seconds of zeros first, and five in the middle."""
    return _sum(_silent(sources, rate, (0, 0, 2), (1, 0, 2), (0, 8, 13), (1, 8, 13)))


def hum(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """50 Hz and its harmonics up to 250 Hz, 10 dB below the speech."""
    mixture, time = sources.sum(axis=0), np.arange(sources.shape[1]) / rate
    tones = sum(np.sin(2 * np.pi * 50 * n * time) / n for n in range(1, 6))
    level = active_level(mixture, rate) * 10 ** (-10 / 20)
    return mixture + (tones * level / np.sqrt(np.square(tones).mean())).astype(np.float32), sources


def offset(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """A constant, twice as large as the speech's level."""
    mixture = sources.sum(axis=0)
    return mixture + np.float32(2 * active_level(mixture, rate)), sources


def clipping(sources: Samples, rate: int) -> tuple[Samples, Samples]:
    """The loudest 3 % of the samples are cut."""
    mixture = sources.sum(axis=0)
    top = float(np.quantile(np.abs(mixture), 0.97))
    return mixture.clip(-top, top), sources


CONDITIONS: dict[str, Change] = {
    "two at once": at_once,
    "overlap that comes and goes": overlap_comes_and_goes,
    "one speaker only": one_speaker,
    "the second speaker joins after 12 s": late_speaker,
    "a phone rings": phone_rings,
    "level jumps by 20 dB": level_jumps,
    "digital silence": digital_silence,
    "hum of 50 Hz, 10 dB below the speech": hum,
    "constant offset": offset,
    "clipped": clipping,
}


def recordings(corpus: Path, rate: int, count: int) -> list[Samples]:
    """Sources ``(2, samples)``, each speaker's utterances joined, without pauses of their own making."""
    utterances = read_corpora([str(corpus)], "test")
    config = MixingConfig.model_validate({"speakers": 2, "snr": (0.0, 3.0)})
    mixer = Mixer(utterances, decode(utterances, rate), rate, config, seed=11)
    return [mixer.example(index, round(SECONDS * rate)).sources for index in range(count)]


def scored(
    estimates: Samples, references: Samples, mixture: Samples, rate: int
) -> tuple[float, float, float]:
    """SI-SDR improvement, SI-SDR and leakage in dB. The improvement over one speaker alone is NaN."""
    # A constant offset comes out in equal shares, and is nobody's voice.
    estimates = estimates - estimates.mean(axis=1, keepdims=True)
    speaking = [k for k in range(len(references)) if np.square(references[k]).sum() > 0]
    found, wanted = torch.from_numpy(estimates), torch.from_numpy(references[speaking])
    best, order = max(
        (float(si_sdr(found[list(chosen)], wanted).mean()), chosen)
        for chosen in permutations(range(len(estimates)), len(speaking))
    )
    gained = float("nan")
    if len(speaking) > 1:
        gained = best - float(si_sdr(torch.from_numpy(mixture), wanted).mean())
    places = [*order, *(k for k in range(len(estimates)) if k not in order)]
    silent = [k for k in range(len(references)) if k not in speaking]
    ordered = np.empty_like(estimates)
    ordered[[*speaking, *silent]] = estimates[places]
    return gained, best, leakage(ordered, references, rate)


def streamed(model: Separator, mixture: Samples, lag: float | None) -> Samples:
    stream = model.stream(model.sample_rate, 2, lag)
    block = round(BLOCK_SECONDS * model.sample_rate)
    pieces = [stream.push(mixture[start : start + block]) for start in range(0, len(mixture), block)]
    return np.concatenate([*pieces, stream.flush()], axis=1)


def row(name: str, way: str, values: list[tuple[float, float, float]]) -> str:
    """A line of the table: means over what is a number."""
    columns = np.array(values).T
    means = [
        f"{column[np.isfinite(column)].mean():.2f}" if np.isfinite(column).any() else "" for column in columns
    ]
    return f"| {name} | {way} | {' | '.join(means)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--lag", type=float, help="Of streams, in seconds (default: the model's own, or 1).")
    parser.add_argument("--condition", nargs="+", default=list(CONDITIONS), choices=list(CONDITIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {arguments.count} recordings"
    )
    for name in arguments.model:
        model = load(name, "cpu")
        sources = recordings(arguments.corpus, model.sample_rate, arguments.count)
        behind = model.stream(model.sample_rate, 2, arguments.lag).lag_seconds
        print(f"\n{model.name}; the stream is {behind:.3f} s behind\n")
        print(
            "| condition | as | SI-SDRi (dB) | SI-SDR (dB) | leakage (dB) |\n| --- | --- | --- | --- | --- |"
        )
        for condition in arguments.condition:
            file, stream = [], []
            for number, each in enumerate(sources):
                mixture, references = CONDITIONS[condition](each, model.sample_rate)
                whole = model.separate(mixture, model.sample_rate, 2).estimates
                file.append(scored(whole, references, mixture, model.sample_rate))
                live = streamed(model, mixture, arguments.lag)
                stream.append(scored(live, references, mixture, model.sample_rate))
                print(f"{condition} {number + 1}/{len(sources)}", file=sys.stderr, flush=True)
            print(row(condition, "file", file))
            print(row(condition, "stream", stream), flush=True)


if __name__ == "__main__":
    main()
