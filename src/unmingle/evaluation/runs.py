"""What ``unmingle evaluate`` wrote, read back: for reports."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.summary import bootstrap_interval, talker_interval


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

    def talkers(self, name: str) -> list[str]:
        return [talker for talker in self.rows[name]["talkers"].split("|") if talker]


@dataclass(frozen=True)
class Difference:
    """Of two systems on the mixtures that both were scored on."""

    mean: float
    low: float
    high: float
    mixtures: int
    p_value: float

    @property
    def decided(self) -> bool:
        return self.low > 0 or self.high < 0


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Results, each under a label of its own.

    Raises:
        UnmingleError: a folder holds no results of ``unmingle evaluate``, or of an older one.
    """
    runs: list[Run] = []
    for folder in folders:
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
                rows = {row["name"]: row for row in csv.DictReader(file)}
            CandidateConfig.model_validate(summary["candidate"])
            complete = {"system", "path", "list_sha256", "metrics", "failures"} <= set(summary)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise UnmingleError(
                f"{folder} holds no results that can be read (scores.csv, summary.json); make them with "
                "`unmingle evaluate DIR -o FOLDER`."
            ) from error
        if not complete or not rows or "talkers" not in next(iter(rows.values())):
            raise UnmingleError(f"{folder} was written by an older unmingle; run `unmingle evaluate` again.")
        taken = {run.label for run in runs}
        label = summary["system"] if summary["system"] not in taken else folder.name
        while label in taken:
            label += "'"
        runs.append(Run(folder, summary, rows, label))
    return runs


def interval(run: Run, column: str) -> tuple[float, float] | None:
    """95 % interval of a column's mean; over talkers, where the list says who they are."""
    values = run.values(column)
    if not values:
        return None
    return _interval(list(values.values()), [run.talkers(name) for name in values])


def difference(run: Run, first: Run, column: str) -> Difference | None:
    """``run`` minus ``first``, mixture by mixture, with Wilcoxon's signed-rank test; None without common mixtures."""
    from scipy.stats import wilcoxon

    if run.summary["list_sha256"] != first.summary["list_sha256"]:
        return None
    ours, theirs = run.values(column), first.values(column)
    names = [name for name in ours if name in theirs]
    if not names:
        return None
    gains = [ours[name] - theirs[name] for name in names]
    low, high = _interval(gains, [run.talkers(name) for name in names])
    p_value = float(wilcoxon(gains).pvalue) if any(gains) else 1.0
    return Difference(sum(gains) / len(gains), low, high, len(gains), p_value)


def _interval(values: Sequence[float], talkers: Sequence[Sequence[str]]) -> tuple[float, float]:
    return talker_interval(values, talkers) if all(talkers) else bootstrap_interval(values)
