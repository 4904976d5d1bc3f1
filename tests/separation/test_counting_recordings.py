"""How many speakers a long recording has: windows are counted, joined, and counted again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.counting import Counted
from unmingle.frontend import Spectra
from unmingle.metrics import si_sdr
from unmingle.separation.recording import RecordingSeparation
from unmingle.separation.windows import Tracks
from unmingle.systems import MaskingSystem
from unmingle.systems.base import SystemConfig

RATE = 8000
BANDS = 4


@pytest.fixture(autouse=True)
def _noise_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices are noise here, which a denoiser would remove."""
    monkeypatch.setattr("unmingle.separation.recording._denoiser", lambda: None)


class FourBands(MaskingSystem):
    """Four speakers, each with an octave's worth of bins; it names them in another order each time.

    Args:
        counts: whether it counts the bands that sound before it masks, as clustering systems do.
    """

    def __init__(self, *, counts: bool) -> None:
        super().__init__(SystemConfig(speakers=BANDS))
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.counts, self.calls = counts, 0

    @property
    def config(self) -> SystemConfig:
        return SystemConfig(speakers=BANDS)

    def loss(self, batch: object) -> dict[str, Tensor]:
        raise NotImplementedError

    def multiply_accumulates(self, seconds: float) -> int:
        return 0

    def working_bytes(self, seconds: float, speakers: int) -> int:
        return 0

    def most_speakers(self) -> int | None:
        return BANDS

    def _energy(self, spectra: Spectra) -> Tensor:
        return spectra.magnitude[..., : 32 * BANDS].square().unflatten(-1, (BANDS, 32)).sum(dim=(1, 3))[0]

    def count(self, mixture: Tensor) -> Counted | None:
        if not self.counts:
            return None
        energy = self._energy(self.frontend(mixture))
        sounding = (energy > 0.01 * energy.max()).sum().clamp_min(1)
        return Counted(sounding[None], torch.tensor([0.9]))

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra, masks, _ = self.mask_and_attractors(mixture, speakers)
        return spectra, masks

    def mask_and_attractors(self, mixture: Tensor, speakers: int) -> tuple[Spectra, Tensor, Tensor | None]:
        spectra = self.frontend(mixture)
        loudest = self._energy(spectra).argsort(descending=True)[:speakers]
        self.calls += 1
        order = loudest[torch.randperm(speakers, generator=torch.Generator().manual_seed(self.calls))]
        masks = torch.zeros(1, speakers, *spectra.magnitude.shape[1:])
        for place, band in enumerate(order.tolist()):
            masks[0, place, :, 32 * band : 32 * band + 32] = 1.0
        return spectra, masks, 3 * torch.eye(BANDS)[order][None]


def _voices(seconds: int, *silent: tuple[int, int, int]) -> Samples:
    """Noise in one band each, ``(speakers, samples)``, but for silences ``(speaker, from, until)`` in seconds."""
    samples = seconds * RATE
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((BANDS, samples)))
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    for band in range(BANDS):
        spectrum[band, (hertz < 1000 * band + 100) | (hertz > 1000 * band + 900)] = 0
    voices: Samples = np.fft.irfft(spectrum, samples).astype(np.float32)
    for speaker, start, end in silent:
        voices[speaker, start * RATE : end * RATE] = 0
    return voices


def _separated(system: MaskingSystem, mixture: Samples) -> tuple[Samples, Tracks]:
    with RecordingSeparation(system, RATE, None, 2.0, 0.5) as separation:
        separation.push(mixture)
        tracks = separation.finish()
        return np.concatenate(list(separation.estimates([mixture])), axis=1), tracks


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_one_to_four_speakers_are_counted_and_kept_apart(speakers: int, counts: bool) -> None:
    """Who joins late, and who pauses, is one speaker: nobody is counted by the first window."""
    voices = _voices(24, (1, 0, 8), (2, 4, 12), (3, 0, 14))[:speakers]
    estimates, tracks = _separated(FourBands(counts=counts), voices.sum(axis=0))
    assert tracks.speakers == speakers
    assert tracks.count_confidence > 0.8
    scores = si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(voices)[:, None])
    assert float(scores.max(dim=1).values.min()) > 15.0
    assert sorted(scores.argmax(dim=1).tolist()) == list(range(speakers))


@pytest.mark.parametrize("counts", [True, False])
def test_a_short_part_of_a_long_recording_is_a_speaker_from_a_tenth_of_it_on(counts: bool) -> None:
    for seconds, expected in ((8, 2), (1, 1)):
        voices = _voices(60, (1, 0, 30), (1, 30 + seconds, 60))[:2]
        _, tracks = _separated(FourBands(counts=counts), voices.sum(axis=0))
        assert tracks.speakers == expected


def test_doubt_about_windows_is_doubt_about_the_recording() -> None:
    voices = _voices(12)[:2].sum(axis=0)
    sure, unsure = FourBands(counts=False), FourBands(counts=True)
    assert _separated(unsure, voices)[1].count_confidence == pytest.approx(0.9)
    assert _separated(sure, voices)[1].count_confidence > 0.94


def test_silence_has_one_speaker() -> None:
    for counts in (True, False):
        _, tracks = _separated(FourBands(counts=counts), np.zeros(10 * RATE, dtype=np.float32))
        assert tracks.speakers == 1
