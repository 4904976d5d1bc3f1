"""Weights of a BLSTM embedding network for a spectrogram of other frequencies than it was trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unmingle.systems import MaskingSystem

_INPUTS = ("network.layers.0.weight_ih_l0", "network.layers.0.weight_ih_l0_reverse")
_OUTPUTS = ("network.linear.weight", "network.linear.bias")


def frequencies(system: MaskingSystem) -> Tensor:
    """The frequency in hertz of every bin of a system, ``(freqs,)``."""
    stft = system.frontend.stft
    return torch.arange(stft.freqs, dtype=torch.float64) * system.sample_rate / stft.window_length


def at_frequencies(
    weights: dict[str, Tensor], given: Tensor, wanted: Tensor, dimension: int
) -> dict[str, Tensor]:
    """The weights, interpolated between the frequencies that the network knows.

    A frequency between two known ones gets the mean of their weights. Inputs are scaled so that their sum stays
    the same, since neighbouring bins are alike. Above the highest known frequency, input weights are zero and
    outputs are those of the highest frequency.

    Args:
        weights: of an embedding separator with a BLSTM.
        given: the frequencies that they belong to in hertz, ascending.
        wanted: those of the new spectrogram.
        dimension: K, of the embedding.
    """
    changed = dict(weights)
    known = (wanted <= given[-1] + 1e-6).to(torch.float32)
    scale = len(given) / float(known.sum())
    for name in _INPUTS:
        changed[name] = interpolated(weights[name], given, wanted) * known * scale
    for name in _OUTPUTS:
        rows = weights[name].reshape(len(given), dimension, -1)
        moved = interpolated(rows.permute(1, 2, 0), given, wanted).permute(2, 0, 1)
        changed[name] = moved.reshape(len(wanted) * dimension, *weights[name].shape[1:])
    return changed


def interpolated(values: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """Linear interpolation along the last axis, the last value beyond the end."""
    place = torch.from_numpy(np.interp(wanted.numpy(), given.numpy(), np.arange(len(given)))).float()
    low = place.floor().long()
    high, share = (low + 1).clamp_max(len(given) - 1), place - low
    return values[..., low] * (1 - share) + values[..., high] * share
