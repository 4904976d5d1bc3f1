"""Short-time Fourier transform with exact reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from unmingle.padding import frame_count

WINDOWS: dict[str, Callable[[int], Tensor]] = {
    "sqrt_hann": lambda length: _hann(length).sqrt(),
    "hann": lambda length: _hann(length),
}
"""All windows by their names. Recipes accept these names."""


def _hann(length: int) -> Tensor:
    # Also where modules are built on the meta device: there PyTorch would load its compiler, which takes seconds.
    return torch.hann_window(length, periodic=True, device="cpu")


if TYPE_CHECKING:
    WindowName = str
else:
    WindowName = Literal[tuple(WINDOWS)]


class Stft(nn.Module):
    """Analysis and synthesis with the same window.

    Args:
        window_length: in samples; also the size of the transform.
        hop: in samples; at most half the window.
        window: a name in :data:`WINDOWS`: ``sqrt_hann`` (Luo, Isik) or ``hann`` (Mobin), both periodic.
    """

    window: Tensor

    def __init__(self, window_length: int, hop: int, window: WindowName = "sqrt_hann") -> None:
        super().__init__()
        if not 0 < hop <= window_length // 2:
            raise ValueError(f"hop must lie in 1..{window_length // 2}, half the window; got {hop}")
        self.window_length = window_length
        self.hop = hop
        self.register_buffer("window", WINDOWS[window](window_length), persistent=False)

    @property
    def freqs(self) -> int:
        """Number of frequencies, from 0 to half the sample rate."""
        return self.window_length // 2 + 1

    def frames(self, samples: int) -> int:
        """Number of frames of a signal with ``samples`` samples."""
        return frame_count(samples, self.hop)

    def missing(self, samples: int) -> int:
        """Number of samples to append before frames are masked, so that the last sample is a frame's centre.

        Samples after the last centre lie at the end of one window alone if the hop is half a window. The window is
        near 0 there, and :meth:`synthesise` divides by it: what the mask has changed becomes a click.
        """
        return -samples % self.hop

    def analyse(self, audio: Tensor) -> Tensor:
        """``(..., samples)`` real to ``(..., frames, freqs)`` complex; frame t is centred on t * hop."""
        spectrum = torch.stft(
            audio.reshape(-1, audio.shape[-1]),
            self.window_length,
            self.hop,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).transpose(-1, -2)
        return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[-2:])

    def synthesise(self, spectrum: Tensor, samples: int) -> Tensor:
        """``(..., frames, freqs)`` complex back to ``(..., samples)`` real; inverts :meth:`analyse`."""
        flat = spectrum.reshape(-1, *spectrum.shape[-2:]).transpose(-1, -2)
        # istft needs a length of at least one hop. Samples beyond `samples` are silence.
        audio = torch.istft(
            flat, self.window_length, self.hop, window=self.window, center=True, length=max(samples, self.hop)
        )[:, :samples]
        return audio.reshape(*spectrum.shape[:-2], samples)
