"""Bands: fewer values for a frame where neighbouring bins tell the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bands(nn.Module):
    """Groups of neighbouring bins: one bin each up to bin ``alone``, then twice as many in every octave.

    Args:
        freqs: number of bins.
        alone: the last bin that is a band of its own; the last band of an octave may be narrower.
    """

    index: Tensor
    """``(freqs,)``: the band that each bin lies in."""
    _members: Tensor
    """``(bands, freqs)``: 1 where a bin lies in a band, else 0."""
    _shares: Tensor
    """``(freqs, bands)``: what share of a band each bin is."""

    def __init__(self, freqs: int, alone: int) -> None:
        super().__init__()
        sizes: list[int] = []
        first, width = 0, 1
        while first < freqs:
            # Bin 0 is no frequency of an octave: they end with their last bin.
            end = min(freqs, alone * width + 1)
            sizes += [min(width, end - k) for k in range(first, end, width)]
            first, width = end, 2 * width
        self.count = len(sizes)
        """Number of bands."""
        places = [band for band, size in enumerate(sizes) for _ in range(size)]
        members = torch.eye(self.count)[:, places]
        self.register_buffer("index", torch.tensor(places), persistent=False)
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer(
            "_shares", (members / members.sum(dim=1, keepdim=True)).T.contiguous(), persistent=False
        )

    def pool(self, bins: Tensor) -> Tensor:
        """The mean of each band's bins: ``(batch, frames, freqs)`` to ``(batch, frames, bands)``."""
        # A product: for one frame of a stream, averages octave by octave take three times as long.
        return bins @ self._shares.to(bins.dtype)

    def spread(self, bands: Tensor) -> Tensor:
        """Each band's value for all its bins: ``(batch, frames, bands)`` to ``(batch, frames, freqs)``."""
        # A product, exact with zeros and ones: picking by index, and its gradient, take three times as long.
        return bands @ self._members.to(bands.dtype)
