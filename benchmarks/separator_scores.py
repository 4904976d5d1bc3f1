"""Score separators on what people record: full overlap, conversations, three speakers, noise, rooms, microphones.

    python benchmarks/separator_scores.py CORPUS MODEL [MODEL ...] [--split valid] [--list NAME] [-o OUT.json]

Mixtures are drawn from one split of CORPUS (speech.csv and noise.csv), a pure function of the list's seed, and
are rendered at 16 kHz. Each model hears them at its own rate; scores are taken at 8 kHz, so that models of
different rates compare. The raw system is scored, or with `--separate` what `unmingle separate` makes of it: turns
given to speakers by voice, and the residual shared out. Then there may be more speakers than the system separates.
With `--auto`, the speakers are counted: if one is missing, an estimate is scored for two speakers, and of too many
the best are scored.

Columns: SI-SDR improvement and SI-SDR in dB (mean over speakers, then mixtures, with the 95 % interval of the
mean), the share of mixtures that get worse, the share of single-speaker speech in the wrong file, the leakage
into the other files while one speaker speaks alone (see unmingle/evaluation/conversation_scores.py), and the
SI-SDR improvement of the WFM oracle on the same mixtures. Counting: the share of mixtures counted right.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmingle.audio import Samples, active_level, resample
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.microphones import KNOWN, apply_response, known_response
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import NoiseMaker
from unmingle.evaluation.conversation_scores import leakage, wrong_speaker_share
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.metrics import si_sdr
from unmingle.models import load_system
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.offline import load
from unmingle.systems import System
from unmingle.systems.oracle import Oracle

LIST_RATE = 16000
SCORE_RATE = 8000


@dataclass(frozen=True)
class MixtureList:
    """Some mixtures of one kind."""

    name: str
    count: int
    seconds: float | None = None
    """Of a crop; None: whole utterances, cut to the shortest."""
    config: dict[str, object] = field(default_factory=dict)
    seed: int = 1
    microphone: str | None = None
    music_snr: float | None = None
    """Level of the speech over synthetic music, in dB."""
    counting: bool = False
    """The system counts the speakers; else it is told."""


def _noise(snr: float) -> dict[str, object]:
    return {"snr_levels": [snr]}


_TALK = {"overlap": (0.0, 1.0)}
LISTS = [
    MixtureList("pairs", 300),
    MixtureList("conversations", 100, 30.0, {"conversation": _TALK}),
    MixtureList("conversations of three", 50, 30.0, {"conversation": _TALK, "speakers": 3}),
    MixtureList("three at once", 100, None, {"speakers": 3}),
    *(MixtureList(f"noise {snr} dB", 60, None, {"noise": _noise(snr)}) for snr in (20, 10, 5, 0)),
    MixtureList("rooms", 60, None, {"room": {"rt60": (0.2, 0.6), "distance": (0.5, 2.0)}}),
    *(MixtureList(f"microphone {name}", 60, None, microphone=name) for name in KNOWN),
    MixtureList("one speaker", 100, 6.0, {"speakers": 1}, counting=True),
    MixtureList("two speakers", 100, 6.0, {"conversation": {"share": 0.5}}, counting=True),
    MixtureList("three speakers", 100, 8.0, {"speakers": 3, "conversation": {"share": 0.5}}, counting=True),
    MixtureList("one in noise", 60, 6.0, {"speakers": 1, "noise": _noise(10.0)}, counting=True),
    MixtureList("one in music", 40, 6.0, {"speakers": 1}, music_snr=10.0, counting=True),
]


class Corpus:
    """One split, decoded at the rate of the lists."""

    def __init__(self, path: Path, split: str) -> None:
        self.utterances = read_corpora([str(path)], split)
        self.speech = decode(self.utterances, LIST_RATE)
        self.recordings = read_noise([str(path)], split)
        self.noise = decode(self.recordings, LIST_RATE)

    def mixtures(self, wanted: MixtureList) -> Iterator[tuple[Samples, Samples]]:
        """Mixture ``(samples,)`` and sources ``(speakers, samples)`` of every entry of a list."""
        config = MixingConfig.model_validate({"speakers": 2, "snr": (0.0, 5.0)} | wanted.config)
        maker = None
        if config.noise is not None:
            recordings, decoded = self.recordings, self.noise
            maker = NoiseMaker(recordings, decoded, self.speech, LIST_RATE, config.noise)
        mixer = Mixer(self.utterances, self.speech, LIST_RATE, config, wanted.seed, maker)
        for index in range(wanted.count):
            if wanted.seconds is None:
                plan = mixer.whole(index, "min")
            else:
                plan = mixer.crop(index, round(wanted.seconds * LIST_RATE))
            example = mixer.realize(index, plan)
            sources, mixture = example.sources, example.mixture
            if wanted.microphone:
                response = known_response(wanted.microphone, len(mixture), LIST_RATE)
                mixture, sources = apply_response(response, mixture), apply_response(response, sources)
            if wanted.music_snr is not None:
                rng = np.random.default_rng([wanted.seed, index, 9])
                music = synthetic_music(rng, len(mixture))
                level = active_level(mixture, LIST_RATE) * 10 ** (-wanted.music_snr / 20)
                mixture = mixture + music * np.float32(level / np.sqrt(np.square(music).mean()))
            yield mixture, sources


def synthetic_music(rng: np.random.Generator, samples: int) -> Samples:
    """Chords of plucked strings over a beat of filtered noise: the data holds no recorded music for tests."""
    music = np.zeros(samples + 2 * LIST_RATE)
    beat = round(LIST_RATE * rng.uniform(0.3, 0.6))
    root = 110.0 * 2 ** (rng.integers(12) / 12)
    time = np.arange(2 * LIST_RATE) / LIST_RATE
    for number, start in enumerate(range(0, samples, beat)):
        chord = (0, 4, 7) if number // 4 % 2 == 0 else (5, 9, 12)
        for semitones in rng.permutation(chord)[: 1 + number % 3]:
            for harmonic in range(1, 9):
                hertz = root * 2 ** (semitones / 12) * harmonic
                decay = np.exp(-time * (2.0 + harmonic))
                music[start : start + len(time)] += np.sin(2 * np.pi * hertz * time) * decay / harmonic
        tick = rng.standard_normal(len(time)) * np.exp(-time * 60)
        music[start : start + len(time)] += 0.5 * tick
    return music[:samples].astype(np.float32)


def improvement(estimates: Samples, sources: Samples, mixture: Samples) -> tuple[float, float, Samples]:
    """SI-SDR improvement and SI-SDR in dB, means over speakers, and the estimates in the sources' order."""
    pairwise = pairwise_si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(sources)[None])
    after, order = best_permutation(pairwise)
    before = si_sdr(torch.from_numpy(mixture), torch.from_numpy(sources)).mean()
    return float(after[0] - before), float(after[0]), estimates[order[0].numpy()]


def score_list(
    separate: Callable[[Samples, Samples, bool], tuple[Samples, int]], corpus: Corpus, wanted: MixtureList
) -> dict[str, object]:
    """All figures of one list."""
    rows: list[dict[str, float]] = []
    for mixture, sources in corpus.mixtures(wanted):
        estimates, count = separate(mixture, sources, wanted.counting)
        if wanted.counting:
            rows.append({"counted": float(count), "right": float(count == len(sources))})
            continue
        low, references = resample(mixture, LIST_RATE, SCORE_RATE), resample(sources, LIST_RATE, SCORE_RATE)
        estimates = np.pad(estimates, ((0, 0), (0, max(0, len(low) - estimates.shape[1]))))[:, : len(low)]
        gained, value, ordered = improvement(estimates, references, low)
        noise = low - references.sum(axis=0)
        noisy = np.square(noise).sum() > 1e-6 * np.square(low).sum()
        parts = torch.from_numpy(np.concatenate([references, noise[None]]) if noisy else references)
        ideal = Oracle("wfm", SCORE_RATE).separate(torch.from_numpy(low)[None], parts[None])[0]
        rows.append({
            "si_sdr_improvement": gained,
            "si_sdr": value,
            "worse": float(gained < 0),
            "wrong_file": wrong_speaker_share(ordered, references, SCORE_RATE),
            "leakage": leakage(ordered, references, SCORE_RATE),
            "oracle": improvement(ideal[: len(references)].numpy(), references, low)[0],
        })  # fmt: skip
    found: dict[str, object] = {"list": wanted.name, "mixtures": len(rows)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[np.isfinite(values)]
        found[name] = float(values.mean()) if len(values) else math.nan
        if name == "si_sdr_improvement":
            found["interval"] = bootstrap_interval(values.tolist())
        if name == "counted":
            found["counts"] = {int(n): int((values == n).sum()) for n in sorted(set(values))}
    return found


def model(system: System) -> Callable[[Samples, Samples, bool], tuple[Samples, int]]:
    """A system as what :func:`score_list` wants; estimates come at the rate of the scores."""

    def separate(mixture: Samples, sources: Samples, counting: bool) -> tuple[Samples, int]:
        audio = torch.from_numpy(resample(mixture, LIST_RATE, system.sample_rate))[None]
        speakers = None if counting else len(sources)
        if speakers is not None and speakers > (system.most_speakers() or speakers):
            raise ValueError("too many speakers")
        separated = system.separate(audio, speakers)
        estimates = separated.sources[0].numpy()
        return resample(estimates, system.sample_rate, SCORE_RATE), int(separated.count[0])

    return separate


def separator(name: str, *, auto: bool = False) -> Callable[[Samples, Samples, bool], tuple[Samples, int]]:
    """Like :func:`model`, for all that `unmingle separate` does. With ``auto``, it always counts the speakers."""
    loaded = load(name)

    def separate(mixture: Samples, sources: Samples, counting: bool) -> tuple[Samples, int]:
        made = loaded.separate(mixture, LIST_RATE, "auto" if counting or auto else len(sources)).estimates
        if not counting:
            made = as_many(made, sources)
        return resample(made, LIST_RATE, SCORE_RATE), len(made)

    return separate


def as_many(estimates: Samples, sources: Samples) -> Samples:
    """As many estimates as sources, at most four: the best of too many, or the first ones twice."""
    count = len(sources)
    rows = [k % len(estimates) for k in range(max(count, len(estimates)))]
    pairwise = pairwise_si_sdr(torch.from_numpy(estimates[rows])[None], torch.from_numpy(sources)[None])[0]
    chosen = max(
        itertools.combinations(range(len(rows)), count),
        key=lambda each: float(best_permutation(pairwise[:, list(each)][None])[0][0]),
    )
    return estimates[[rows[k] for k in chosen]]


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    if "right" in found:
        right = 100 * float(str(found["right"]))
        return f"| {found['list']} | counted {found['counts']} | right {right:.0f} % | | | | |"
    low, high = found["interval"]
    percent = [100 * float(str(found[name])) for name in ("worse", "wrong_file")]
    return (
        f"| {found['list']} | {found['si_sdr_improvement']:.2f} ({low:.2f} to {high:.2f}) | {found['si_sdr']:.2f} "
        f"| {percent[0]:.0f} % | {percent[1]:.1f} % | {found['leakage']:.1f} | {found['oracle']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--list", action="append", help="Only lists whose name begins so.")
    parser.add_argument("--count", type=int, help="At most so many mixtures of each list.")
    parser.add_argument("--separate", action="store_true", help="Score the estimates of unmingle separate.")
    parser.add_argument("--auto", action="store_true", help="With --separate: the speakers are counted.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="Write the figures as JSON.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus = Corpus(arguments.corpus, arguments.split)
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, split {arguments.split}"
    )
    everything: dict[str, list[dict[str, object]]] = {}
    for name in arguments.models:
        system = load_system(name)
        print(
            f"\n{name}\n\n| list | SI-SDRi (95 %) | SI-SDR | worse | wrong file | leakage (dB) | WFM oracle |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for wanted in LISTS:
            if arguments.list and not any(wanted.name.startswith(each) for each in arguments.list):
                continue
            speakers = int(str(wanted.config.get("speakers", 2)))
            most = load(name).most_speakers if arguments.separate else system.speakers
            if speakers > most and not wanted.counting:
                print(f"| {wanted.name} | at most {most} speakers | | | | | |")
                continue
            changes = {} if arguments.count is None else {"count": min(arguments.count, wanted.count)}
            shorter = MixtureList(**{**wanted.__dict__, **changes})
            scored = separator(name, auto=arguments.auto) if arguments.separate else model(system)
            found = score_list(scored, corpus, shorter)
            everything.setdefault(str(name), []).append(found)
            print(line(found), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(everything, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
