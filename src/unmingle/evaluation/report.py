"""One HTML page about results of ``unmingle evaluate``: ``unmingle report``."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmingle import __version__
from unmingle.audio import Samples
from unmingle.data.mixture_folders import MixtureItem, list_hash, read_item, read_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import Candidate, CandidateConfig
from unmingle.evaluation.embedding_figures import embedding_pictures
from unmingle.evaluation.metric_registry import METRICS
from unmingle.evaluation.pages import audio_uri, render
from unmingle.evaluation.report_figures import density_picture, histogram_picture, spectrogram_picture
from unmingle.evaluation.runs import Run, difference, interval, read_runs
from unmingle.evaluation.scores import fit_estimates
from unmingle.temporary import check_target, check_writable, replace_files

_PLAYED = 10
"""Maximum number of worst mixtures, and of best mixtures, that have audio players."""
_LOUD = 0.3
"""Peak level of every mixture in the audio players."""
_GAIN = "si_sdr_improvement"


def write_report(
    folders: Sequence[Path], output: Path, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a page about results of ``unmingle evaluate``: one HTML file that loads nothing else.

    All other systems are compared with the system of the first folder. For this system the page also shows the
    worst and best mixtures, spectrograms and embeddings, if the mixtures and the model are still there.

    Args:
        folders: with the results.
        output: the page.
        on_progress: called with the number of mixtures separated again so far, and the total.

    Raises:
        UnmingleError: a folder holds no results.
    """
    check_target(output)
    check_writable(output.parent)
    runs = read_runs(folders)
    first = runs[0]
    values: dict[str, Any] = {
        "title": "unmingle report" if len(runs) > 1 else first.label,
        "runs": runs,
        "overview": [_overview(run, first) for run in runs],
        "columns": [(name, metric.label) for name, metric in METRICS.items() if _has(runs, name)],
        "definitions": {m.label: m.definition for name, m in METRICS.items() if _has(runs, name)},
        "groups": _groups(runs),
        "densities": [(run.label, density_picture(run)) for run in runs],
        "histogram": histogram_picture(runs),
        "date": datetime.date.today().isoformat(),
        "version": __version__,
    }
    values |= _details(first, on_progress or (lambda done, total: None))
    replace_files([(output, render("report.html.j2", **values).encode())])


def _has(runs: Sequence[Run], metric: str) -> bool:
    return any(metric in run.summary["metrics"] for run in runs)


def _overview(run: Run, first: Run) -> dict[str, Any]:
    cells = {}
    for name, metric in METRICS.items():
        gain = run.summary["metrics"].get(f"{name}_improvement")
        if name not in run.summary["metrics"]:
            continue
        spread = interval(run, f"{name}_improvement")
        cells[name] = {
            "mean": run.summary["metrics"][name]["mean"],
            "gain": gain["mean"] if gain and spread else None,
            "spread": spread,
            "places": metric.decimals,
        }
    return {
        "label": run.label,
        "cells": cells,
        "against": None if run is first else difference(run, first, _GAIN),
        "first": run is first,
        "summary": run.summary,
    }


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, list[Any]]]]]:
    """For every kind of group: its values, each with one cell per run."""
    kinds = sorted({kind for run in runs for kind in run.summary["groups"]})
    table = []
    for kind in kinds:
        members = sorted({value for run in runs for value in run.summary["groups"].get(kind, {})})
        rows = [(value, [_group_cell(run, kind, value) for run in runs]) for value in members]
        if len(rows) > 1:
            table.append((kind, rows))
    return table


def _group_cell(run: Run, kind: str, value: str) -> dict[str, float] | None:
    gains = run.values(_GAIN)
    names = [name for name in gains if run.rows[name].get(kind) == value]
    spread = interval(run, _GAIN, names) if names else None
    if spread is None:
        return None
    mean = sum(gains[name] for name in names) / len(names)
    return {"mean": mean, "low": spread[0], "high": spread[1], "count": len(names)}


def _details(run: Run, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The parts that need the audio and the system; if these are not available, only the reason."""
    try:
        return _with_audio(run, on_progress)
    except UnmingleError as error:
        return {
            "worst": [],
            "best": [],
            "spectrograms": [],
            "embeddings": [],
            "missing": str(error).rstrip("."),
        }


def _with_audio(run: Run, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    if run.mixtures is None:
        raise UnmingleError(f"the mixtures are no longer in {run.summary['path']}.")
    listed = read_mixture_folder(run.mixtures, fewest=1 if run.candidate.counts else None)
    if list_hash(listed) != run.summary["list_sha256"]:
        raise UnmingleError(f"{run.summary['path']} holds other mixtures than the scored ones.")
    if run.candidate.command is not None:
        # A command from a results folder is not run: the folder may come from somebody else.
        raise UnmingleError("an external program is not run again for a report.")
    candidate = run.candidate.build()
    if candidate.details.get("sha256") != run.summary.get("sha256"):
        raise UnmingleError(f"{run.candidate.model} is not the model that was scored.")
    items = {item.name: item for item in listed}
    ranked = [
        name for name, _ in sorted(run.values(_GAIN).items(), key=lambda pair: pair[1]) if name in items
    ]
    if not ranked:
        raise UnmingleError("no mixture was scored.")
    half = min(_PLAYED, (len(ranked) + 1) // 2)
    worst, best = ranked[:half], ranked[-half:][::-1]
    shown = dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]])
    wanted = dict.fromkeys([*worst, *best, *shown])
    separated = {}
    for number, name in enumerate(wanted, start=1):
        separated[name] = _separated(candidate, items[name])
        on_progress(number, len(wanted))
    return {
        "worst": [_players(run, separated[name]) for name in worst],
        "best": [_players(run, separated[name]) for name in best if name not in worst],
        "spectrograms": [
            (title, name, run.values(_GAIN)[name], _spectrograms(separated[name]))
            for title, name in zip(("worst", "median", "best"), shown, strict=False)
        ],
        "embeddings": embedding_pictures(run.candidate, [items[name] for name in sorted(ranked)]),
        "missing": "",
    }


@dataclass(frozen=True)
class _Separated:
    """A mixture of the list, its sources and its estimates in their order."""

    name: str
    mixture: Samples
    sources: Samples
    estimates: Samples
    rate: int


def _separated(candidate: Candidate, item: MixtureItem) -> _Separated:
    mixture, sources, rate = read_item(item)
    estimates = fit_estimates(candidate.estimate(mixture, sources, rate).sources, sources)
    return _Separated(item.name, mixture, sources, estimates, rate)


def _players(run: Run, found: _Separated) -> dict[str, Any]:
    row = run.rows[found.name]
    gain = _LOUD / max(float(np.abs(found.mixture).max()), 1e-9)
    return {
        "name": found.name,
        "gain": float(row[_GAIN]),
        "groups": ", ".join(row[kind] for kind in run.summary["groups"] if row.get(kind)),
        "mixture": audio_uri(found.mixture, found.rate, gain),
        "estimates": [audio_uri(estimate, found.rate, gain) for estimate in found.estimates],
        "sources": [audio_uri(source, found.rate, gain) for source in found.sources],
    }


def _spectrograms(found: _Separated) -> str:
    mixture, sources, rate = found.mixture, found.sources, found.rate
    try:
        oracle = CandidateConfig(oracle="wfm").build().estimate(mixture, sources, rate).sources
    except UnmingleError:  # There is no oracle for one source without noise.
        oracle = sources
    return spectrogram_picture(mixture, sources, oracle, found.estimates, rate)
