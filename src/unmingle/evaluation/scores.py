"""Scores of the estimates of one mixture, one per speaker, in the order of the references.

The permutation of estimates is the one with the best mean SI-SDR; every other metric uses it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from unmingle.audio import Samples
from unmingle.evaluation.metric_registry import METRICS
from unmingle.metrics import LIMIT_DB, si_sdr
from unmingle.permutation import pairwise_si_sdr


def fit_estimates(estimates: Samples, references: Samples) -> Samples:
    """Estimates ``(sources, samples)`` in the order of the references, by the best mean SI-SDR.

    Of too many estimates, the best fitting are taken. Missing estimates are silence.
    """
    if len(estimates) < len(references):
        lacking = len(references) - len(estimates)
        estimates = np.concatenate([estimates, np.zeros((lacking, estimates.shape[1]), dtype=np.float32)])
    pairwise = pairwise_si_sdr(_tensor(estimates).unsqueeze(0), _tensor(references).unsqueeze(0))[0].numpy()
    # Of rectangular matrices, too; the rows are in order.
    _, order = linear_sum_assignment(pairwise, maximize=True)
    ordered: Samples = estimates[order]
    return ordered


def score_mixture(
    mixture: Samples, references: Samples, estimates: Samples, sample_rate: int, metrics: Sequence[str]
) -> dict[str, list[float | None]]:
    """Every metric and its improvement over the mixture (``..._improvement``), one value per speaker.

    Args:
        mixture: ``(samples,)``.
        references: ``(sources, samples)``.
        estimates: ``(estimates, samples)``, in any order, see :func:`fit_estimates`.
        sample_rate: in hertz.
        metrics: names of :data:`~unmingle.evaluation.metric_registry.METRICS`.

    Returns:
        Lists in the order of the references. None where a metric is not defined: for a silent
        reference, and where PESQ finds no speech. A silent estimate scores -100 dB. An improvement is also None where
        the mixture is the reference, so that nothing can be improved.

    Raises:
        ValueError: an estimate is not finite.
    """
    if not np.isfinite(estimates).all():
        raise ValueError("an estimate is not finite")
    ordered = fit_estimates(estimates, references)
    unchanged = np.broadcast_to(mixture, references.shape)
    silent = [_is_silent(reference) for reference in references]
    given = si_sdr(_tensor(unchanged), _tensor(references)) >= LIMIT_DB
    scores: dict[str, list[float | None]] = {}
    for name in metrics:
        metric = METRICS[name]
        after = metric.compute(references, ordered, sample_rate)
        before = (
            metric.compute(references, unchanged, sample_rate) if metric.improves else [math.nan] * len(after)
        )
        scores[name] = [None if mute else _finite(value) for value, mute in zip(after, silent, strict=True)]
        scores[f"{name}_improvement"] = [
            None if value is None or clean or _finite(start) is None else value - start
            for value, start, clean in zip(scores[name], before, given.tolist(), strict=True)
        ]
    return scores


def why_undefined(
    scores: dict[str, list[float | None]], references: Samples, sample_rate: int
) -> tuple[str, ...]:
    """Why metrics have empty cells; each reason once."""
    reasons = []
    for name in (name for name in scores if name in METRICS):
        for value, reference in zip(scores[name], references, strict=True):
            if value is None and _is_silent(reference):
                reasons.append("a silent reference")
            elif value is None:
                reasons.append(METRICS[name].why_undefined(name, references, sample_rate))
    return tuple(dict.fromkeys(reasons))


def _is_silent(reference: Samples) -> bool:
    # A constant offset is not sound.
    return float(np.square(reference - reference.mean()).sum()) < 1e-10


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tensor(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(np.array(samples))  # A copy, because a broadcast array is read-only.
