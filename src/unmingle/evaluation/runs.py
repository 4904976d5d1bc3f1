"""Read the results of ``unmingle evaluate`` for reports."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unmingle.data.tables import read_table
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.metric_registry import METRICS
from unmingle.evaluation.summary import (
    SummaryFile,
    bootstrap_interval,
    bootstrap_means,
    speaker_interval,
    speaker_means,
)

_METRIC = re.compile(rf"({'|'.join(METRICS)})(_improvement)?(_\d+)?$")


@dataclass(frozen=True)
class Run:
    """One system's scores on one folder of mixtures."""

    folder: Path
    summary: dict[str, Any]
    rows: dict[str, dict[str, str]]
    """Rows of ``scores.csv`` by mixture."""
    label: str

    @property
    def candidate(self) -> CandidateConfig:
        return CandidateConfig.model_validate(self.summary["candidate"])

    @property
    def mixtures(self) -> Path | None:
        """The folder that was scored, if it is still there."""
        path = Path(self.summary["path"])
        return path if path.is_dir() else None

    def values(self, column: str) -> dict[str, float]:
        """A column of ``scores.csv`` by mixture, where it is defined."""
        return {name: float(row[column]) for name, row in self.rows.items() if row.get(column)}

    def speakers(self, name: str) -> list[str]:
        return [
            speaker for speaker in self.rows[name]["speakers"].split("|") if speaker not in ("", "unknown")
        ]


@dataclass(frozen=True)
class Difference:
    """Difference between two systems on the mixtures that both were scored on."""

    mean: float
    low: float
    high: float
    mixtures: int
    p_value: float
    """Two-sided bootstrap p-value: twice the share of resampled means on the other side of 0."""

    @property
    def decided(self) -> bool:
        return self.low > 0 or self.high < 0


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Results of several folders, each with a unique label.

    Raises:
        UnmingleError: a folder holds no results of ``unmingle evaluate``, or results of an older version.
    """
    runs: list[Run] = []
    for folder in folders:
        summary = _read_summary(folder)
        columns, table = read_table(folder / "scores.csv")
        if not {"name", "speakers"} <= set(columns) or not table:
            raise _older(folder)
        rows = {row["name"]: row for row in table}
        _check_scores(folder, columns, rows)
        taken = {run.label for run in runs}
        # The name of an external program (`python`) says little, so the folder's name is the label.
        own = summary["system"] if CandidateConfig(**summary["candidate"]).command is None else folder.name
        label = own if own not in taken else folder.resolve().name
        while label in taken:
            label += "'"
        runs.append(Run(folder, summary, rows, label))
    return runs


def _read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json``, checked against :class:`SummaryFile`, with its defaults filled in."""
    path = folder / "summary.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnmingleError(
            f"{folder} holds no results that can be read (scores.csv, summary.json); create them with "
            "`unmingle evaluate DIR -o FOLDER`."
        ) from error
    try:
        return {**values, **SummaryFile.model_validate(values).model_dump(exclude_none=True)}
    except (ValidationError, RecursionError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise _older(folder) from error
        first = error.errors()[0]
        if first["type"] == "missing":
            raise _older(folder) from error
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise UnmingleError(
            f"{path} has a bad value at {place!r} ({first['msg']}); run `unmingle evaluate` again."
        ) from error


def _older(folder: Path) -> UnmingleError:
    return UnmingleError(f"{folder} was written by an older unmingle; run `unmingle evaluate` again.")


def _check_scores(folder: Path, columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> None:
    """Every cell of a metric is empty or a finite number."""
    numeric = [name for name in columns if _METRIC.match(name)]
    for name, row in rows.items():
        for column in numeric:
            try:
                good = not row[column] or math.isfinite(float(row[column]))
            except ValueError:
                good = False
            if not good:
                raise UnmingleError(
                    f"{folder / 'scores.csv'} has {row[column][:40]!r} for {column} of {name} instead of a number; "
                    "run `unmingle evaluate` again."
                )


def interval(run: Run, column: str, names: Sequence[str] | None = None) -> tuple[float, float] | None:
    """95 % interval of a column's mean over all mixtures, or over ``names``.

    Speakers are resampled too if the list names them.
    """
    values = run.values(column)
    names = [name for name in (names or values) if name in values]
    if not names:
        return None
    return _interval([values[name] for name in names], [run.speakers(name) for name in names])


def difference(run: Run, first: Run, column: str) -> Difference | None:
    """``run`` minus ``first``, mixture by mixture; None if they were not scored on the same list."""
    if run.summary["list_sha256"] != first.summary["list_sha256"]:
        return None
    ours, theirs = run.values(column), first.values(column)
    names = [name for name in ours if name in theirs]
    if not names:
        return None
    gains, speakers = [ours[name] - theirs[name] for name in names], [run.speakers(name) for name in names]
    low, high = _interval(gains, speakers)
    drawn = [bootstrap_means(gains)]
    if all(speakers) and (over_speakers := speaker_means(gains, speakers)) is not None:
        drawn.append(over_speakers)
    # The larger p-value of the two bootstraps, as the interval covers both intervals.
    p_value = max(2 * min((means <= 0).mean(), (means >= 0).mean()) for means in drawn)
    return Difference(sum(gains) / len(gains), low, high, len(gains), min(1.0, float(p_value)))


def _interval(values: Sequence[float], speakers: Sequence[Sequence[str]]) -> tuple[float, float]:
    return speaker_interval(values, speakers) if all(speakers) else bootstrap_interval(values)
