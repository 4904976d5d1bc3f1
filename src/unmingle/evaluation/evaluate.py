"""Run a system over a folder of mixtures, score it, and write what was found and how."""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmingle import __version__
from unmingle.audio import Samples, replace_files, resample
from unmingle.data.mixture_folders import MixtureItem, list_hash, read_item, read_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.scores import DEFINITIONS, check_metrics, default_metrics, score_mixture
from unmingle.evaluation.summary import MixtureScores, summarize
from unmingle.models import file_hash, find_model, load_system
from unmingle.separation.offline import pick_device
from unmingle.systems import MaskingSystem
from unmingle.systems.oracle import Oracle

Estimator = Callable[[Samples, Samples, int], Samples]
"""Mixture ``(samples,)``, references ``(sources, samples)`` and rate, to estimates ``(sources, samples)``."""

_ROUNDING = 1e-5
"""What a mixture holds beside its sources counts as noise from this share of its energy on."""


@dataclass(frozen=True)
class Candidate:
    """What is scored."""

    name: str
    estimate: Estimator
    details: dict[str, Any]


def mixture_candidate() -> Candidate:
    """The mixture itself, as everybody's estimate: the line that improvements start from."""
    return Candidate("mixture", lambda mixture, sources, rate: np.stack([mixture] * len(sources)), {})


def oracle_candidate(name: str) -> Candidate:
    """An ideal mask made from the references."""
    Oracle(name, 8000)  # An unknown name is an error now, not at the first mixture.

    def estimate(mixture: Samples, sources: Samples, rate: int) -> Samples:
        # What the sources leave of the mixture is noise, and gets a mask of its own.
        rest = (mixture - sources.sum(axis=0))[None]
        parts = (
            np.concatenate([sources, rest])
            if np.square(rest).sum() > _ROUNDING * np.square(mixture).sum()
            else sources
        )
        if len(parts) < 2:
            raise UnmingleError("An oracle mask needs two sources, or one and noise; there is one source.")
        separated = Oracle(name, rate).separate(
            torch.from_numpy(mixture).unsqueeze(0), torch.from_numpy(parts).unsqueeze(0)
        )
        array: Samples = separated[0, : len(sources)].numpy()
        return array

    return Candidate(f"oracle-{name}", estimate, {"stft": "32 ms square root of Hann, every 8 ms"})


def model_candidate(
    model: str | Path, device: str = "auto", changes: Mapping[str, Any] | None = None
) -> Candidate:
    """A model's raw estimates: the system alone, without the residual that `separate` shares out.

    ``changes`` of its config as in :func:`unmingle.models.load_system`; ``formation: oracle`` forms
    attractors from the references, as the "ideal" rows of the papers do.
    """
    path, where = find_model(model), pick_device(device)
    system = load_system(path, where, changes)

    def to_model(audio: Samples, rate: int) -> torch.Tensor:
        heard = np.ascontiguousarray(resample(audio, rate, system.sample_rate))
        return torch.from_numpy(heard).unsqueeze(0).to(where)

    def estimate(mixture: Samples, sources: Samples, rate: int) -> Samples:
        heard = to_model(mixture, rate)
        if isinstance(system, MaskingSystem) and system.needs_sources:
            separated = system.separate(heard, len(sources), to_model(sources, rate))
        else:
            separated = system.separate(heard, len(sources))
        raised = resample(separated.sources[0].cpu().numpy(), system.sample_rate, rate)
        fitted = np.zeros_like(sources)
        fitted[:, : raised.shape[1]] = raised[:, : sources.shape[1]]
        return fitted

    details: dict[str, Any] = {
        "model": path.stem,
        "sha256": file_hash(path),
        "rate": system.sample_rate,
    }
    name = path.stem
    if changes:
        details["changes"] = dict(changes)
        name += "-" + "-".join(f"{key}-{value}" for key, value in changes.items())
    return Candidate(name, estimate, details)


def check_task(folder: Path, task: str | None) -> str:
    """The task that a folder is for, ``separate`` or ``denoise``, by its layout.

    Raises:
        UnmingleError: it is not for the ``task`` that was asked for, or there is no such task.
    """
    if task not in (None, "separate", "denoise"):
        raise UnmingleError(f"There is no task {task!r}; choose separate or denoise.")
    found = "denoise" if read_mixture_folder(folder)[0].noisy else "separate"
    if task not in (None, found):
        needed = "noisy/ and clean/" if task == "denoise" else "mix/, s1/, s2/ ..."
        raise UnmingleError(f"{folder} is not for --task {task}, which needs the folders {needed}.")
    return found


def evaluate_folder(
    folder: Path,
    candidate: Candidate,
    output: Path,
    on_progress: Callable[[int, int], None] | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Score ``candidate`` on every mixture; write ``scores.csv`` and ``summary.json``; return the summary.

    ``metrics`` names some of :data:`~unmingle.evaluation.scores.DEFINITIONS`; all, if not given.

    Raises:
        UnmingleError: the folder is malformed, or a file in it cannot be read.
    """
    items = read_mixture_folder(folder)
    task = "denoise" if items[0].noisy else "separate"
    metrics = check_metrics(metrics or default_metrics(task))
    scores, work = [], 0.0
    for number, item in enumerate(items, start=1):
        mixture, sources, rate = read_item(item)
        began = time.perf_counter()
        estimates = candidate.estimate(mixture, sources, rate)
        work += time.perf_counter() - began
        values = score_mixture(mixture, sources, estimates, rate, metrics)
        scores.append(MixtureScores(item.name, len(mixture) / rate, _groups(item), values))
        if on_progress:
            on_progress(number, len(items))
    seconds = sum(score.seconds for score in scores)
    summary = {
        "system": candidate.name,
        **candidate.details,
        **summarize(scores),
        "seconds": seconds,
        "real_time_factor": work / seconds,
        "threads": torch.get_num_threads(),
        "folder": folder.name,
        "list_sha256": list_hash(items),
        "mixing": _mixing(folder),
        "definitions": {metric: DEFINITIONS[metric] for metric in metrics},
        "permutation": "best mean SI-SDR",
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
    }
    replace_files(
        [
            (output / "scores.csv", _csv(scores, metrics).encode()),
            (output / "summary.json", json.dumps(summary, indent=2).encode()),
        ]
    )
    return summary


def _groups(item: MixtureItem) -> dict[str, str]:
    if not item.details:
        return {}
    if item.noisy:
        return {"snr": _level(item.details.get("snr_db")), "noise": _kind(item.details.get("noise"))}
    corpora = sorted({value for key, value in item.details.items() if key.startswith("corpus_")})
    return {"genders": item.gender_pair, "corpora": " + ".join(corpora)}


def _level(snr: str | None) -> str:
    """The nearest multiple of 5 dB, in words."""
    try:
        return f"{5 * round(float(snr or 'nan') / 5):+d} dB"
    except (ValueError, OverflowError):
        return "unknown"


def _kind(noise: str | None) -> str:
    return (noise or "unknown").split("/")[0]


def _csv(scores: Sequence[MixtureScores], metrics: Sequence[str]) -> str:
    columns = [name for metric in metrics for name in (metric, f"{metric}_improvement")]
    talkers = len(scores[0].values[columns[0]])
    groups = sorted({kind for score in scores for kind in score.groups})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    per_talker = [f"{column}_{n}" for column in columns for n in range(1, talkers + 1)]
    writer.writerow(["name", "seconds", *groups, *columns, *per_talker])
    for score in scores:
        means = [score.mean(column) for column in columns]
        values = [value for column in columns for value in score.values[column]]
        cells = ["" if value is None else f"{value:.4f}" for value in (*means, *values)]
        writer.writerow(
            [score.name, f"{score.seconds:.3f}", *(score.groups.get(kind, "") for kind in groups), *cells]
        )
    return text.getvalue()


def _mixing(folder: Path) -> Any:
    path = folder / "recipe.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # Made by another program: nothing is known.
