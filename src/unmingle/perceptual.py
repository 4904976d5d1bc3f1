"""How far an estimate is from clean speech for the ear: the distances of PESQ, with gradients.

PESQ (ITU-T P.862, wide band: P.862.2) compares the loudness of two signals in 49 bands of the Bark scale. Two
distances give its score: the disturbance, and the asymmetrical disturbance, which counts what was added. Here they
are functions with gradients, so that networks can learn from them. Two steps of PESQ are missing: the alignment in
time, because a mask delays nothing, and the second search for bad intervals. ``tests/test_perceptual.py`` compares
the scores with those of the package ``pesq``.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

PESQ_RATE = 16000
"""Sample rate in hertz of the wide-band version, the only one here."""
_WINDOW, _HOP = 512, 256
_BINS = (
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7,
    8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20)  # fmt: skip
"""Bins of the spectrum in each band. The last bin is in none."""
_CENTRES = (
    0.078672, 0.316341, 0.636559, 0.961246, 1.290450, 1.624217, 1.962597, 2.305636, 2.653383, 3.005889, 3.363201,
    3.725371, 4.092449, 4.464486, 4.841533, 5.223642, 5.610866, 6.003256, 6.400869, 6.803755, 7.211971, 7.625571,
    8.044611, 8.469146, 8.899232, 9.334927, 9.776288, 10.223374, 10.676242, 11.134952, 11.599563, 12.070135,
    12.546731, 13.029408, 13.518232, 14.013264, 14.514566, 15.022202, 15.536238, 16.056736, 16.583761, 17.117382,
    17.657663, 18.204674, 18.758478, 19.319147, 19.886751, 20.461355, 21.043034)  # fmt: skip
"""Centres of the bands, in Bark."""
_WIDTHS = (
    0.157344, 0.317994, 0.322441, 0.326934, 0.331474, 0.336061, 0.340697, 0.345381, 0.350114, 0.354897, 0.359729,
    0.364611, 0.369544, 0.374529, 0.379565, 0.384653, 0.389794, 0.394989, 0.400236, 0.405538, 0.410894, 0.416306,
    0.421773, 0.427297, 0.432877, 0.438514, 0.444209, 0.449962, 0.455774, 0.461645, 0.467577, 0.473569, 0.479621,
    0.485736, 0.491912, 0.498151, 0.504454, 0.510819, 0.517250, 0.523745, 0.530308, 0.536934, 0.543629, 0.550390,
    0.557220, 0.564119, 0.571085, 0.578125, 0.585232)  # fmt: skip
"""Widths of the bands, in Bark."""
_DENSITIES = (
    100.000000, 99.999992, 100.000000, 100.000008, 100.000008, 100.000015, 99.999992, 99.999969, 50.000027,
    100.000000, 99.999969, 100.000015, 99.999947, 100.000061, 53.047077, 110.000046, 117.991989, 65.000000,
    68.760147, 69.999931, 71.428818, 75.000038, 76.843384, 80.968781, 88.646126, 63.864388, 68.155350, 72.547775,
    75.584831, 58.379192, 80.950836, 64.135651, 54.384785, 73.821884, 64.437073, 59.176456, 65.521278, 61.399822,
    58.144047, 57.004543, 64.126297, 54.311001, 61.114979, 55.077751, 56.849335, 55.628868, 53.137054, 54.985844,
    79.546974)  # fmt: skip
"""Factors from the power of a band to its density."""
_THRESHOLDS = (
    51286152.0, 2454709.5, 70794.59375, 4897.788574, 1174.897705, 389.045166, 104.712860, 45.708820, 17.782795,
    9.772372, 4.897789, 3.090296, 1.905461, 1.258925, 0.977237, 0.724436, 0.562341, 0.457088, 0.389045, 0.331131,
    0.295121, 0.269153, 0.257040, 0.251189, 0.251189, 0.251189, 0.251189, 0.263027, 0.288403, 0.309030, 0.338844,
    0.371535, 0.398107, 0.436516, 0.467735, 0.489779, 0.501187, 0.501187, 0.512861, 0.524807, 0.524807, 0.524807,
    0.512861, 0.478630, 0.426580, 0.371535, 0.363078, 0.416869, 0.537032)  # fmt: skip
"""Power densities at the threshold of hearing."""
_POWER_SCALE, _LOUDNESS_SCALE, _ZWICKER = 6.910853e-6, 0.1866055, 0.23
_LEVEL, _LEVEL_BAND = 1e7, (325.0, 3250.0)
"""Power to which signals are scaled, and the band in hertz that counts for it."""
_EMPHASIS = ((2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794))
"""Coefficients of the input filter of the wide-band version: numerator and denominator."""
_SYLLABLE = 20
"""Frames of an interval; half of it is in the next one, too."""


def perceptual_distance(estimates: Tensor, references: Tensor) -> Tensor:
    """``0.1 d + 0.0309 d_a`` of PESQ's disturbance d and asymmetrical disturbance d_a; 0 is equal, 3.5 is bad.

    Args:
        estimates: ``(batch, samples)`` at 16 kHz. The level does not matter.
        references: clean speech, of the same shape.

    Returns:
        ``(batch,)``.
    """
    estimates, references = estimates.float(), references.float()
    bands = [_band_powers(_filtered(audio)) for audio in (estimates, references)]
    heard, reference = _equalized(*bands)
    loudness, wanted = _loudness(heard), _loudness(reference)
    difference = loudness - wanted
    # Small differences are masked.
    unmasked = (difference.abs() - 0.25 * torch.minimum(loudness, wanted)).clamp_min(0.0)
    added = ((heard + 50.0) / (reference + 50.0)) ** 1.2
    added = torch.where(added < 3.0, torch.zeros_like(added), added.clamp_max(12.0))
    loud = ((_audible(reference) + 1e5) / 1e7) ** 0.04
    symmetrical = _over_time(_over_bands(unmasked, 2.0) / loud)
    asymmetrical = _over_time(_over_bands(unmasked * added, 1.0) / loud)
    return 0.1 * symmetrical + 0.0309 * asymmetrical


def pairwise_perceptual_distance(estimates: Tensor, sources: Tensor, active: Tensor) -> Tensor:
    """:func:`perceptual_distance` of every pair: ``(batch, sources, estimates)``; 0 for a source without speech.

    Args:
        estimates: ``(batch, estimates, samples)`` at 16 kHz.
        sources: ``(batch, sources, samples)``.
        active: ``(batch, sources)``, true where a source is a speaker.
    """
    shape = len(sources), sources.shape[1], estimates.shape[1]
    pairs = (part.expand(*shape, -1).flatten(0, 2) for part in (estimates.unsqueeze(1), sources.unsqueeze(2)))
    distance = perceptual_distance(*pairs).reshape(shape)
    return torch.where(active.unsqueeze(2), distance, torch.zeros_like(distance))


def pesq_of_distance(distance: Tensor) -> Tensor:
    """The PESQ score (MOS-LQO, P.862.2), 1.04 to 4.64, of a :func:`perceptual_distance`."""
    return 0.999 + 4.0 / (1.0 + torch.exp(-1.3669 * (4.5 - distance) + 3.8224))


@cache
def _table(name: str, device: torch.device) -> Tensor:
    values = {
        "widths": torch.tensor(_WIDTHS),
        "thresholds": torch.tensor(_THRESHOLDS),
        "densities": torch.tensor(_DENSITIES) * _POWER_SCALE,
        # Below 4 Bark the exponent is larger.
        "exponents": _ZWICKER * (6.0 / (torch.tensor(_CENTRES) + 2.0)).clamp(1.0, 2.0) ** 0.15,
        "bands": torch.repeat_interleave(torch.arange(len(_BINS)), torch.tensor(_BINS)),
    }
    return values[name].to(device)


def _filtered(audio: Tensor) -> Tensor:
    """Audio ``(batch, samples)`` at PESQ's level, through its input filter."""
    samples = audio.shape[-1]
    size = 1 << (samples + _WINDOW - 1).bit_length()
    spectrum = torch.fft.rfft(audio, size)
    turns = torch.arange(size // 2 + 1, device=audio.device) / size
    low, high = (edge / PESQ_RATE for edge in _LEVEL_BAND)
    inside = (turns >= low) & (turns <= high)
    power = 2 * spectrum[:, inside].abs().square().sum(dim=-1, keepdim=True) / size / samples
    shift = torch.exp(-2j * torch.pi * turns)
    numerator, denominator = (a + b * shift + c * shift.square() for a, b, c in _EMPHASIS)
    filtered = torch.fft.irfft(spectrum * (numerator / denominator), size)[:, :samples]
    scaled: Tensor = filtered * (_LEVEL / power.clamp_min(1e-20)).sqrt()
    return scaled


def _band_powers(audio: Tensor) -> Tensor:
    """Power densities ``(batch, frames, bands)`` of audio ``(batch, samples)``."""
    window = torch.hann_window(_WINDOW, device=audio.device)
    whole = max(_WINDOW, -(-audio.shape[-1] // _HOP) * _HOP)
    frames = functional.pad(audio, (0, whole - audio.shape[-1])).unfold(-1, _WINDOW, _HOP)
    power = torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(dim=-1)[..., :-1]
    power = torch.cat([torch.zeros_like(power[..., :1]), power[..., 1:]], dim=-1)  # Without the offset.
    bands = power.new_zeros(*power.shape[:2], len(_BINS))
    bands = bands.index_add(2, _table("bands", audio.device), power)
    return bands * _table("densities", audio.device)


def _equalized(heard: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the frequency response of the estimate, and the gain in each frame of the reference."""
    thresholds = _table("thresholds", heard.device)
    speech = (_audible(reference, 100.0) >= 1e7).unsqueeze(-1)
    means = [
        torch.where(speech & (part > 100.0 * thresholds), part, torch.zeros_like(part)).mean(
            dim=1, keepdim=True
        )
        for part in (heard, reference)
    ]
    reference = reference * ((means[0] + 1000.0) / (means[1] + 1000.0)).clamp(0.01, 100.0)
    gain = (_audible(reference) + 5e3) / (_audible(heard) + 5e3)
    gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1).clamp(3e-4, 5.0)
    return heard * gain.unsqueeze(-1), reference


def _audible(bands: Tensor, factor: float = 1.0) -> Tensor:
    """Power of each frame in the bands above ``factor`` times the threshold of hearing, ``(batch, frames)``."""
    above = bands > factor * _table("thresholds", bands.device)
    return torch.where(above, bands, torch.zeros_like(bands))[..., 1:].sum(dim=-1)


def _loudness(bands: Tensor) -> Tensor:
    """Zwicker's loudness density of power densities, of the same shape."""
    thresholds, exponents = _table("thresholds", bands.device), _table("exponents", bands.device)
    above = torch.where(bands > thresholds, bands, thresholds)  # At the threshold the loudness is 0.
    found: Tensor = (2.0 * thresholds) ** exponents * ((0.5 + 0.5 * above / thresholds) ** exponents - 1.0)
    return _LOUDNESS_SCALE * found


def _over_bands(disturbance: Tensor, order: float) -> Tensor:
    """The norm over bands, weighted by their widths: ``(batch, frames)``."""
    widths = _table("widths", disturbance.device)[1:]
    weighted = (disturbance[..., 1:] * widths).clamp_min(1e-10) ** order
    total = widths.sum()
    return (weighted.sum(dim=-1) / total) ** (1.0 / order) * total


def _over_time(disturbance: Tensor) -> Tensor:
    """Of frames ``(batch, frames)``: the norm of order 6 in intervals, then of order 2 over these. ``(batch,)``."""
    size = min(_SYLLABLE, disturbance.shape[-1])
    intervals = disturbance.clamp_max(45.0).unfold(-1, size, max(1, size // 2))
    return (intervals**6).mean(dim=-1).clamp_min(1e-20).pow(1.0 / 6).square().mean(dim=-1).sqrt()
