"""The offset of a stream, against a slow loop; and what it does to masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_system
from unmingle.separation.offset import CORNER_HERTZ, OffsetTracker
from unmingle.separation.stream import SeparationStream

RATE = 8000


@settings(max_examples=25, deadline=None)
@given(blocks=st.lists(st.integers(0, 700), min_size=1, max_size=8))
def test_the_offset_is_two_low_passes_of_first_order_whatever_the_blocks(blocks: list[int]) -> None:
    audio = np.random.default_rng(0).standard_normal(sum(blocks)).astype(np.float32)
    keep = math.exp(-2 * math.pi * CORNER_HERTZ / RATE)
    first = second = float(audio[0]) if len(audio) else 0.0
    expected = []
    for sample in audio:
        first = keep * first + (1 - keep) * float(sample)
        second = keep * second + (1 - keep) * first
        expected.append(second)
    tracker, start, found = OffsetTracker(RATE), 0, []
    for size in blocks:
        found.append(tracker.push(audio[start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


@pytest.mark.parametrize(("hertz", "decibels"), [(50.0, -40.0), (80.0, -48.0)])
def test_what_is_no_offset_stays_out_of_it(hertz: float, decibels: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE).astype(np.float32)
    left = OffsetTracker(RATE).push(tone)[2 * RATE :]
    assert 20 * np.log10(np.abs(left).max()) == pytest.approx(decibels, abs=0.5)


def test_a_constant_offset_changes_no_mask_of_a_separator() -> None:
    """It comes out in equal shares, from the first sample on."""
    audio = (0.1 * np.random.default_rng(0).standard_normal(2 * RATE)).astype(np.float32)
    made = []
    for offset in (0.0, 0.3):
        stream = SeparationStream(tiny_system(), RATE, 2, 0.5, 1.0)
        made.append(np.concatenate([stream.push(audio + np.float32(offset)), stream.flush()], axis=1))
    np.testing.assert_allclose(made[1], made[0] + 0.15, atol=2e-5)
