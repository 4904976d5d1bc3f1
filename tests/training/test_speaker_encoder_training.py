"""Training the speaker encoder: its segments, objective and error rate, and a short run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.speaker_encoder import SpeakerEncoder, load_speaker_encoder
from unmingle.training.speaker_encoder import PrototypicalLoss, equal_error_rate, train_speaker_encoder
from unmingle.training.speaker_segments import SpeakerSegments


def test_the_loss_equals_a_slow_computation_and_has_gradients() -> None:
    torch.manual_seed(0)
    first, second = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss_of = PrototypicalLoss().double()
    found = loss_of(first, second)
    total = 0.0
    for own in range(5):
        rows = [float(torch.exp(10 * first[own] @ second[k] - 5).detach()) for k in range(5)]
        columns = [float(torch.exp(10 * first[k] @ second[own] - 5).detach()) for k in range(5)]
        total -= np.log(rows[own] / sum(rows)) + np.log(columns[own] / sum(columns))
    assert found.item() == pytest.approx(total / 10)
    assert torch.autograd.gradcheck(loss_of, (first, second))


def test_the_loss_is_least_for_speakers_that_are_far_apart() -> None:
    loss_of, same = PrototypicalLoss(), torch.eye(4)
    assert loss_of(same, same) < 0.01 < loss_of(same, same.roll(1, 0))


class FirstSampleAsVoice(SpeakerEncoder):
    """The embedding is the direction of the first two samples."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(audio[:, :2], dim=1)


def test_equal_error_rate_of_known_scores() -> None:
    """Four speakers in four directions; one of them is taken for its neighbour half of the time."""
    angles = np.deg2rad([0.0, 90.0, 180.0, 270.0])
    pairs = np.stack([np.stack([np.cos(angles), np.sin(angles)], axis=1)] * 2).astype(np.float32)
    encoder = FirstSampleAsVoice()
    assert equal_error_rate(encoder, pairs) == 0.0
    confused = pairs.copy()
    confused[1] = np.roll(confused[1], 1, axis=0)
    # All own scores are 0 and a third of the others 1: no threshold does well.
    assert equal_error_rate(encoder, confused) > 0.3


def _segments(corpus: Path, speakers: int) -> SpeakerSegments:
    utterances = read_corpora([str(corpus)], "train")
    return SpeakerSegments(utterances, decode(utterances, 8000), 8000, speakers)


def test_segments_are_drawn_by_seed_and_finite(crowd_corpus: Path) -> None:
    segments = _segments(crowd_corpus, 6)
    one, again, other = (segments.batch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    assert one.shape[:2] == (2, 6)
    assert 8000 <= one.shape[2] <= 20000
    assert np.isfinite(one).all()
    assert one.shape != other.shape or not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_a_corpus_with_few_speakers_has_as_many_voices_as_speeds(example_corpus: Path) -> None:
    utterances = read_corpora([str(example_corpus)], "train")
    speakers = len({utterance.speaker for utterance in utterances})
    assert _segments(example_corpus, 40).batch(np.random.default_rng(0)).shape[1] == 3 * speakers


def test_training_can_be_repeated(crowd_corpus: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        train_speaker_encoder([str(crowd_corpus)], file, steps=3, speakers=6)
    one, two = (load_speaker_encoder(path).state_dict() for path in files)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_lowers_the_loss(crowd_corpus: Path, tmp_path: Path) -> None:
    segments, rng = _segments(crowd_corpus, 6), np.random.default_rng(100)
    batches = [segments.batch(rng) for _ in range(8)]
    file = tmp_path / "encoder.safetensors"
    before = train_speaker_encoder([str(crowd_corpus)], file, steps=1, speakers=6)
    after = train_speaker_encoder([str(crowd_corpus)], file, steps=60, speakers=6)
    loss_of = PrototypicalLoss()
    with torch.no_grad():
        losses = [
            np.mean([float(loss_of(*(encoder(torch.from_numpy(side)) for side in each))) for each in batches])
            for encoder in (before, after)
        ]
    assert losses[1] < losses[0] - 0.1
    assert load_speaker_encoder(file).config == after.config


def test_a_missing_corpus_is_one_sentence(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "none"), "-o", str(tmp_path / "e.safetensors")]
    run = subprocess.run(
        [sys.executable, "-m", "unmingle.training.speaker_encoder", *arguments],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "e.safetensors").exists()
