"""Scores of conversations, on signals whose scores are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unmingle.evaluation.conversation_scores import leakage, speaking_alone, wrong_speaker_share

RATE = 8000


def _turns() -> np.ndarray:
    """Speaker 1 in the seconds 0 to 2, speaker 2 from 2 to 4, both from 4 to 5."""
    noise = np.random.default_rng(0).standard_normal((2, 5 * RATE)).astype(np.float32)
    noise[0, 2 * RATE : 4 * RATE] = 0
    noise[1, : 2 * RATE] = 0
    return noise


def test_only_frames_of_one_speaker_count() -> None:
    alone = speaking_alone(_turns(), RATE)
    seconds = np.arange(250) / 50
    np.testing.assert_array_equal(alone[0], seconds < 2)
    np.testing.assert_array_equal(alone[1], (seconds >= 2) & (seconds < 4))


def test_the_wrong_share_counts_frames_in_the_wrong_file() -> None:
    references = _turns()
    assert wrong_speaker_share(references, references, RATE) == 0.0
    assert wrong_speaker_share(references[::-1].copy(), references, RATE) == 1.0
    swapped = references.copy()
    swapped[:, RATE : 2 * RATE] = references[::-1, RATE : 2 * RATE]  # One of four seconds.
    assert wrong_speaker_share(swapped, references, RATE) == 0.25
    # What happens in overlap does not count.
    swapped[:, 4 * RATE :] = 0
    assert wrong_speaker_share(swapped, references, RATE) == 0.25


def test_leakage_is_the_level_of_the_others() -> None:
    references = _turns()
    estimates = references + np.float32(0.1) * references[::-1]
    assert leakage(estimates, references, RATE) == pytest.approx(-20.0, abs=0.05)
    assert leakage(references, references, RATE) == -60.0


def test_without_single_speaker_frames_there_is_no_score() -> None:
    references = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    assert math.isnan(wrong_speaker_share(references, references, RATE))
    assert math.isnan(leakage(references, references, RATE))
