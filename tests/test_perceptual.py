"""PESQ's distances with gradients, against the package ``pesq``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.perceptual import pairwise_perceptual_distance, perceptual_distance, pesq_of_distance

RATE = 16000


@pytest.fixture
def speech(example_sources: Samples) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(example_sources[:1, :64000]))


def _degraded(speech: Tensor) -> list[Tensor]:
    """From a little noise to much, and with the upper half of the band missing."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(speech.shape, generator=generator) * speech.square().mean().sqrt()
    spectrum = torch.fft.rfft(speech)
    spectrum[:, spectrum.shape[1] // 4 :] = 0
    return [speech + level * noise for level in (0.003, 0.03, 0.1, 0.3, 1.0)] + [torch.fft.irfft(spectrum)]


def test_scores_are_those_of_the_package(speech: Tensor) -> None:
    from pesq import pesq

    estimates = torch.cat(_degraded(speech))
    ours = pesq_of_distance(perceptual_distance(estimates, speech.expand_as(estimates)))
    theirs = [pesq(RATE, speech[0].numpy(), each.numpy(), "wb") for each in estimates]
    assert max(theirs) - min(theirs) > 2
    np.testing.assert_allclose(ours.numpy(), theirs, atol=0.15)
    assert np.corrcoef(ours.numpy(), theirs)[0, 1] > 0.995


def test_equal_signals_have_no_distance_at_any_level(speech: Tensor) -> None:
    assert float(perceptual_distance(speech, speech)) == pytest.approx(0, abs=1e-4)
    assert float(perceptual_distance(0.01 * speech, speech)) == pytest.approx(0, abs=1e-3)
    noisy = _degraded(speech)[3]
    near, far = perceptual_distance(noisy, speech), perceptual_distance(50 * noisy, 0.1 * speech)
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)
    assert float(pesq_of_distance(torch.zeros(1))) == pytest.approx(4.644, abs=0.01)


def test_added_sound_is_worse_than_missing_sound(speech: Tensor) -> None:
    """The asymmetrical disturbance counts what was added."""
    spectrum = torch.stft(speech, 512, 256, window=torch.hann_window(512), return_complex=True)
    # Not the same in all frames, because the frequency response is equalized.
    places = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    gain = torch.where(places, 0.125, 1.0)
    missing, added = (
        torch.istft(spectrum * factor, 512, 256, window=torch.hann_window(512), length=speech.shape[1])
        for factor in (gain, 1 / gain)
    )
    assert perceptual_distance(added, speech) > perceptual_distance(missing, speech)


def test_a_step_along_the_gradient_comes_nearer(speech: Tensor) -> None:
    estimate = _degraded(speech)[3].clone().requires_grad_()
    distance = perceptual_distance(estimate, speech).sum()
    distance.backward()
    assert estimate.grad is not None
    step = 1e-4 * estimate.norm() * estimate.grad / estimate.grad.norm()
    assert perceptual_distance(estimate - step, speech).sum() < distance
    # The slope is what the gradient says.
    expected = float((estimate.grad * step).sum().detach())
    ends = [float(perceptual_distance(estimate + sign * step, speech).sum().detach()) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("samples", [100, 5000, 16000])
def test_silence_and_short_signals_have_finite_gradients(speech: Tensor, samples: int) -> None:
    for estimate, reference in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)):
        given = (estimate * speech[:, :samples]).clone().requires_grad_()
        distance = perceptual_distance(given, reference * speech[:, :samples])
        distance.sum().backward()
        assert given.grad is not None
        assert torch.isfinite(given.grad).all()
        assert torch.isfinite(distance).all()


def test_every_pair_is_compared_and_silent_sources_are_not(speech: Tensor) -> None:
    one, two = speech[0, :24000], speech[0, 24000:48000]
    estimates, sources = torch.stack([one + 0.1 * two, two])[None], torch.stack([two, one])[None]
    found = pairwise_perceptual_distance(estimates, sources, torch.tensor([[True, True]]))[0]
    for source in range(2):
        for estimate in range(2):
            alone = perceptual_distance(estimates[:, estimate], sources[:, source])
            torch.testing.assert_close(found[source, estimate], alone[0], rtol=1e-4, atol=1e-4)
    silent = pairwise_perceptual_distance(estimates, sources, torch.tensor([[True, False]]))[0]
    torch.testing.assert_close(silent[0], found[0])
    assert silent[1].tolist() == [0, 0]
