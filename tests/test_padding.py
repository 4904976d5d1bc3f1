"""What of a padded batch is real, and how many frames a length has."""

from __future__ import annotations

import torch

from unmingle.padding import frame_count, frame_counts, within
from unmingle.stft import Stft


def test_positions_before_the_end_are_within() -> None:
    inside = within(torch.tensor([0, 2, 5]), 4)
    assert inside.dtype == torch.bool
    for index, length in enumerate((0, 2, 5)):
        assert inside[index].tolist() == [position < length for position in range(4)]


def test_frames_are_those_of_the_spectrogram() -> None:
    stft = Stft(256, 64)
    lengths = torch.tensor([1, 63, 64, 65, 1000])
    frames = [stft.analyse(torch.zeros(int(length))).shape[0] for length in lengths]
    assert frame_counts(lengths, 64).tolist() == frames  # type: ignore[union-attr]
    assert [frame_count(int(length), 64) for length in lengths] == frames
    assert frame_counts(None, 64) is None
