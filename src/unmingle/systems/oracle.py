"""Oracles: masks made from the true sources. They bound what any mask on the mixture's phase can do."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from unmingle.errors import UnmingleError
from unmingle.masks import apply_masks, ideal_binary_mask, ideal_ratio_mask, wiener_filter_mask
from unmingle.stft import Stft

OracleName = Literal["ibm", "irm", "wfm"]
_MASKS = {"ibm": ideal_binary_mask, "irm": ideal_ratio_mask, "wfm": wiener_filter_mask}


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
        masks = self._mask(self._stft.analyse(sources))
        return self._stft.synthesise(apply_masks(self._stft.analyse(mixture), masks), mixture.shape[-1])
