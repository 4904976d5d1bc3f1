"""Metrics of one estimate against one reference, in dB. ``evaluation/scores.py`` scores whole mixtures with them."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.stft import Stft

LIMIT_DB = 100.0
"""Scores are limited to +-100 dB, so that silent and perfect estimates have finite scores."""


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019; SI-SNR in Luo et al. 2018).

    ``10 log10(|a s|^2 / |a s - e|^2)`` with ``a = <e, s> / <s, s>``, after the mean of both signals is removed.

    Args:
        estimate: ``(..., samples)``.
        reference: ``(..., samples)``, broadcast against the estimate.

    Returns:
        ``(...)`` in dB, within +-100. A silent estimate or a silent reference scores -100.
    """
    estimate = estimate.double() - estimate.double().mean(dim=-1, keepdim=True)
    reference = reference.double() - reference.double().mean(dim=-1, keepdim=True)
    energy = reference.square().sum(dim=-1, keepdim=True)
    scale = (estimate * reference).sum(dim=-1, keepdim=True) / energy.clamp_min(1e-20)
    target = scale * reference
    signal = target.square().sum(dim=-1)
    distortion = (estimate - target).square().sum(dim=-1)
    ratio = 10 * torch.log10(signal.clamp_min(1e-30) / distortion.clamp_min(1e-30))
    silent = (signal <= 1e-20) | (energy.squeeze(-1) <= 1e-20)
    return torch.where(silent, -LIMIT_DB, ratio.clamp(-LIMIT_DB, LIMIT_DB))


def magnitude_snr(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """SNR of magnitude spectrograms, which does not depend on phase (Isik et al. 2016, Table 7).

    ``10 log10(sum |S|^2 / sum (|S| - |E|)^2)`` on the papers' spectrogram: 32 ms square-root Hann windows
    with a hop of 8 ms. The gain of the estimate changes the score.

    Args:
        estimate: ``(..., samples)``.
        reference: ``(..., samples)``, broadcast against the estimate.
        sample_rate: in hertz.

    Returns:
        ``(...)`` in dB, within +-100. A silent reference scores -100.
    """
    hop = max(1, round(0.008 * sample_rate))
    stft = Stft(4 * hop, hop)
    wanted, found = stft.analyse(reference).abs().double(), stft.analyse(estimate).abs().double()
    signal = wanted.square().sum(dim=(-2, -1))
    distortion = (wanted - found).square().sum(dim=(-2, -1))
    ratio = 10 * torch.log10(signal.clamp_min(1e-30) / distortion.clamp_min(1e-30))
    return torch.where(signal <= 1e-20, -LIMIT_DB, ratio.clamp(-LIMIT_DB, LIMIT_DB))
