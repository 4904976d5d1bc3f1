"""Arrays and sample rates of all types that callers use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unmingle.arrays import as_rate, as_samples
from unmingle.denoising import load_denoiser
from unmingle.errors import UnmingleError

AUDIO = (0.1 * np.sin(np.arange(4000) / 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("audio", "tolerance"),
    [
        (AUDIO.astype(np.float64), 0.0),
        (AUDIO.astype(np.float16), 1e-4),
        (np.round(AUDIO * 2**15).astype(np.int16), 2**-15),
        (np.round(AUDIO * 2**30).astype(np.int32) * 2, 1e-6),
        (AUDIO[::-1].copy()[::-1], 0.0),
        (AUDIO.astype(">f4"), 0.0),
        (torch.from_numpy(AUDIO), 0.0),
        (torch.from_numpy(AUDIO).bfloat16(), 1e-3),
        (torch.from_numpy(AUDIO).half(), 1e-4),
        (torch.from_numpy(AUDIO).requires_grad_(), 0.0),
        (torch.complex(torch.zeros(4000), -torch.from_numpy(AUDIO)).conj().imag, 0.0),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_every_real_type_gives_the_same_audio(audio: object, tolerance: float) -> None:
    samples = as_samples(audio)  # type: ignore[arg-type]
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, AUDIO, atol=tolerance, rtol=0)


def test_a_lazily_negated_tensor_is_the_negated_audio() -> None:
    lazy = torch.complex(torch.zeros(4000), torch.from_numpy(AUDIO)).conj().imag
    assert lazy.is_neg()
    np.testing.assert_array_equal(as_samples(lazy), -AUDIO)


@pytest.mark.parametrize(
    "audio",
    [np.zeros(5, np.uint8), np.zeros(5, np.int64), np.zeros(5, bool), np.zeros(5, complex), np.array(["x"]),
     np.zeros((2, 2, 2), np.float32), np.float32(1), np.array([np.nan]), np.array([1e300]), np.array([1e19]),
     torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (4,)), [[1.0], [1.0, 2.0]]],
    ids=str,
)  # fmt: skip
def test_other_types_are_refused_in_one_sentence(audio: object) -> None:
    with pytest.raises(UnmingleError) as caught:
        as_samples(audio)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rate", [16000, 16000.0, np.int16(16000), np.float32(16000), np.array(16000), torch.tensor(16000)]
)
def test_rates_of_every_type(rate: object) -> None:
    assert as_rate(rate) == 16000
    assert type(as_rate(rate)) is int


@pytest.mark.parametrize(
    "rate", [True, "16000", None, 16000.5, float("nan"), float("inf"), 999, -8000, np.array([16000])]
)
def test_other_rates_are_refused(rate: object) -> None:
    with pytest.raises(UnmingleError, match="sample rate"):
        as_rate(rate)


def test_denoise_accepts_arrays_of_soundfile(tiny_denoiser: Path) -> None:
    enhancer = load_denoiser(tiny_denoiser)
    channels = np.stack([AUDIO, 0.5 * AUDIO])
    expected = enhancer.denoise(channels, 16000)
    assert expected.shape == (2, 4000)
    np.testing.assert_array_equal(
        enhancer.denoise(channels.T, np.int64(16000), channels_last=True), expected.T
    )
    integers = np.round(channels * 2**15).astype(np.int16)
    np.testing.assert_allclose(enhancer.denoise(integers, 16000), expected, atol=1e-3)
    tensor = enhancer.denoise(torch.from_numpy(channels).bfloat16(), 16000)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-2)
    with pytest.raises(UnmingleError, match="channels_last=True"):
        enhancer.denoise(channels.T, 16000)


@pytest.mark.parametrize("offset", [0.01, 0.3, -0.5])
def test_a_constant_offset_is_kept_and_changes_nothing_else(tiny_denoiser: Path, offset: float) -> None:
    enhancer = load_denoiser(tiny_denoiser)
    noisy = AUDIO + 0.01 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    cleaned = enhancer.denoise(noisy, 16000)
    np.testing.assert_allclose(
        enhancer.denoise(noisy + np.float32(offset), 16000), cleaned + offset, atol=1e-5
    )


def test_the_public_names_are_shown() -> None:
    import unmingle

    assert {"separate", "load", "denoise", "load_denoiser", "UnmingleError"} <= set(dir(unmingle))
