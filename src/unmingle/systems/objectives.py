"""Objectives of masks: one error for every pair of source and estimate."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from unmingle.batch import MixtureBatch
from unmingle.losses import (
    pairwise_compressed_spectrum_error,
    pairwise_magnitude_error,
    pairwise_mask_error,
    pairwise_waveform_error,
    permutation_invariant,
    phase_sensitive_target,
)
from unmingle.masks import apply_masks, wiener_filter_mask
from unmingle.padding import frame_count, within
from unmingle.perceptual import pairwise_perceptual_distance
from unmingle.stft import Stft

ObjectiveName = Literal[
    "mask_error",
    "magnitude_error",
    "phase_sensitive_error",
    "si_sdr",
    "snr",
    "si_sdr_and_spectrum",
    "perceptual",
]
"""Luo's Eq. 13 with WFM targets; Mobin's Eq. 9 (also Isik's enhancement and uPIT's amplitude); uPIT's
phase-sensitive approximation; SI-SDR or SNR of waveforms; SI-SDR with a compressed-spectrum term (ours);
``perceptual``: that and the distance of PESQ, at 16 kHz (ours)."""
_RESOLUTIONS = (0.5, 1.0, 2.0)
"""Window lengths of the compressed-spectrum term, relative to the system's."""
_SPECTRUM_WEIGHT = 400.0
"""Weight of the compressed-spectrum term (the mean over its resolutions), in dB."""
_PERCEPTUAL_WEIGHT = 10.0
"""Weight of PESQ's distance, in dB."""


def mask_objective(
    objective: ObjectiveName,
    stft: Stft,
    spectrum: Tensor,
    masks: Tensor,
    batch: MixtureBatch,
    *,
    ordered: bool = False,
) -> Tensor:
    """The error of masks ``(batch, sources, frames, freqs)``: ``(batch,)``, smaller is better.

    Args:
        objective: its name.
        stft: of the spectrum.
        spectrum: of the mixture, ``(batch, frames, freqs)`` complex.
        masks: one per source of the batch.
        batch: the mixtures with their sources.
        ordered: whether the masks have the order of the sources. Else the best permutation counts.
    """
    pairwise = _pairwise(objective, stft, spectrum, masks, batch)
    return pairwise.diagonal(dim1=1, dim2=2).mean(dim=-1) if ordered else permutation_invariant(pairwise)


def _pairwise(
    objective: ObjectiveName, stft: Stft, spectrum: Tensor, masks: Tensor, batch: MixtureBatch
) -> Tensor:
    if objective in ("si_sdr", "snr", "si_sdr_and_spectrum", "perceptual"):
        estimates = stft.synthesise(apply_masks(spectrum, masks), batch.mixture.shape[-1])
        if batch.lengths is not None:
            estimates = estimates * within(batch.lengths, estimates.shape[-1]).unsqueeze(1)
        pairwise = pairwise_waveform_error(
            estimates, batch.sources, batch.active, batch.mixture, scale_invariant=objective != "snr"
        )
        if objective in ("si_sdr_and_spectrum", "perceptual"):
            for transform in (_scaled(stft, factor) for factor in _RESOLUTIONS):
                spectral = pairwise_compressed_spectrum_error(
                    estimates, batch.sources, batch.mixture, transform, batch.lengths
                )
                pairwise = pairwise + _SPECTRUM_WEIGHT / len(_RESOLUTIONS) * spectral
        if objective == "perceptual":
            distance = pairwise_perceptual_distance(estimates, batch.sources, batch.active)
            pairwise = pairwise + _PERCEPTUAL_WEIGHT * distance
        return pairwise
    sources, magnitude = stft.analyse(batch.sources), spectrum.abs()
    if batch.lengths is not None:
        # Windows that start in padding still reach back to the mixture's end.
        inside = within(frame_count(batch.lengths, stft.hop), spectrum.shape[1]).unsqueeze(-1)
        magnitude, sources = magnitude * inside, sources * inside.unsqueeze(1)
    if objective == "mask_error":
        pairwise = pairwise_mask_error(magnitude, masks, wiener_filter_mask(sources))
    else:
        sensitive = objective == "phase_sensitive_error"
        targets = phase_sensitive_target(sources, spectrum) if sensitive else sources.abs()
        pairwise = pairwise_magnitude_error(magnitude.unsqueeze(1) * masks, targets)
    if batch.lengths is None:
        return pairwise
    # The mean is over the mixture's own frames; padding adds nothing to the sum.
    return pairwise * (spectrum.shape[1] / frame_count(batch.lengths, stft.hop))[:, None, None]


def _scaled(stft: Stft, factor: float) -> Stft:
    """A transform with ``factor`` times longer windows that overlap by half."""
    half = max(1, round(factor * stft.window_length / 2))
    return Stft(2 * half, half).to(stft.window.device)
