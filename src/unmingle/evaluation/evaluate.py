"""Run a candidate on a folder of mixtures, score it, and write the scores and how they were computed."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from unmingle import __version__
from unmingle.audio import Samples
from unmingle.data.mixture_folders import MixtureItem, list_hash, read_item, read_mixture_folder
from unmingle.device import pick_device
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import Candidate, CandidateConfig
from unmingle.evaluation.external import EstimateError
from unmingle.evaluation.metric_registry import METRICS, check_metrics, default_metrics
from unmingle.evaluation.processes import ordered_map
from unmingle.evaluation.score_table import scores_csv
from unmingle.evaluation.scores import (
    fit_estimates,
    score_mixture,
    why_undefined,
)
from unmingle.evaluation.summary import Counting, MixtureScores, summarize
from unmingle.evaluation.words import CORPORA, WordErrors, count_errors
from unmingle.shares import Parts, Share
from unmingle.temporary import check_writable, replace_files
from unmingle.workers import available_cores, peak_memory

_ORACLE = "wfm"
"""The mask that word error rates are compared with."""


def check_task(folder: Path, task: str | None) -> str:
    """The task that a folder is for, ``separate`` or ``denoise``, by its layout.

    Raises:
        UnmingleError: ``task`` is unknown, or the folder is not for it.
    """
    if task not in (None, "separate", "denoise"):
        raise UnmingleError(f"There is no task {task!r}; choose separate or denoise.")
    found = "denoise" if read_mixture_folder(folder, fewest=1)[0].noisy else "separate"
    if task not in (None, found):
        needed = "noisy/ and clean/" if task == "denoise" else "mix/, s1/, s2/ ..."
        raise UnmingleError(f"{folder} is not for --task {task}, which needs the folders {needed}.")
    return found


def evaluate_folder(
    folder: Path,
    config: CandidateConfig,
    output: Path,
    on_progress: Callable[[int, int], None] | None = None,
    metrics: Sequence[str] | None = None,
    *,
    words: bool = False,
    processes: int = 1,
    threads: int | None = None,
    share: Share | None = None,
) -> dict[str, Any]:
    """Score a candidate on every mixture; write ``scores.csv`` and ``summary.json``; return the summary.

    Args:
        folder: in one of the layouts of :mod:`unmingle.data.mixture_folders`.
        config: what to score.
        output: the folder for the results.
        on_progress: called with the number of mixtures scored so far and the total.
        metrics: names of :data:`~unmingle.evaluation.metric_registry.METRICS` (default: those of the task).
        words: count word errors where ``mixtures.csv`` has the texts.
        processes: number of worker processes.
        threads: of each process (default: PyTorch's number; one with several processes).
        share: score only these mixtures, and those of them that are not in ``output/parts`` yet. The call that
            finds all mixtures scored writes the results.

    Returns:
        The summary; empty while mixtures of other shares are missing.

    Raises:
        UnmingleError: the folder is malformed, a file in it cannot be read, or the candidate does not fit.
    """
    # A candidate that counts may get mixtures with different numbers of speakers.
    items = read_mixture_folder(folder, fewest=1 if config.counts else None)
    task = "denoise" if items[0].noisy else "separate"
    names = check_metrics(metrics or default_metrics(task))
    if words and not any(_texts(item) for item in items):
        raise UnmingleError(
            f"{folder} has no texts to score against: mixtures.csv needs text_1, text_2 ... for speakers of "
            "LibriSpeech or WSJ0, and whole utterances; make the mixtures with --mode max or --overlap."
        )
    check_writable(output)
    candidate = config.build()  # Raises its errors before any process is started.
    # Each worker builds its own candidate: the functions of a model cannot be pickled.
    worker = _Worker(config, names, words, candidate if processes <= 1 else None)
    threads_each = 1 if processes > 1 and threads is None else threads or torch.get_num_threads()
    run = partial(_scored, worker, processes=processes, threads=threads, on_progress=on_progress)
    if share is None:
        results = list(run(items))
    else:
        parts = Parts(output / "parts", len(items))
        parts.begin(
            [config.model_dump(mode="json"), candidate.details, names, words, _sizes(items), __version__]
        )
        if (found := _share_results(parts, share, items, run)) is None:
            return {}
        results = found
    scores = [result.scores for result in results]
    seconds = sum(result.scores.seconds for result in results if not result.scores.failure)
    work = sum(result.work for result in results if not result.scores.failure)
    summary = {
        "system": candidate.name,
        "candidate": config.model_dump(exclude_defaults=True),
        **candidate.details,
        **summarize(scores),
        "seconds": sum(score.seconds for score in scores),
        "real_time_factor": work / seconds if seconds else None,
        "peak_mib": max(result.peak_bytes for result in results) / 2**20,
        "threads": threads_each,
        "processes": processes,
        "folder": folder.name,
        "path": str(folder.resolve()),
        "list_sha256": list_hash(items),
        "mixing": _mixing(folder),
        "definitions": {name: METRICS[name].definition for name in names},
        "permutation": "best mean SI-SDR",
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
    }
    replace_files(
        [
            (output / "scores.csv", scores_csv(scores, names, max(len(item.sources) for item in items))),
            (output / "summary.json", json.dumps(summary, indent=2).encode()),
        ]
    )
    return summary


@dataclass(frozen=True)
class _Result:
    scores: MixtureScores
    work: float
    """Seconds of separation."""
    peak_bytes: int


@dataclass
class _Worker:
    """Scores mixtures. Every process has its own worker."""

    config: CandidateConfig
    metrics: Sequence[str]
    words: bool
    _built: Candidate | None = field(default=None, repr=False)
    _warm: bool = False

    @property
    def candidate(self) -> Candidate:
        if self._built is None:
            self._built = self.config.build()
        return self._built

    def score(self, item: MixtureItem) -> _Result:
        mixture, sources, rate = read_item(item)
        candidate = self.candidate
        if self.config.command is None and not self._warm:
            # The first call loads libraries. It is not counted in the speed.
            with suppress(EstimateError):
                candidate.estimate(mixture, sources, rate)
            self._warm = True
        began = time.perf_counter()
        failure, peak = "", 0
        notes: tuple[str, ...] = ()
        values: dict[str, list[float | None]] = {}
        word_errors: tuple[WordErrors | None, ...] = ()
        counted, groups = None, _groups(item)
        try:
            estimates = candidate.estimate(mixture, sources, rate)
            work = time.perf_counter() - began
            notes, peak = estimates.notes, estimates.peak_bytes
            if estimates.counted is not None:
                counted = Counting(_speaking(sources), estimates.counted, estimates.confidence or 0.0)
                groups |= {"counted": counted.outcome}
                notes += _wrong_count(counted)
            values = score_mixture(mixture, sources, estimates.sources, rate, self.metrics)
            notes += why_undefined(values, sources, rate)
            if self.words:
                word_errors = _word_errors(item, mixture, sources, estimates.sources, rate)
        except EstimateError as error:
            work, failure = time.perf_counter() - began, str(error)
        speakers = tuple(
            name for n in range(1, len(sources) + 1) if (name := item.details.get(f"speaker_{n}"))
        )
        scores = MixtureScores(
            item.name, len(mixture) / rate, groups, values, speakers, notes, failure, counted, word_errors
        )
        if self.config.command is None:
            peak = peak_memory()
        return _Result(scores, work, peak)


_RESULT = TypeAdapter(_Result)
"""Converts results to JSON and back."""


def _scored(
    worker: _Worker,
    items: Sequence[MixtureItem],
    processes: int,
    threads: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[_Result]:
    with ordered_map(worker.score, items, processes, threads) as answers:
        for done, result in enumerate(answers, start=1):
            yield result
            if on_progress:
                on_progress(done, len(items))


def _share_results(
    parts: Parts,
    share: Share,
    items: Sequence[MixtureItem],
    run: Callable[[list[MixtureItem]], Iterator[_Result]],
) -> list[_Result] | None:
    """Score a share's missing mixtures. The results of all mixtures, or None while other shares lack some."""
    missing = parts.missing(share)
    for unit, result in zip(missing, run([items[unit] for unit in missing]), strict=True):
        parts.write(unit, _RESULT.dump_python(result, mode="json"))
    found = parts.read()
    return None if found is None else [_RESULT.validate_python(part) for part in found]


def _sizes(items: Sequence[MixtureItem]) -> list[list[str | int]]:
    """Names and file sizes. They identify a list of mixtures without reading its audio."""
    return [[item.name, *(path.stat().st_size for path in (item.mixture, *item.sources))] for item in items]


def default_processes(config: CandidateConfig, count: int) -> int:
    """One process per core, but only one for a GPU or an external program, which may use all cores itself."""
    if config.command is not None or (config.model is not None and pick_device(config.device) != "cpu"):
        return 1
    return max(1, min(available_cores(), count // 8))


def _speaking(sources: Samples) -> int:
    return sum(bool(np.any(source)) for source in sources)


def _wrong_count(counted: Counting) -> tuple[str, ...]:
    if counted.outcome == "right":
        return ()
    missing = counted.found < counted.true
    what = "missing estimates are scored as silence" if missing else "the best are scored"
    return (f"{counted.found} estimates for {counted.true} speakers: {what}",)


def _texts(item: MixtureItem) -> list[str]:
    """Text of each speaker whose text is known and whose corpus suits the recognizer."""
    return [
        text
        for n in range(1, len(item.sources) + 1)
        if (text := item.details.get(f"text_{n}", ""))
        and item.details.get(f"corpus_{n}", "").lower().startswith(CORPORA)
    ]


def _word_errors(
    item: MixtureItem, mixture: Samples, sources: Samples, estimates: Samples, rate: int
) -> tuple[WordErrors | None, ...]:
    if not _texts(item):
        return ()
    ordered = fit_estimates(estimates, sources)
    versions = {"mixture": np.stack([mixture] * len(sources)), "estimate": ordered, "clean": sources}
    with suppress(EstimateError):  # There is no oracle for one source without noise.
        versions["oracle"] = CandidateConfig(oracle=_ORACLE).build().estimate(mixture, sources, rate).sources
    counted: list[WordErrors | None] = []
    for n in range(1, len(sources) + 1):
        if not item.details.get(f"corpus_{n}", "").lower().startswith(CORPORA):
            counted.append(None)
            continue
        own = {name: audio[n - 1] for name, audio in versions.items()}
        counted.append(count_errors(item.details.get(f"text_{n}", ""), own, rate))
    return tuple(counted)


def _groups(item: MixtureItem) -> dict[str, str]:
    if not item.details:
        return {}
    if item.noisy:
        return {"snr": _level(item.details.get("snr_db")), "noise": _kind(item.details.get("noise"))}
    corpora = sorted({value for key, value in item.details.items() if key.startswith("corpus_")})
    return {"genders": item.gender_pair, "corpora": " + ".join(corpora)}


def _level(snr: str | None) -> str:
    """The nearest multiple of 5 dB, as text."""
    try:
        return f"{5 * round(float(snr or 'nan') / 5):+d} dB"
    except (ValueError, OverflowError):
        return "unknown"


def _kind(noise: str | None) -> str:
    return (noise or "unknown").split("/")[0]


def _mixing(folder: Path) -> Any:
    path = folder / "recipe.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # The folder was made by another program.
