"""What a user is told of a recording: noise, silence, doubtful joins, turns without overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import MIXTURE
from unmingle.audio import read_audio, resample
from unmingle.separation.doubts import NOISY_DB, doubts
from unmingle.separation.noise_level import NoiseLevel
from unmingle.separation.windows import Tracks
from unmingle.stft import Stft


def _magnitude(snr: float) -> torch.Tensor:
    """Half a minute of bursts of sound with pauses, in white noise: ``(frames, freqs)``."""
    generator = torch.Generator().manual_seed(3)
    audio = torch.randn(240000, generator=generator) * (torch.arange(240000) % 8000 < 5000)
    noise = torch.randn(240000, generator=generator)
    audio = audio + noise * audio.std() / noise.std() * 10 ** (-snr / 20)
    return Stft(256, 128).analyse(audio[None])[0].abs()


def _snr(*magnitudes: torch.Tensor) -> float:
    level = NoiseLevel(129)
    for magnitude in magnitudes:
        level.add(magnitude)
    return level.snr()


def test_steady_noise_is_measured() -> None:
    found = [_snr(_magnitude(snr)) for snr in (10.0, 20.0)]
    # A frequency is free of sound for longer here than speech leaves it: the estimate is some dB too low.
    assert np.allclose(found, [10.0, 20.0], atol=6.0)
    assert 8.0 < found[1] - found[0] < 12.0
    noise = torch.randn(240000, generator=torch.Generator().manual_seed(4))
    assert _snr(Stft(256, 128).analyse(noise[None])[0].abs()) < -5.0


def test_a_clean_recording_is_not_called_noisy() -> None:
    recording = read_audio(MIXTURE)
    audio = torch.from_numpy(resample(recording.samples[0], recording.sample_rate, 8000))
    magnitude = Stft(256, 128).analyse(audio[None])[0].abs()
    assert _snr(magnitude) > NOISY_DB
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(5))
    noisy = audio + noise * audio.std() * 10**-0.5
    assert _snr(Stft(256, 128).analyse(noisy[None])[0].abs()) == pytest.approx(10.0, abs=4.0)


def test_noise_is_the_same_at_any_gain_and_in_pieces() -> None:
    whole = _magnitude(10.0)
    assert _snr(1e-3 * whole) == pytest.approx(_snr(whole), abs=0.3)
    assert _snr(whole[:500], whole[500:]) == pytest.approx(_snr(whole), abs=1e-6)


def test_digital_silence_is_no_quiet_moment() -> None:
    assert _snr(_magnitude(10.0), torch.zeros(4000, 129)) == pytest.approx(_snr(_magnitude(10.0)), abs=1e-6)
    assert _snr(torch.zeros(100, 129)) == 60.0


def _tracks(rows: list[list[float]], snr: float = 60.0, join: float = 1.0) -> Tracks:
    power = np.array(rows, dtype=np.float32)
    return Tracks(power, np.full_like(power, 1 / len(rows)), 1.0, join, 0.05, snr)


_TOGETHER = [[1.0] * 40, [1.0] * 40]


def test_nothing_is_said_of_an_ordinary_mixture() -> None:
    assert doubts(_tracks(_TOGETHER), cleaned=False) == []
    assert doubts(_tracks([[1.0] * 40]), cleaned=False) == []


def test_each_doubt_is_said() -> None:
    (text,) = doubts(_tracks(_TOGETHER, snr=8.2), cleaned=False)
    assert text.startswith("steady noise is only about 8 dB below the speech")
    assert doubts(_tracks(_TOGETHER, snr=8.2), cleaned=True) == []
    (text,) = doubts(_tracks([[1.0] * 40, [1e-4] * 40]), cleaned=False)
    assert text == "estimate 2 is nearly silent"
    (text,) = doubts(_tracks(_TOGETHER, join=0.5), cleaned=False)
    assert "no voice was recognized" in text
    (text,) = doubts(replace(_tracks(_TOGETHER), further_speaker=0.8), cleaned=False)
    assert text == "there may be one more speaker; --speakers auto counts them"
    assert doubts(replace(_tracks(_TOGETHER), further_speaker=0.6), cleaned=False) == []
    (text,) = doubts(replace(_tracks(_TOGETHER), count_confidence=0.69), cleaned=False)
    assert text == "the number of speakers is in doubt; --speakers N sets it"
    assert doubts(replace(_tracks(_TOGETHER), count_confidence=0.71), cleaned=False) == []
    turns = [[1.0] * 20 + [0.0] * 20, [0.0] * 20 + [1.0] * 20]
    assert doubts(_tracks(turns), cleaned=False) == [
        "the speakers hardly overlap, so the estimates may be no better than the recording"
    ]
