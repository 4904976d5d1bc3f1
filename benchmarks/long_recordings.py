"""Long recordings: memory and speed, and whether speakers stay in their files.

    python benchmarks/long_recordings.py memory CORPUS [--model MODEL] [--minutes 20 120]
    python benchmarks/long_recordings.py joins CORPUS [--model MODEL] [--count 20] [--minutes 10] [--speakers 2]
    python benchmarks/long_recordings.py speakers CORPUS [--model MODEL] [--count 10] [--minutes 10]

Recordings are conversations of the test split's speakers (utterances joined, and repeated where a speaker has few):
turns, pauses, overlaps, and a minute in which one speaker is silent, for each of two.

`memory` separates recordings of each length by the command, each in a process of its own, and prints peak memory
beyond that of `import torch`, and the real-time factor.

`joins` compares four ways: the package's, which joins windows by the model's attractors, and then gives turns, and
moments of one speaker, to speakers by voice; the same without voices; stitching windows by the correlation of
waveforms in the overlaps, which is what others do (here only); and one pass of the model over the whole recording.
With more speakers than the model separates at a time, only the first way works.
Swaps count pieces of 10 s in which speakers lie otherwise than in most of the recording. DER is that of the timeline,
by pyannote.metrics if it is installed, without a collar.

`speakers` counts the speakers of recordings of one to four, and prints the confusion.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import soundfile
import torch

from unmingle.audio import Samples
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.evaluation.conversation_scores import wrong_speaker_share
from unmingle.metrics import si_sdr
from unmingle.models import DEFAULT_MODEL, load_system
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.timeline import Segment, timeline
from unmingle.separation.voice_clusters import most_speakers
from unmingle.separation.windows import OVERLAP_SECONDS, WINDOW_SECONDS
from unmingle.systems import MaskingSystem

RATE = 8000


def conversation(corpus: Path, speakers: int, minutes: float, index: int) -> Samples:
    """Sources ``(speakers, samples)`` at 8 kHz."""
    utterances = read_corpora([str(corpus)], "test")
    config = MixingConfig.model_validate(
        {
            "speakers": speakers,
            "snr": (0.0, 5.0),
            "conversation": {"overlap": (0.0, 0.6), "turn": (1.0, 10.0)},
        }
    )
    mixer = Mixer(utterances, decode(utterances, RATE), RATE, config, seed=7)
    sources = mixer.example(index, round(minutes * 60 * RATE)).sources.copy()
    minute, third = 60 * RATE, sources.shape[1] // 3
    if speakers > 1 and sources.shape[1] > 4 * minute:
        sources[0, third : third + minute] = 0
        sources[1, 2 * third : 2 * third + minute] = 0
    return sources


def separated(
    system: MaskingSystem, mixture: Samples, speakers: int, window: float, overlap: float, *, by_voice: bool
) -> tuple[Samples, list[Segment]]:
    """The package's way, with windows of ``window`` seconds."""
    blocks = [mixture[k : k + 10 * RATE] for k in range(0, len(mixture), 10 * RATE)]
    with RecordingSeparation(system, RATE, speakers, window, overlap, by_voice=by_voice) as recording:
        for block in blocks:
            recording.push(block)
        tracks = recording.finish()
        return np.concatenate(list(recording.estimates(blocks)), axis=1), timeline(
            tracks, len(mixture) / RATE
        )


@torch.no_grad()
def stitched(system: MaskingSystem, mixture: Samples, speakers: int) -> Samples:
    """Windows separated on their own and stitched by the correlation of waveforms in the overlaps."""
    window, overlap = round(WINDOW_SECONDS * RATE), round(OVERLAP_SECONDS * RATE)
    total = np.zeros((speakers, len(mixture)), dtype=np.float32)
    fade = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
    for start in range(0, max(1, len(mixture) - overlap), window - overlap):
        piece = torch.from_numpy(mixture[start : start + window])[None]
        estimates = system.separate(piece, speakers).sources[0].numpy()
        if start:
            before, now = total[:, start : start + overlap], estimates[:, :overlap]
            size = now.shape[1]
            products = before[:, :size] @ now.T
            order = max(
                permutations(range(speakers)), key=lambda p: sum(products[k, p[k]] for k in range(speakers))
            )
            estimates = estimates[list(order)]
            estimates[:, :size] = estimates[:, :size] * fade[:size] + before[:, :size] * (1 - fade[:size])
        total[:, start : start + estimates.shape[1]] = estimates
    return total


def swaps(estimates: Samples, sources: Samples, seconds: float = 10.0) -> tuple[int, int]:
    """Pieces of ``seconds`` in which speakers lie otherwise than in most of the recording, and how many there are.

    Pieces in which not at least two speakers speak, or whose best order is not clear by 3 dB, do not count.
    """
    size, orders = round(seconds * RATE), list(permutations(range(len(sources))))
    votes: list[int] = []
    for start in range(0, sources.shape[1] - size + 1, size):
        own, found = sources[:, start : start + size], estimates[:, start : start + size]
        if int((np.square(own).sum(axis=1) > 1e-3 * np.square(sources).mean() * size).sum()) < 2:
            continue
        pairs = pairwise_si_sdr(torch.from_numpy(found)[None], torch.from_numpy(own)[None])[0].clamp(-30, 30)
        scores = sorted(
            (float(sum(pairs[k, order[k]] for k in range(len(order)))), n) for n, order in enumerate(orders)
        )
        if scores[-1][0] - scores[-2][0] >= 3.0:
            votes.append(scores[-1][1])
    if not votes:
        return 0, 0
    usual = max(set(votes), key=votes.count)
    return sum(vote != usual for vote in votes), len(votes)


def overlapped_si_sdr(estimates: Samples, sources: Samples) -> float:
    """Mean SI-SDR improvement over the segments in which several speak, joined."""
    size = RATE // 50
    frames = sources.shape[1] // size
    power = np.square(sources[:, : frames * size]).reshape(len(sources), frames, size).mean(axis=2)
    several = ((power > 1e-3 * power.mean(axis=1, keepdims=True)).sum(axis=0) > 1).repeat(size)
    if not several.any():
        return float("nan")
    own, found = (torch.from_numpy(x[:, : frames * size][:, several]) for x in (sources, estimates))
    return float((si_sdr(found, own) - si_sdr(own.sum(dim=0), own)).mean())


def diarization_error(segments: list[Segment], sources: Samples) -> float:
    """DER of a timeline; NaN without pyannote.metrics."""
    try:
        from pyannote.core import Annotation
        from pyannote.core import Segment as Interval
        from pyannote.metrics.diarization import DiarizationErrorRate
    except ImportError:
        return float("nan")
    size = RATE // 20
    frames = sources.shape[1] // size
    power = np.square(sources[:, : frames * size]).reshape(len(sources), frames, size).mean(axis=2)
    reference, hypothesis = Annotation(), Annotation()
    for speaker, row in enumerate(power > 1e-3 * np.quantile(power, 0.95, axis=1, keepdims=True)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))).reshape(-1, 2)
        merged: list[list[float]] = []
        for start, end in (edges * size / RATE).tolist():
            if merged and start - merged[-1][1] < 0.3:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        for start, end in merged:
            reference[Interval(start, end), f"{speaker}-{start}"] = speaker
    for segment in segments:
        hypothesis[Interval(segment.start, segment.end), f"{segment.speaker}-{segment.start}"] = (
            segment.speaker
        )
    return float(DiarizationErrorRate()(reference, hypothesis))


def joins(arguments: argparse.Namespace) -> None:
    """Print the table of the ways to join windows."""
    system = load_system(arguments.model)
    assert isinstance(system, MaskingSystem)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for number in range(arguments.count):
        speakers = arguments.speakers
        sources = conversation(arguments.corpus, speakers, arguments.minutes[0], number)
        mixture = sources.sum(axis=0)
        ways: dict[str, tuple[Samples, float]] = {}
        few = speakers <= system.speakers
        for name, by_voice in ((", turns by voice", True), *([("", False)] if few else [])):
            made, spoken = separated(
                system, mixture, speakers, WINDOW_SECONDS, OVERLAP_SECONDS, by_voice=by_voice
            )
            ways[f"windows joined by attractors{name}"] = made, diarization_error(spoken, sources)
        if few:
            whole, said = separated(system, mixture, speakers, 36000.0, 0.0, by_voice=False)
            ways |= {
                "windows stitched by correlation": (stitched(system, mixture, speakers), float("nan")),
                "one pass": (whole, diarization_error(said, sources)),
            }
        for name, (estimates, error) in ways.items():
            pairs = pairwise_si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(sources)[None])
            score, order = best_permutation(pairs)
            ordered = estimates[order[0].numpy()]
            wrong, counted = swaps(ordered, sources)
            rows.setdefault(name, []).append(
                (float(score[0]), wrong, counted, wrong_speaker_share(ordered, sources, RATE),
                 overlapped_si_sdr(ordered, sources), error)
            )  # fmt: skip
            print(f"{number + 1}/{arguments.count} {name}: {rows[name][-1]}", file=sys.stderr, flush=True)
    print("| way | SI-SDR (dB) | swaps | wrong file | SI-SDRi in overlap (dB) | DER |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, values in rows.items():
        score, wrong, counted, share, overlap, error = np.array(values).T
        print(
            f"| {name} | {score.mean():.2f} | {wrong.sum():.0f} of {counted.sum():.0f} | {100 * share.mean():.1f} % "
            f"| {np.nanmean(overlap):.2f} | {100 * error.mean():.1f} % |"
        )


def count(arguments: argparse.Namespace) -> None:
    """Print the confusion of speaker counts, and the mean confidence where the count is right and wrong."""
    system = load_system(arguments.model)
    assert isinstance(system, MaskingSystem)
    counts = max(system.speakers, most_speakers(system.speakers))
    most = min(4, counts)
    trust: dict[bool, list[float]] = {True: [], False: []}
    print("| speakers | " + " | ".join(f"counted {n}" for n in range(1, counts + 1)) + " |")
    print("| --- " * (counts + 1) + "|")
    for speakers in range(1, most + 1):
        counted = [0] * counts
        for number in range(arguments.count):
            mixture = conversation(arguments.corpus, speakers, arguments.minutes[0], number).sum(axis=0)
            with RecordingSeparation(system, RATE, None) as recording:
                recording.push(mixture)
                tracks = recording.finish()
            counted[tracks.speakers - 1] += 1
            trust[tracks.speakers == speakers].append(tracks.count_confidence)
        print(f"| {speakers} | {' | '.join(map(str, counted))} |", flush=True)
    for right, values in trust.items():
        mean = f"{np.mean(values):.2f}" if values else "none"
        print(f"{'right' if right else 'wrong'}: {len(values)} recordings, mean confidence {mean}")


def peak_and_seconds(*command: str) -> tuple[float, float]:
    """Peak memory in MiB and wall time of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), time.perf_counter() - began


def memory(arguments: argparse.Namespace) -> None:
    """Print the table of memory and speed."""
    base, _ = peak_and_seconds(sys.executable, "-c", "import torch")
    print(
        f"import torch: {base:.0f} MiB\n\n| minutes | format | peak beyond it (MiB) | wall (s) | real-time factor |"
    )
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in arguments.minutes:
            part = conversation(arguments.corpus, 2, 10.0, 0).sum(axis=0)
            for kind in arguments.format:
                path = Path(folder) / f"{minutes:g}.{kind}"
                samples = round(minutes * 60 * RATE)
                with soundfile.SoundFile(path, "w", RATE, 1) as file:
                    for start in range(0, samples, len(part)):
                        file.write(part[: samples - start])
                command = [sys.executable, "-m", "unmingle", "separate", str(path), "-o", f"{folder}/out"]
                command += ["--model", arguments.model, "--threads", str(arguments.threads), "--overwrite"]
                peak, seconds = peak_and_seconds(*command)
                print(
                    f"| {minutes:g} | {kind} | {peak - base:.0f} | {seconds:.0f} | {seconds / minutes / 60:.4f} |",
                    flush=True,
                )
                path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "joins", "speakers"])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--minutes", type=float, nargs="+")
    parser.add_argument("--format", nargs="+", default=["wav"])
    parser.add_argument("--count", type=int, default=20, help="Of recordings; of each number of speakers.")
    parser.add_argument("--speakers", type=int, default=2, help="In each recording of `joins` (default: 2).")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {arguments.model}")
    arguments.minutes = arguments.minutes or ([20.0, 120.0] if arguments.what == "memory" else [10.0])
    {"memory": memory, "joins": joins, "speakers": count}[arguments.what](arguments)


if __name__ == "__main__":
    main()
