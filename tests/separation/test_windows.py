"""Recordings of any length: windows that join, add up, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import tiny_system
from unmingle.audio import Samples
from unmingle.frontend import Spectra
from unmingle.metrics import si_sdr
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.windows import WindowedSeparation
from unmingle.speaker_encoder import pretrained_speaker_encoder
from unmingle.systems import MaskingSystem
from unmingle.systems.base import SystemConfig

RATE = 8000


class LowAndHigh(MaskingSystem):
    """Separates low from high frequencies without fault, but names the two in another order each time."""

    def __init__(self) -> None:
        super().__init__(SystemConfig(speakers=2))
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    @property
    def config(self) -> SystemConfig:
        return SystemConfig(speakers=2)

    def loss(self, batch: object) -> dict[str, Tensor]:
        raise NotImplementedError

    def multiply_accumulates(self, seconds: float) -> int:
        return 0

    def working_bytes(self, seconds: float, speakers: int) -> int:
        return 0

    def most_speakers(self) -> int | None:
        return 2

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra = self.frontend(mixture)
        low = torch.zeros_like(spectra.magnitude)
        low[..., : low.shape[-1] // 4] = 1.0
        self.calls += 1
        order = [low, 1 - low] if self.calls % 3 == 1 else [1 - low, low]
        return spectra, torch.stack(order, dim=1)


def _voices(seconds: float) -> Samples:
    """Noise below 800 Hz and above 1200 Hz, ``(2, samples)``."""
    rng = np.random.default_rng(0)
    samples = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal((2, samples)))
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum[0, hertz > 800] = 0
    spectrum[1, hertz < 1200] = 0
    return np.fft.irfft(spectrum, samples).astype(np.float32)


def _separated(
    system: MaskingSystem,
    mixture: Samples,
    block: int = 1234,
    speakers: int | None = 2,
    *,
    by_voice: bool = True,
    **windows: float,
) -> Samples:
    blocks = [mixture[k : k + block] for k in range(0, len(mixture), block)]
    with RecordingSeparation(system, RATE, speakers, by_voice=by_voice, **windows) as separation:
        for each in blocks:
            separation.push(each)
        separation.finish()
        return np.concatenate(list(separation.estimates(blocks)), axis=1)


def test_a_short_recording_is_separated_as_a_whole() -> None:
    system = tiny_system()
    mixture = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    mixture -= mixture.mean()
    estimates = _separated(system, mixture, by_voice=False)
    whole = system.separate(torch.from_numpy(mixture)[None], 2).sources[0].numpy()
    # Masks are kept in half precision.
    assert min(np.abs(estimates - whole).max(), np.abs(estimates - whole[::-1]).max()) < 3e-3


def test_speakers_stay_in_their_files_whatever_order_windows_have() -> None:
    voices = _voices(10.0)
    estimates = _separated(LowAndHigh(), voices.sum(axis=0), window_seconds=2.0, overlap_seconds=0.5)
    scores = si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(voices)[:, None])
    assert float(scores.max(dim=1).values.min()) > 15.0
    assert sorted(scores.argmax(dim=1).tolist()) == [0, 1]


def test_the_sum_is_the_recording_at_other_rates_too() -> None:
    mixture = np.random.default_rng(1).standard_normal(50000).astype(np.float32)
    for rate in (8000, 11025, 48000):
        blocks = [mixture[k : k + 9999] for k in range(0, len(mixture), 9999)]
        with RecordingSeparation(tiny_system(), rate, 2, 1.0, 0.3) as separation:
            for block in blocks:
                separation.push(block)
            separation.finish()
            estimates = np.concatenate(list(separation.estimates(blocks)), axis=1)
        assert estimates.shape == (2, 50000)
        np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 30000), block=st.integers(1, 9000))
def test_block_size_does_not_change_the_result(samples: int, block: int) -> None:
    mixture = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    block = max(block, samples // 50)
    whole = _separated(tiny_system(), mixture, samples, window_seconds=1.0, overlap_seconds=0.25)
    pieces = _separated(tiny_system(), mixture, block, window_seconds=1.0, overlap_seconds=0.25)
    assert pieces.shape == (2, samples)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


def test_a_constant_offset_is_kept_and_changes_nothing_else() -> None:
    mixture = np.random.default_rng(3).standard_normal(30000).astype(np.float32)
    plain = _separated(tiny_system(), mixture, window_seconds=1.0, overlap_seconds=0.25)
    offset = _separated(tiny_system(), mixture + np.float32(0.3), window_seconds=1.0, overlap_seconds=0.25)
    np.testing.assert_allclose(offset, plain + 0.15, atol=5e-3)
    np.testing.assert_allclose(offset.sum(axis=0), mixture + 0.3, atol=1e-4)


def test_neighbouring_masks_fade_into_each_other() -> None:
    system = LowAndHigh()
    with WindowedSeparation(system, 2, 1.0, 0.5) as windows:
        windows.push(_voices(4.0).sum(axis=0))
        windows.finish()
        masks = windows.masks(0, 4 * RATE // system.hop + 1)
    # Whatever the order, the joined masks are those of one speaker in every frame.
    torch.testing.assert_close(masks.sum(dim=0), torch.ones_like(masks[0]), atol=1e-3, rtol=0)
    assert float((masks * (1 - masks)).max()) < 1e-3


@pytest.mark.parametrize("level", [1e-6, 1e9])
def test_the_level_of_a_recording_changes_nothing_else(level: float) -> None:
    mixture = np.random.default_rng(2).standard_normal(30000).astype(np.float32)
    plain = _separated(tiny_system(), mixture, window_seconds=1.0, overlap_seconds=0.25)
    scaled = _separated(tiny_system(), np.float32(level) * mixture, window_seconds=1.0, overlap_seconds=0.25)
    np.testing.assert_allclose(scaled / np.float32(level), plain, atol=2e-3)


def test_temporary_files_are_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with WindowedSeparation(tiny_system(), 2, 1.0, 0.25) as windows:
        windows.push(np.ones(30000, dtype=np.float32))
    with pytest.raises(ValueError, match="closed"):
        windows.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of open files")
def test_the_number_of_open_files_does_not_grow_with_the_length() -> None:
    def opened(seconds: int) -> int:
        before = len(list(Path("/proc/self/fd").iterdir()))
        encoder, mixture = (
            pretrained_speaker_encoder(),
            np.random.default_rng(0).normal(0, 0.1, seconds * 8000),
        )
        with WindowedSeparation(tiny_system(), 2, 1.0, 0.25, encoder) as windows:
            windows.push(mixture.astype(np.float32))
            windows.finish()
            return len(list(Path("/proc/self/fd").iterdir())) - before

    assert opened(12) == opened(3) == 1
