"""The last samples of a mixture, which lie in one frame alone if the hop is half a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import tiny_experts, tiny_system
from unmingle.audio import Samples
from unmingle.denoising.stream import DenoisingStream
from unmingle.masks import apply_masks
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.stream import SeparationStream
from unmingle.stft import Stft
from unmingle.systems import MaskingSystem

RATE, HOP, SIGNALS = 8000, 64, 24
STFT = {"window_length": 2 * HOP, "hop": HOP}
LENGTHS = [63 * HOP + more for more in (0, 1, 20, 32, 50, 62, 63)]


def _masks(shape: tuple[int, ...]) -> Tensor:
    """Random ones: they change every frame in another way."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _randomized(system: MaskingSystem, monkeypatch: pytest.MonkeyPatch) -> MaskingSystem:
    mask = system.mask

    def random(mixture: Tensor, speakers: int, **others: Tensor | None) -> object:
        spectra, masks = mask(mixture, speakers, **others)
        return spectra, _masks(tuple(masks.shape))

    monkeypatch.setattr(system, "mask", random)
    return system


def _noise(samples: int) -> Samples:
    rng = np.random.default_rng(1)
    return 0.1 * rng.standard_normal((SIGNALS, samples)).astype(np.float32)


def _end(estimates: Samples) -> float:
    """Level of the last samples relative to that of the middle."""
    last, middle = estimates[..., -6:], estimates[..., 500:-500]
    return float(np.sqrt(np.square(last).mean() / np.square(middle).mean()))


def test_masked_frames_alone_end_with_a_click() -> None:
    stft, samples = Stft(2 * HOP, HOP), LENGTHS[-1]
    mixture = torch.from_numpy(_noise(samples))
    spectrum = stft.analyse(mixture)
    masks = _masks((SIGNALS, 1, *spectrum.shape[1:]))
    assert _end(stft.synthesise(apply_masks(spectrum, masks), samples).numpy()) > 3


@pytest.mark.parametrize("samples", LENGTHS)
def test_estimates_have_no_click_at_their_end(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = _randomized(tiny_system(stft=STFT), monkeypatch)
    estimates = system.separate(torch.from_numpy(_noise(samples)), 2).sources
    assert estimates.shape == (SIGNALS, 2, samples)
    assert _end(estimates.numpy()) < 2


@pytest.mark.parametrize("samples", LENGTHS[::3])
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_recordings_and_streams_have_no_click_at_their_end(
    samples: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tiny_system(stft=STFT)
    found = system.mask_and_attractors

    def random(mixture: Tensor, speakers: int) -> object:
        spectra, masks, attractors = found(mixture, speakers)
        return spectra, _masks(tuple(masks.shape)), attractors

    monkeypatch.setattr(system, "mask_and_attractors", random)
    of_files, of_streams = [], []
    for mixture in _noise(samples * rate // RATE):
        with RecordingSeparation(system, rate, 2, by_voice=False) as recording:
            recording.push(mixture)
            recording.finish()
            of_files.append(np.concatenate(list(recording.estimates([mixture])), axis=1))
        stream = SeparationStream(system, rate, 2, 0.5)
        of_streams.append(np.concatenate([stream.push(mixture), stream.flush()], axis=1))
    for estimates in (np.stack(of_files), np.stack(of_streams)):
        assert estimates.shape == (SIGNALS, 2, samples * rate // RATE)
        assert _end(estimates) < 2


@pytest.mark.parametrize("samples", LENGTHS)
def test_cleaned_speech_has_no_click_at_its_end(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny_experts(sample_rate=RATE, stft=STFT)
    stream = DenoisingStream(system, RATE, SIGNALS)
    push = stream.masks.push
    monkeypatch.setattr(
        stream.masks, "push", lambda *given, **ended: _masks(tuple(push(*given, **ended).shape))
    )
    mixture = _noise(samples)
    cleaned = np.concatenate([stream.push(mixture), stream.flush()], axis=1)
    assert cleaned.shape == mixture.shape
    assert _end(cleaned) < 2
