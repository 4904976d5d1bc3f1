"""From waveform to network input: spectrogram, level, log magnitude, and the weights of bins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmingle.stft import Stft, WindowName

_LOG_FLOOR = 1e-4
"""Magnitudes relative to the level are floored here (-80 dB) before the logarithm."""


@dataclass
class Spectra:
    """What the front end says of a batch of mixtures."""

    spectrum: Tensor
    """``(batch, frames, freqs)`` complex, at the level of the input."""
    features: Tensor
    """``(batch, frames, freqs)``: normalized log magnitude, the same for any gain of the input."""


class FrontEnd(nn.Module):
    """Log magnitudes relative to the mixture's level, with stored mean and deviation per frequency."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, window_length: int, hop: int, window: WindowName) -> None:
        super().__init__()
        self.stft = Stft(window_length, hop, window)
        self.register_buffer("mean", torch.zeros(self.stft.freqs))
        self.register_buffer("deviation", torch.ones(self.stft.freqs))

    def forward(self, mixture: Tensor) -> Spectra:
        """Mixture ``(batch, samples)`` to its spectrogram and features."""
        spectrum = self.stft.analyse(mixture)
        return Spectra(spectrum, (self._log_magnitude(spectrum) - self.mean) / self.deviation)

    def fit(self, mixtures: Tensor) -> None:
        """Store mean and deviation of the log magnitudes of ``mixtures`` ``(batch, samples)``."""
        values = self._log_magnitude(self.stft.analyse(mixtures)).flatten(0, 1)
        self.mean.copy_(values.mean(dim=0))
        self.deviation.copy_(values.std(dim=0).clamp_min(1e-3))

    def _log_magnitude(self, spectrum: Tensor) -> Tensor:
        magnitude = spectrum.abs()
        relative = magnitude / level(magnitude)[:, None, None]
        return relative.clamp_min(_LOG_FLOOR).log()


def level(magnitude: Tensor) -> Tensor:
    """Level ``(batch,)`` of spectrograms ``(batch, frames, freqs)``: frame power weighted by itself.

    ``sqrt(sum p^2 / sum p)`` over the power p of the frames: it follows the loud frames, grows with
    the gain, and does not change when silence is appended.
    """
    # By the peak first: fourth powers of float samples at integer scale would overflow.
    peak = magnitude.amax(dim=(1, 2)).clamp_min(1e-10)
    power = (magnitude / peak[:, None, None]).square().sum(dim=-1)
    weighted = power.square().sum(dim=-1) / power.sum(dim=-1).clamp_min(1e-20)
    return weighted.sqrt().clamp_min(1e-10) * peak


def loudest_weights(magnitude: Tensor, share: float, frames: Tensor | None = None) -> Tensor:
    """Weights W that keep the loudest ``share`` of the bins of each mixture (Luo et al. 2018, III.A).

    Args:
        magnitude: ``(batch, frames, freqs)``.
        share: in (0, 1]; the papers' "90 %" is 0.9.
        frames: ``(batch,)``, the number of frames that are not padding; all, if not given.

    Returns:
        ``(batch, frames, freqs)`` of 0 and 1; padding weighs 0.
    """
    weights = torch.zeros_like(magnitude)
    for index, values in enumerate(magnitude):
        valid = values if frames is None else values[: int(frames[index])]
        count = valid.numel()
        quiet = min(count - 1, round((1 - share) * count))
        threshold = valid.flatten().kthvalue(quiet + 1).values
        weights[index, : len(valid)] = (valid >= threshold).to(weights.dtype)
    return weights
