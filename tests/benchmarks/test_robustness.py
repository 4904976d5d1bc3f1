"""The robustness table: what perfect and useless estimates score."""

from __future__ import annotations

import runpy

import numpy as np
import pytest

from conftest import ROOT
from unmingle.audio import Samples

MODULE = runpy.run_path(str(ROOT / "benchmarks" / "robustness.py"), run_name="robustness")
CONDITIONS, SECONDS, scored = MODULE["CONDITIONS"], MODULE["SECONDS"], MODULE["scored"]
RATE = 8000


def _sources() -> Samples:
    """Two noises as long as the table's recordings."""
    sources: Samples = np.random.default_rng(0).standard_normal((2, round(SECONDS * RATE))).astype(np.float32)
    return 0.1 * sources


@pytest.mark.parametrize("condition", CONDITIONS)
def test_clean_sources_score_best_in_any_order(condition: str) -> None:
    mixture, references = CONDITIONS[condition](_sources(), RATE)
    assert mixture.shape == references.shape[1:]
    assert np.isfinite(mixture).all()
    assert condition == "two at once" or not np.array_equal(mixture, _sources().sum(axis=0))
    gained, score, leak = scored(references[::-1] + np.float32(0.3), references, mixture, RATE)
    assert score > 30
    assert np.isnan(gained) == (condition == "one speaker only")
    assert np.isnan(leak) or leak < -20
    assert np.isnan(gained) or gained > 20


def test_the_mixture_in_every_output_gains_nothing_and_leaks_all() -> None:
    mixture, references = CONDITIONS["overlap that comes and goes"](_sources(), RATE)
    gained, _, leak = scored(np.stack([mixture, mixture]), references, mixture, RATE)
    assert gained == pytest.approx(0.0, abs=0.01)
    assert leak == pytest.approx(0.0, abs=0.01)
