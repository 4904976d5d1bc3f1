"""Tests of generalization for any system on any corpus: ``unmingle stress``."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmingle import __version__
from unmingle.audio import Samples, replace_files
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise, state_of
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import Candidate, CandidateConfig
from unmingle.evaluation.external import EstimateError
from unmingle.evaluation.processes import ordered_map
from unmingle.evaluation.report_figures import spectrogram_picture
from unmingle.evaluation.scores import fit_estimates
from unmingle.evaluation.stress_cases import Case, Material
from unmingle.evaluation.stress_page import stress_page
from unmingle.evaluation.stress_tests import STRESS_TESTS, StressTest, lacking
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.metrics import si_sdr
from unmingle.shares import Parts, Share

WINDOW_SECONDS = 3.0
_STEP_SECONDS = 0.5
_LEAST_DB = -60.0
"""Lower limit of the level of an output that should be silent."""


@dataclass(frozen=True)
class _Job:
    test: int
    condition: int
    index: int


@dataclass
class _Worker:
    material: Material
    config: CandidateConfig
    _built: Candidate | None = field(default=None, repr=False)

    def run(self, job: _Job) -> dict[str, Any]:
        if self._built is None:
            self._built = self.config.build()
        test = STRESS_TESTS[job.test]
        case = test.conditions(self.material)[job.condition].make(self.material, job.index)
        try:
            estimates = self._built.estimate(
                case.mixture, _requested_references(case), case.sample_rate
            ).sources
        except EstimateError as error:
            return {"failure": str(error)}
        return measure(test, case, estimates)


def _requested_references(case: Case) -> Samples:
    """One reference per requested output; missing ones are silence."""
    references = case.references[: case.outputs]
    lacking = case.outputs - len(references)
    return np.concatenate([references, np.zeros((lacking, references.shape[1]), dtype=np.float32)])


def measure(test: StressTest, case: Case, estimates: Samples) -> dict[str, Any]:
    if test.score == "single_speaker":
        return measure_single_speaker(case, estimates)
    references = case.references
    if len(references) > case.outputs:
        # Score the speakers that fit the outputs best.
        references = max(
            (references[list(picked)] for picked in permutations(range(len(references)), case.outputs)),
            key=lambda chosen: _scores(fit_estimates(estimates, chosen), chosen).mean(),
        )
    ordered = fit_estimates(estimates, references)
    unchanged = np.broadcast_to(case.mixture, references.shape)
    gains = _scores(ordered, references) - _scores(unchanged, references)
    result: dict[str, Any] = {"value": float(gains.mean())}
    if test.score == "windows":
        result["windows"] = windowed_scores(ordered, references, case.sample_rate)
    return result


def _scores(estimates: Samples, references: Samples) -> np.ndarray:
    values: np.ndarray = si_sdr(
        torch.from_numpy(np.array(estimates)), torch.from_numpy(np.array(references))
    ).numpy()
    return values


def windowed_scores(
    estimates: Samples, references: Samples, sample_rate: int
) -> list[tuple[float, float | None]]:
    """SI-SDR in windows of 3 s, each with its start in seconds; None where a speaker is silent."""
    size, step = round(WINDOW_SECONDS * sample_rate), round(_STEP_SECONDS * sample_rate)
    curve: list[tuple[float, float | None]] = []
    for first in range(0, references.shape[1] - size + 1, step):
        part = slice(first, first + size)
        energy = np.square(references[:, part]).mean(axis=1)
        # A speaker who pauses for the whole window has no SI-SDR there.
        audible = bool((energy > 1e-4 * np.square(references).mean(axis=1)).all())
        value = float(_scores(estimates[:, part], references[:, part]).mean())
        curve.append((first / sample_rate, value if audible else None))
    return curve


def measure_single_speaker(case: Case, estimates: Samples) -> dict[str, Any]:
    """SI-SDR of the loudest output against the speaker, and level of the other outputs relative to it in dB."""
    levels = np.sqrt(np.square(estimates, dtype=np.float64).mean(axis=1))
    loudest = int(levels.argmax())
    rest = float(np.sqrt(np.square(np.delete(levels, loudest)).sum()))
    leak = 20 * np.log10(max(rest, 1e-12) / max(float(levels[loudest]), 1e-12))
    kept = _scores(estimates[loudest : loudest + 1], case.references[:1])
    return {"value": float(kept[0]), "leak_db": max(float(leak), _LEAST_DB)}


def pick_tests(names: Sequence[str], material: Material) -> tuple[list[int], dict[str, str]]:
    """Indices in :data:`STRESS_TESTS` of the named tests (default: all), and the reasons why others are left out.

    Raises:
        UnmingleError: a named test is unknown or cannot be run.
    """
    known = [test.name for test in STRESS_TESTS]
    for name in names:
        if name not in known:
            raise UnmingleError(f"There is no stress test {name!r}; choose from {', '.join(known)}.")
    wanted = [place for place, name in enumerate(known) if not names or name in names]
    reasons = {place: lacking(STRESS_TESTS[place], material) for place in wanted}
    left_out = {known[place]: reason for place, reason in reasons.items() if reason is not None}
    if names and left_out:
        name, reason = next(iter(left_out.items()))
        raise UnmingleError(f"The test {name} cannot be run: {reason}.")
    return [place for place in wanted if reasons[place] is None], left_out


def stress(
    corpora: Sequence[str],
    config: CandidateConfig,
    output: Path,
    *,
    noise: Sequence[str] = (),
    tests: Sequence[str] = (),
    split: str | None = None,
    count: int = 20,
    sample_rate: int = 8000,
    seed: int = 0,
    processes: int = 1,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    share: Share | None = None,
) -> dict[str, Any]:
    """Run tests, write ``stress.json`` and ``stress.html`` into ``output``, and return the content of the JSON file.

    Args:
        corpora: manifests or folders of speech, see :mod:`unmingle.data.corpora`.
        config: the system.
        output: a folder.
        noise: manifests or folders of noise.
        tests: names of :data:`~unmingle.evaluation.stress_tests.STRESS_TESTS` (default: all that can be run).
        split: of the corpora.
        count: cases per condition; long conditions have fewer.
        sample_rate: of the cases, in hertz.
        seed: of the cases.
        processes: number of worker processes.
        threads: of each process.
        on_progress: called with the number of finished cases and the total.
        share: do only these cases, and those of them that are not in ``output/parts`` yet. The call that finds
            all cases done writes the results.

    Returns:
        What ``stress.json`` holds; empty while cases of other shares are missing.

    Raises:
        UnmingleError: the data or the candidate cannot be used, or a test is unknown.
    """
    utterances = read_corpora(corpora, split)
    recordings = read_noise(noise, split) if noise else []
    candidate = config.build()
    material = Material(
        utterances,
        decode(utterances, sample_rate),
        sample_rate,
        seed,
        recordings,
        decode(recordings, sample_rate) if recordings else None,
    )
    places, left_out = pick_tests(tests, material)
    jobs = [
        _Job(place, number, index)
        for place in places
        for number in range(len(STRESS_TESTS[place].conditions(material)))
        for index in range(max(1, round(count * STRESS_TESTS[place].share)))
    ]
    run = partial(_run_jobs, _Worker(material, config), processes, threads, on_progress)
    if share is None:
        results = list(run(jobs))
    else:
        plan = [
            config.model_dump(mode="json"),
            candidate.details,
            tests,
            count,
            sample_rate,
            seed,
            __version__,
        ]
        audio = [
            [os.fsdecode(each.path), each.speaker, state_of(each)[0]] for each in [*utterances, *recordings]
        ]
        parts = Parts(output / "parts", len(jobs))
        parts.begin([*plan, audio])
        missing = parts.missing(share)
        for unit, result in zip(missing, run([jobs[unit] for unit in missing]), strict=True):
            parts.write(unit, result)
        if (done := parts.read()) is None:
            return {}
        results = done
    answers = dict(zip(jobs, results, strict=True))
    found = {
        "system": candidate.name,
        "candidate": config.model_dump(exclude_defaults=True),
        **candidate.details,
        "tests": [_summary(place, material, answers) for place in places],
        "left_out": left_out,
        "corpora": sorted({utterance.corpus for utterance in utterances}),
        "noise": sorted({recording.corpus for recording in recordings}),
        "split": split,
        "count": count,
        "sample_rate": sample_rate,
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
    }
    replace_files(
        [
            (output / "stress.json", json.dumps(found, indent=2).encode()),
            (output / "stress.html", stress_page(found, _spectrograms(places, material, candidate)).encode()),
        ]
    )
    return found


def _run_jobs(
    worker: _Worker,
    processes: int,
    threads: int | None,
    on_progress: Callable[[int, int], None] | None,
    jobs: Sequence[_Job],
) -> Iterator[dict[str, Any]]:
    with ordered_map(worker.run, jobs, processes, threads) as results:
        for done, result in enumerate(results, start=1):
            yield result
            if on_progress:
                on_progress(done, len(jobs))


def _spectrograms(places: Sequence[int], material: Material, candidate: Candidate) -> dict[str, str]:
    """Spectrograms of the first case of the last condition, for tests that show them (Mobin et al. 2018, Fig. 7)."""
    pictures = {}
    for test in (STRESS_TESTS[place] for place in places):
        if not test.spectrogram:
            continue
        case = test.conditions(material)[-1].make(material, 0)
        with suppress(EstimateError):
            estimates = candidate.estimate(
                case.mixture, _requested_references(case), case.sample_rate
            ).sources
            ordered = fit_estimates(estimates, case.references)
            pictures[test.name] = spectrogram_picture(
                case.mixture, case.references, None, ordered, case.sample_rate
            )
    return pictures


def _summary(place: int, material: Material, answers: dict[_Job, dict[str, Any]]) -> dict[str, Any]:
    test = STRESS_TESTS[place]
    conditions = []
    for number, condition in enumerate(test.conditions(material)):
        results = [result for job, result in answers.items() if (job.test, job.condition) == (place, number)]
        values = [result["value"] for result in results if "value" in result]
        point: dict[str, Any] = {
            "label": condition.label,
            "x": condition.x,
            "series": condition.series,
            "cases": len(results),
            "failures": [result["failure"] for result in results if "failure" in result],
        }
        if values:
            low, high = bootstrap_interval(values)
            point |= {"mean": float(np.mean(values)), "low_95": low, "high_95": high, "values": values}
            point["made_worse"] = sum(value < 0 for value in values) / len(values)
        if leaks := [result["leak_db"] for result in results if "leak_db" in result]:
            point["leak_db"] = float(np.median(leaks))
        if curves := [result["windows"] for result in results if "windows" in result]:
            point["windows"] = _mean_curve(curves)
        conditions.append(point)
    return {
        "name": test.name,
        "title": test.title,
        "what": test.what,
        "x_label": test.x_label,
        "score": test.score,
        "conditions": conditions,
    }


def _mean_curve(curves: Sequence[Sequence[tuple[float, float | None]]]) -> list[tuple[float, float]]:
    points = []
    for column in zip(*curves, strict=False):
        values = [value for _, value in column if value is not None]
        if values:
            points.append((column[0][0], float(np.mean(values))))
    return points
