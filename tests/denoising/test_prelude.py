"""The prelude: how a recording begins is heard before it begins, offline and in files, not live."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import tiny_experts
from unmingle.batch import MixtureBatch
from unmingle.denoising.stream import DenoisingStream
from unmingle.networks import LstmConfig
from unmingle.systems import Denoiser, DenoiserConfig, DenoisingSystem

RATE, HOP = 16000, 256
PRELUDE = {"prelude_seconds": 0.4}
"""25 frames."""
OWN = {"specialist": 1, "seconds": 0.25}
"""A gate that is a specialist and hears 16 frames."""


def _denoiser(**changes: object) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(network=LstmConfig(layers=1, hidden_size=8), **changes)).eval()  # type: ignore[arg-type]


def _swelling(samples: int, seed: int = 0) -> Tensor:
    """Noise that begins quietly: without the prelude the level takes a while to know."""
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.1 * noise * torch.linspace(0.01, 1.0, samples)


def _slowly(system: DenoisingSystem, mixture: Tensor, expert: int) -> Tensor:
    """The estimate of ``(samples,)`` by one network that hears 25 frames, then all, frame by frame."""
    whole_hops = torch.nn.functional.pad(mixture, (0, -len(mixture) % system.hop))
    spectrum = system.frontend.stft.analyse(whole_hops[None])
    magnitude = spectrum.abs()
    total, level, masks = magnitude.shape[1], system.frontend.initial_state(1), []
    network = system.experts[expert]
    state = network.initial_state(1)
    for frame in [place % total for place in range(25)] + list(range(total)):
        features = system.frontend.step(magnitude[:, frame : frame + 1], level)
        values, state = network.step(features, state)
        masks.append(torch.sigmoid(values))
    return system.frontend.stft.synthesise(spectrum * torch.cat(masks[25:], dim=1), len(mixture))[0]


@torch.no_grad()
@pytest.mark.parametrize("samples", [16000, 3000])
def test_the_first_frames_are_heard_before_all_and_over_and_over_if_there_are_few(samples: int) -> None:
    system, mixture = _denoiser(**PRELUDE), _swelling(samples)
    estimate = system.separate(mixture[None], 1).sources[0, 0]
    torch.testing.assert_close(estimate, _slowly(system, mixture, 0), atol=1e-6, rtol=1e-4)
    cold = _denoiser().separate(mixture[None], 1).sources[0, 0]
    assert float((estimate - cold).abs().max()) > 1e-3 * float(mixture.abs().max())


@torch.no_grad()
def test_features_and_magnitudes_are_as_long_and_the_prelude_has_no_energy() -> None:
    system = _denoiser(**PRELUDE)
    spectra = system.frontend(_swelling(8000)[None])
    features, magnitude, _ = system.with_prelude(spectra)
    assert features.shape == magnitude.shape == (1, 25 + spectra.magnitude.shape[1], 513)
    assert not magnitude[:, :25].any()
    torch.testing.assert_close(magnitude[:, 25:], spectra.magnitude)


@torch.no_grad()
@pytest.mark.parametrize("gate", [OWN, {"layers": 1, "hidden_size": 8}])
def test_each_of_a_padded_batch_has_its_own(gate: dict[str, object]) -> None:
    system = tiny_experts(gate=gate, **PRELUDE)
    lengths = torch.tensor([2000, 9000, 16000])
    mixtures = torch.zeros(3, 16000)
    for index, length in enumerate(lengths.tolist()):
        mixtures[index, :length] = _swelling(length, index)
    _, masks = system.mask(mixtures, 1, lengths)
    for index, length in enumerate(lengths.tolist()):
        _, alone = system.mask(mixtures[index : index + 1, :length], 1)
        frames = length // HOP + 1
        torch.testing.assert_close(masks[index, :, :frames], alone[0], atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_the_gate_is_told_nothing_twice() -> None:
    system, mixture = tiny_experts(gate=OWN, **PRELUDE), _swelling(16000)
    features, magnitude, frames = system.with_prelude(system.frontend(mixture[None]))
    assert frames is None
    heard = torch.sigmoid(system.experts[1](features[:, : 25 + 16]))[:, 25:]
    spoken = magnitude[:, 25 : 25 + 16]
    evidence = [
        (weight * spoken.square()).sum() for weight in (heard**2, 2 * heard * (1 - heard), (1 - heard) ** 2)
    ]
    torch.testing.assert_close(system.score(features, magnitude), system.gate(torch.stack(evidence)[None]))


@torch.no_grad()
@pytest.mark.parametrize(
    "system", [tiny_experts(gate=OWN, **PRELUDE), tiny_experts(**PRELUDE), _denoiser(**PRELUDE)]
)
@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.3])
def test_a_file_is_cleaned_as_the_whole_however_it_is_cut(system: DenoisingSystem, seconds: float) -> None:
    mixture = _swelling(round(seconds * RATE))
    whole = system.separate(mixture[None], 1).sources[0, 0].numpy()
    audio = mixture.numpy()
    for size in (10**6, 5000, 100):
        stream = DenoisingStream(system, RATE, look_ahead_seconds=10.0)
        blocks = [stream.push(audio[k : k + size]) for k in range(0, len(audio), size)]
        np.testing.assert_allclose(np.concatenate([*blocks, stream.flush()]), whole, atol=1e-6)


@torch.no_grad()
def test_a_live_stream_begins_without_it() -> None:
    audio = _swelling(RATE).numpy()
    warm, cold = (DenoisingStream(system, RATE) for system in (_denoiser(**PRELUDE), _denoiser()))
    np.testing.assert_array_equal(warm.push(audio), cold.push(audio))
    assert warm.lag_seconds == cold.lag_seconds == 1024 / RATE


def test_its_arithmetic_counts() -> None:
    frame, second = 4 * 8 * (513 + 8) + 8 * 513, RATE // HOP + 1
    assert _denoiser(**PRELUDE).multiply_accumulates(1.0) == (25 + second) * frame
    system = tiny_experts(gate=OWN, **PRELUDE)
    assert system.multiply_accumulates(1.0, 1) == (25 + second) * frame
    assert system.multiply_accumulates(1.0, 3) == (25 + second + 25 + 16) * frame


@pytest.mark.parametrize("part", ["apart", "choice", "all"])
def test_training_has_it_too(part: str) -> None:
    mixture, speech = _swelling(8000)[None], _swelling(8000, 1)[None, None]
    batch = MixtureBatch(mixture, speech, torch.ones(1, 1, dtype=torch.bool), snr=torch.tensor([0.0]))
    system = tiny_experts(gate=OWN, sharpness=50.0, **PRELUDE)
    # All hear the same, so that whoever is chosen by label, share or score has the error of the first.
    for expert in system.experts[1:]:
        expert.load_state_dict(system.experts[0].state_dict())
    system.choose_part(part)
    with torch.no_grad():
        loss, (spectra, masks) = system.loss(batch)["loss"], system.mask(mixture, 1)
        torch.testing.assert_close(loss, system.objective(spectra, masks, batch).mean())
        cold = system.masks_of(spectra.features, torch.tensor([0]))
        assert float(loss) != pytest.approx(float(system.objective(spectra, cold, batch)), abs=1e-3)
