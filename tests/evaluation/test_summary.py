"""Summaries of the scores of many mixtures, and their confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest

from unmingle.evaluation.summary import (
    MixtureScores,
    bootstrap_interval,
    speaker_interval,
    summarize,
)


def test_summary_counts_mixtures_made_worse_and_splits_by_group() -> None:
    gains = [(3.0, 1.0), (-2.0, 1.0), (5.0, None), (2.0, 2.0)]
    scores = [
        MixtureScores(
            str(k),
            1.0,
            {"genders": "same" if k < 2 else "different"},
            {"si_sdr": list(pair), "si_sdr_improvement": list(pair)},
        )
        for k, pair in enumerate(gains)
    ]
    summary = summarize(scores)
    assert summary["metrics"]["si_sdr_improvement"]["mean"] == pytest.approx((2.0 - 0.5 + 2.0) / 3)
    assert summary["metrics"]["si_sdr_improvement"]["count"] == 3
    assert summary["made_worse"]["mixtures"] == pytest.approx(1 / 3)
    assert summary["made_worse"]["speakers"] == pytest.approx(1 / 7)
    assert summary["groups"]["genders"]["same"]["metrics"]["si_sdr"]["mean"] == pytest.approx(0.75)


def test_bootstrap_interval_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values.tolist())
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.05)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.05)


def test_the_interval_over_speakers_is_wider_with_few_speakers() -> None:
    rng = np.random.default_rng(0)
    of_speaker = dict(zip("abcdef", rng.normal(0, 3, 6), strict=True))
    pairs = [tuple(rng.choice(list("abcdef"), 2, replace=False)) for _ in range(300)]
    values = [of_speaker[a] + of_speaker[b] + rng.normal(0, 0.5) for a, b in pairs]
    narrow, wide = bootstrap_interval(values), speaker_interval(values, pairs)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    # If the same two speakers are in all mixtures, drawing speakers changes nothing: the mixtures' interval stays.
    assert speaker_interval(values, [("a", "b")] * 300) == narrow
    # If no speaker is in two mixtures, both intervals are the same.
    alone = rng.normal(1.0, 2.0, 300).tolist()
    assert speaker_interval(alone, [(f"{k}a", f"{k}b") for k in range(300)]) == bootstrap_interval(alone)
