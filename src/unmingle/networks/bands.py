"""Frequency bands: neighbouring bins share one value, so that a frame has fewer values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bands(nn.Module):
    """Groups of neighbouring bins: one bin per band up to bin ``alone``, then twice as many per octave above.

    Args:
        freqs: number of bins.
        alone: the last bin with its own band; the last band of an octave may be narrower.
    """

    index: Tensor
    """``(freqs,)``: the band of each bin."""
    _members: Tensor
    """``(bands, freqs)``: 1 if a bin belongs to a band, else 0."""
    _shares: Tensor
    """``(freqs, bands)``: the weight of each bin in the mean of its band."""

    def __init__(self, freqs: int, alone: int) -> None:
        super().__init__()
        sizes: list[int] = []
        first, width = 0, 1
        while first < freqs:
            # Bin 0 belongs to no octave, so octaves end with their last bin.
            end = min(freqs, alone * width + 1)
            sizes += [min(width, end - k) for k in range(first, end, width)]
            first, width = end, 2 * width
        self.count = len(sizes)
        """Number of bands."""
        places = torch.tensor([band for band, size in enumerate(sizes) for _ in range(size)])
        members, shares = torch.zeros(self.count, freqs), torch.zeros(freqs, self.count)
        # On the meta device, where only shapes matter, PyTorch would load its compiler, which takes seconds.
        if not places.is_meta:
            members.scatter_(0, places[None], 1.0)
            shares.copy_((members / members.sum(dim=1, keepdim=True)).T)
        self.register_buffer("index", places, persistent=False)
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer("_shares", shares, persistent=False)

    def pool(self, bins: Tensor) -> Tensor:
        """The mean of each band's bins: ``(batch, frames, freqs)`` to ``(batch, frames, bands)``."""
        # A matrix product: for one frame of a stream, averaging octave by octave takes three times as long.
        return bins @ self._shares.to(bins.dtype)

    def spread(self, bands: Tensor) -> Tensor:
        """Copy each band's value to its bins: ``(batch, frames, bands)`` to ``(batch, frames, freqs)``."""
        # A matrix product, exact with zeros and ones. Indexing and its gradient take three times as long.
        return bands @ self._members.to(bands.dtype)
