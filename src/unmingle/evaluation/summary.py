"""Summary of a list of scores: means with intervals, share of mixtures made worse, and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.words import WordErrors, summarize_words

_RESAMPLES = 2000
_WORSE_DB = 0.01
"""A smaller loss is rounding."""


Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class _Stored(BaseModel):
    """A part of ``summary.json``. Additional keys are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)


class Statistics(_Stored):
    """Statistics of one metric."""

    mean: Finite
    median: Finite
    low_95: Finite
    high_95: Finite
    count: Count


class Group(_Stored):
    """Statistics of a group of mixtures."""

    mixtures: Count
    metrics: dict[str, Statistics]


class Worse(_Stored):
    """Shares of mixtures and speakers made worse."""

    mixtures: Finite
    speakers: Finite


class Failures(_Stored):
    """Mixtures without scores."""

    count: Count
    names: list[str]
    reasons: dict[str, Count]


class Words(_Stored):
    """Word error rates."""

    rates: dict[str, Finite]
    words: Count
    speakers: Count
    recognizer: str


class SummaryFile(_Stored):
    """``summary.json`` as ``unmingle evaluate`` writes it, and as reports read it."""

    system: str
    candidate: CandidateConfig
    path: str
    folder: str
    list_sha256: str
    mixtures: Count
    metrics: dict[str, Statistics]
    groups: dict[str, dict[str, Group]]
    made_worse: Worse
    failures: Failures
    notes: dict[str, Count]
    words: Words | None = None
    seconds: Finite
    real_time_factor: Finite | None
    peak_mib: Finite
    date: str
    version: str
    machine: str
    sha256: str | None = None


@dataclass(frozen=True)
class Counting:
    """Number of speakers in one mixture, true and as counted by a candidate."""

    true: int
    """References that are not silent."""
    found: int
    confidence: float

    @property
    def outcome(self) -> str:
        """``right``, ``too few`` or ``too many``."""
        if self.found == self.true:
            return "right"
        return "too few" if self.found < self.true else "too many"


@dataclass(frozen=True)
class MixtureScores:
    """The scores of one mixture."""

    name: str
    seconds: float
    groups: Mapping[str, str]
    """For example ``{"genders": "same", "corpora": "a + b"}``."""
    values: Mapping[str, Sequence[float | None]]
    """Metric to one value per speaker; None where it is not defined. Empty if the candidate failed."""
    speakers: tuple[str, ...] = ()
    """Names of the speakers, where known."""
    notes: tuple[str, ...] = ()
    """Problems that were corrected or tolerated."""
    failure: str = ""
    """Why there are no values."""
    counted: Counting | None = None
    """None if the candidate was given the number of speakers."""
    words: tuple[WordErrors | None, ...] = ()
    """Of each speaker; None where the text is not known."""

    def mean(self, metric: str) -> float | None:
        """Mean over speakers, or None if the metric is not defined for one of them."""
        values = self.values.get(metric, [None])
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if len(defined) == len(values) else None


def summarize(scores: Sequence[MixtureScores]) -> dict[str, Any]:
    """Statistics over all mixtures and over each group. Failed mixtures are in no mean."""
    summary: dict[str, Any] = {"mixtures": len(scores), "metrics": _statistics(scores)}
    kinds = sorted({kind for score in scores for kind in score.groups})
    summary["groups"] = {
        kind: {
            value: {"mixtures": len(members), "metrics": _statistics(members)}
            for value in sorted({score.groups.get(kind, "unknown") for score in scores})
            if (members := [score for score in scores if score.groups.get(kind, "unknown") == value])
        }
        for kind in kinds
    }
    summary["made_worse"] = {
        "mixtures": _share(score.mean("si_sdr_improvement") for score in scores),
        "speakers": _share(value for score in scores for value in score.values.get("si_sdr_improvement", ())),
        "meaning": f"share that lost more than {_WORSE_DB} dB of SI-SDR: of mixtures (means), of speakers",
    }
    summary["failures"] = {
        "count": sum(bool(score.failure) for score in scores),
        "names": [score.name for score in scores if score.failure],
        "reasons": dict(Counter(score.failure for score in scores if score.failure)),
    }
    if counted := [score.counted for score in scores if score.counted is not None]:
        summary["counting"] = _counting(counted)
    summary["notes"] = dict(Counter(note for score in scores for note in score.notes))
    if words := [speaker for score in scores for speaker in score.words if speaker is not None]:
        summary["words"] = summarize_words(words)
    return summary


def _counting(counted: Sequence[Counting]) -> dict[str, Any]:
    """The confusion matrix of true and counted numbers of speakers, and how many counts are right."""
    numbers = range(1, max(max(each.true, each.found) for each in counted) + 1)
    confusion = {
        str(true): {
            str(found): sum(each.true == true and each.found == found for each in counted)
            for found in numbers
        }
        for true in sorted({each.true for each in counted})
    }
    return {
        "confusion": confusion,
        "right": sum(each.outcome == "right" for each in counted),
        "mixtures": len(counted),
        "meaning": "rows: true number of speakers, columns: counted number. A missing estimate is scored as silence; "
        "of too many estimates, the best fitting are scored",
    }


def _statistics(scores: Sequence[MixtureScores]) -> dict[str, dict[str, float]]:
    statistics = {}
    for metric in next((score.values for score in scores if score.values), {}):
        means = [value for score in scores if (value := score.mean(metric)) is not None]
        if means:
            low, high = bootstrap_interval(means)
            statistics[metric] = {
                "mean": float(np.mean(means)),
                "median": float(np.median(means)),
                "low_95": low,
                "high_95": high,
                "count": len(means),
            }
    return statistics


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean; mixtures are drawn with replacement."""
    return _percentiles(bootstrap_means(values, seed))


def bootstrap_means(values: Sequence[float], seed: int = 0) -> NDArray[np.float64]:
    """Means of ``values`` drawn with replacement, 2,000 times."""
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), (_RESAMPLES, len(array)))
    means: NDArray[np.float64] = array[picks].mean(axis=1)
    return means


def speaker_means(
    values: Sequence[float], speakers: Sequence[Sequence[str]], seed: int = 0
) -> NDArray[np.float64] | None:
    """Means over mixtures whose speakers are drawn with replacement; None if no speaker is in two mixtures.

    The weight of a mixture is the product of its speakers' counts.

    Args:
        values: one per mixture.
        speakers: names of the speakers of each mixture, at least one each.
    """
    names = sorted({name for each in speakers for name in each})
    if len(names) == sum(map(len, speakers)):
        return None
    counts = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), _RESAMPLES
    )
    place = {name: index for index, name in enumerate(names)}
    weights = np.ones((_RESAMPLES, len(values)))
    for column, each in enumerate(speakers):
        for name in each:
            weights[:, column] *= counts[:, place[name]]
    total = weights.sum(axis=1)
    means: NDArray[np.float64] = (weights @ np.asarray(values, dtype=np.float64))[total > 0] / total[
        total > 0
    ]
    return means


def speaker_interval(values: Sequence[float], speakers: Sequence[Sequence[str]]) -> tuple[float, float]:
    """95 % interval of the mean: the hull of the interval over mixtures and the interval over speakers.

    If few speakers occur in many mixtures, the interval over speakers is the wider one. No bootstrap of crossed
    factors is exact (McCullagh 2000). With fewer than ten speakers the interval is too narrow.
    """
    low, high = bootstrap_interval(values)
    means = speaker_means(values, speakers)
    if means is None:
        return low, high
    below, above = _percentiles(means)
    return min(low, below), max(high, above)


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _share(values: Iterable[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(value < -_WORSE_DB for value in defined) / len(defined) if defined else 0.0
