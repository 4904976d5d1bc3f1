"""Oracles: masks from the true sources. They are an upper bound for masks with the mixture's phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from unmingle.errors import UnmingleError
from unmingle.masks import (
    apply_masks,
    ideal_binary_mask,
    ideal_ratio_mask,
    phase_sensitive_mask,
    root_ideal_ratio_mask,
    wiener_filter_mask,
)
from unmingle.stft import Stft

OracleName = Literal["ibm", "irm", "root_irm", "wfm", "psm"]
_MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ibm": lambda sources, mixture: ideal_binary_mask(sources),
    "irm": lambda sources, mixture: ideal_ratio_mask(sources),
    "root_irm": lambda sources, mixture: root_ideal_ratio_mask(sources),
    "wfm": lambda sources, mixture: wiener_filter_mask(sources),
    "psm": phase_sensitive_mask,
}


class Oracle:
    """Ideal masks on the papers' spectrogram: 32 ms square-root-of-Hann windows, every 8 ms."""

    def __init__(self, name: str, sample_rate: int) -> None:
        if name not in get_args(OracleName):
            raise UnmingleError(
                f"There is no oracle {name!r}; choose one of {', '.join(get_args(OracleName))}."
            )
        self._mask = _MASKS[name]
        hop = round(0.008 * sample_rate)
        self._stft = Stft(4 * hop, hop)

    def separate(self, mixture: Tensor, sources: Tensor) -> Tensor:
        """Estimates ``(batch, sources, samples)`` from mixtures ``(batch, samples)`` and their sources."""
        spectrum = self._stft.analyse(mixture)
        masks = self._mask(self._stft.analyse(sources), spectrum)
        return self._stft.synthesise(apply_masks(spectrum, masks), mixture.shape[-1])
