"""Voices with other formants: the resonances of a longer or shorter vocal tract, at the same pitch and tempo.

A change of speed moves pitch and formants together. With formants that move on their own, few speakers become many
voices.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.stft import Stft

_WINDOW_SECONDS = 0.032
_WHITE = 1e-5
"""White noise in a frame, as a share of its energy, so that its envelope exists."""
_MOST_DB = 20.0
"""Maximum gain or loss of a bin."""


def move_formants(audio: Samples, factor: float, sample_rate: int) -> Samples:
    """Speech ``(samples,)`` whose spectral envelope is stretched by ``factor`` along frequency.

    The envelope comes from linear prediction, frame by frame. A factor above 1 moves formants up, as a shorter vocal
    tract does. Phases and energy stay.
    """
    if factor == 1.0 or not audio.any():
        return audio
    stft = _transform(round(_WINDOW_SECONDS * sample_rate / 4))
    spectrum = stft.analyse(torch.from_numpy(audio))
    gains = _gains(spectrum.abs().square(), factor, 4 + round(sample_rate / 1000))
    moved: Samples = stft.synthesise(gains * spectrum, len(audio)).numpy()
    before, after = (float(np.square(each, dtype=np.float64).sum()) for each in (audio, moved))
    return moved * np.float32(np.sqrt(before / max(after, 1e-20)))


@cache
def _transform(hop: int) -> Stft:
    return Stft(4 * hop, hop)


def _gains(power: Tensor, factor: float, order: int) -> Tensor:
    """Gains ``(frames, freqs)`` that stretch the envelopes of the power spectra ``power``."""
    envelope = _log_envelope(power, order)
    freqs = power.shape[1]
    place = (torch.arange(freqs) / factor).clamp_max(freqs - 1)
    below = place.long().clamp_max(freqs - 2)
    stretched = torch.lerp(envelope[:, below], envelope[:, below + 1], (place - below).expand_as(envelope))
    limit = _MOST_DB / 20 * math.log(10)
    return (stretched - envelope).clamp(-limit, limit).exp()


def _log_envelope(power: Tensor, order: int) -> Tensor:
    """Logarithm of the magnitude, up to a constant, of the all-pole filters that fit the power spectra best."""
    correlation = torch.fft.irfft(power)[:, : order + 1].double()
    correlation = correlation / correlation[:, :1].clamp_min(1e-20)
    correlation[:, 0] = 1.0 + _WHITE
    lags = torch.arange(order)
    matrix = correlation[:, (lags[:, None] - lags).abs()]
    predictor = torch.linalg.solve(matrix, correlation[:, 1:])
    inverse = torch.nn.functional.pad(-predictor, (1, 0), value=1.0)
    magnitude: Tensor = torch.fft.rfft(inverse, 2 * (power.shape[1] - 1)).abs()
    return -magnitude.log().float()
