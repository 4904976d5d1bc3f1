"""What a list of scores says: means with intervals, the share made worse, and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class MixtureScores:
    """The scores of one mixture."""

    name: str
    seconds: float
    groups: Mapping[str, str]
    """For example ``{"genders": "same", "corpora": "a + b"}``."""
    values: Mapping[str, Sequence[float | None]]
    """Metric to one value a talker; None where it is not defined."""

    def mean(self, metric: str) -> float | None:
        """Mean over talkers, or None if the metric is not defined for one of them."""
        values = self.values[metric]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if len(defined) == len(values) else None


def summarize(scores: Sequence[MixtureScores]) -> dict[str, Any]:
    """Statistics over all mixtures, and over those of each group."""
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
        "talkers": _share(value for score in scores for value in score.values["si_sdr_improvement"]),
        "meaning": "share with a negative SI-SDR improvement: of mixtures (mean over talkers), of talkers",
    }
    return summary


def _statistics(scores: Sequence[MixtureScores]) -> dict[str, dict[str, float]]:
    statistics = {}
    for metric in scores[0].values:
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
    """95 % percentile-bootstrap interval of the mean, mixtures drawn with replacement."""
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _share(values: Iterable[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(value < 0 for value in defined) / len(defined) if defined else 0.0
