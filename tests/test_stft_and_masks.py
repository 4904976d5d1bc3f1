from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmingle.masks import (
    apply_masks,
    hard_masks,
    ideal_binary_mask,
    ideal_ratio_mask,
    loudest_masks,
    phase_sensitive_mask,
    root_ideal_ratio_mask,
    softmax_masks_with_rest,
    wiener_filter_mask,
)
from unmingle.stft import Stft


@pytest.mark.parametrize(
    ("length", "hop", "window"), [(256, 64, "sqrt_hann"), (256, 128, "sqrt_hann"), (256, 64, "hann")]
)
def test_synthesis_inverts_analysis(length: int, hop: int, window: str) -> None:
    stft = Stft(length, hop, window)  # type: ignore[arg-type]
    audio = torch.randn(2, 3, 1001)
    torch.testing.assert_close(stft.synthesise(stft.analyse(audio), 1001), audio, atol=1e-5, rtol=0)


@given(st.integers(1, 700))
def test_every_length_comes_back_even_shorter_than_a_hop(samples: int) -> None:
    # In double precision: a sample at the end of a single window is divided by a small number.
    stft = Stft(256, 128).double()
    audio = torch.randn(1, samples, dtype=torch.float64)
    spectrum = stft.analyse(audio)
    assert spectrum.shape[1] == stft.frames(samples)
    torch.testing.assert_close(stft.synthesise(spectrum, samples), audio, atol=1e-10, rtol=0)


def test_analysis_is_the_transform_of_windowed_frames() -> None:
    stft = Stft(16, 8)
    audio = torch.randn(1, 64)
    padded = torch.nn.functional.pad(audio[0], (8, 8))
    window = torch.tensor(
        [(0.5 - 0.5 * torch.cos(torch.tensor(2 * torch.pi * n / 16))) ** 0.5 for n in range(16)]
    )
    expected = torch.stack([torch.fft.rfft(padded[8 * t : 8 * t + 16] * window) for t in range(9)])
    torch.testing.assert_close(stft.analyse(audio)[0], expected)


def _loop_masks(sources: torch.Tensor, power: int) -> torch.Tensor:
    masks = torch.zeros(sources.shape)
    for b in range(sources.shape[0]):
        for t in range(sources.shape[2]):
            for f in range(sources.shape[3]):
                values = [abs(complex(sources[b, c, t, f])) ** power for c in range(sources.shape[1])]
                for c in range(sources.shape[1]):
                    masks[b, c, t, f] = values[c] / sum(values)
    return masks


def test_ratio_and_wiener_masks_follow_their_equations() -> None:
    sources = torch.randn(1, 3, 4, 5, dtype=torch.complex64)
    torch.testing.assert_close(ideal_ratio_mask(sources), _loop_masks(sources, 1))
    torch.testing.assert_close(wiener_filter_mask(sources), _loop_masks(sources, 2))


def test_binary_mask_takes_the_loudest_source_and_the_first_of_equals() -> None:
    sources = torch.tensor([[[[1.0, 2.0, 3.0]]], [[[2.0, 1.0, 3.0]]]]).transpose(0, 1).to(torch.complex64)
    expected = torch.tensor([[[[0.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]]])
    torch.testing.assert_close(ideal_binary_mask(sources), expected)


@pytest.mark.parametrize("mask", [ideal_binary_mask, ideal_ratio_mask, wiener_filter_mask])
def test_ideal_masks_share_the_mixture_even_where_it_is_silent(mask) -> None:  # type: ignore[no-untyped-def]
    sources = torch.randn(2, 2, 6, 5, dtype=torch.complex64)
    sources[:, :, 2] = 0
    masks = mask(sources)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 6, 5))
    mixture = sources.sum(dim=1)
    torch.testing.assert_close(apply_masks(mixture, masks).sum(dim=1), mixture)


def test_masks_do_not_depend_on_gain_and_follow_the_order_of_sources() -> None:
    sources = torch.randn(1, 2, 6, 5, dtype=torch.complex64)
    for mask in (ideal_binary_mask, ideal_ratio_mask, wiener_filter_mask):
        torch.testing.assert_close(mask(1e3 * sources), mask(sources))
        torch.testing.assert_close(mask(sources.flip(1)), mask(sources).flip(1))


def test_root_ratio_mask_is_the_root_of_energies() -> None:
    sources = torch.randn(1, 3, 4, 5, dtype=torch.cfloat)
    powers = sources.abs().square()
    torch.testing.assert_close(
        root_ideal_ratio_mask(sources), (powers / powers.sum(dim=1, keepdim=True)).sqrt()
    )


def test_phase_sensitive_mask_projects_the_source_on_the_mixture() -> None:
    sources = torch.randn(1, 2, 4, 5, dtype=torch.cfloat)
    mixture = sources.sum(dim=1)
    angle = sources.angle() - mixture.unsqueeze(1).angle()
    expected = (sources.abs() / mixture.abs().unsqueeze(1) * torch.cos(angle)).clamp(0, 1)
    torch.testing.assert_close(phase_sensitive_mask(sources, mixture), expected, atol=1e-5, rtol=1e-4)


def test_hard_and_loudest_masks() -> None:
    values = torch.rand(2, 3, 4, 5)
    hard = hard_masks(values)
    assert torch.equal(hard.sum(dim=1), torch.ones(2, 4, 5))
    assert torch.equal(hard.argmax(dim=1), values.argmax(dim=1))
    masks = torch.stack([torch.full((4, 5), level) for level in (0.2, 0.9, 0.5)]).unsqueeze(0)
    assert torch.equal(loudest_masks(masks, torch.rand(1, 4, 5), 2), masks[:, [1, 2]])


def test_masks_with_a_rest_follow_the_softmax_of_one_more_class() -> None:
    logits = torch.randn(1, 2, 3, 4)
    masks = softmax_masks_with_rest(logits)
    for t in range(3):
        for f in range(4):
            powers = [math.exp(float(logits[0, c, t, f])) for c in range(2)]
            for c in range(2):
                assert float(masks[0, c, t, f]) == pytest.approx(powers[c] / (sum(powers) + 1.0), rel=1e-5)
    assert float(softmax_masks_with_rest(torch.full((1, 2, 1, 1), -20.0)).sum()) < 1e-7
