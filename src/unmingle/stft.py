"""Short-time Fourier transform with exact reconstruction, in the house's layouts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

WindowName = Literal["sqrt_hann", "hann"]


class Stft(nn.Module):
    """Analysis and synthesis with one window.

    Args:
        window_length: in samples; also the size of the transform.
        hop: in samples; at most half the window.
        window: ``sqrt_hann`` (Luo, Isik) or ``hann`` (Mobin); both periodic.
    """

    window: Tensor

    def __init__(self, window_length: int, hop: int, window: WindowName = "sqrt_hann") -> None:
        super().__init__()
        if not 0 < hop <= window_length // 2:
            raise ValueError(f"hop must lie in 1..{window_length // 2}, half the window; got {hop}")
        self.window_length = window_length
        self.hop = hop
        values = torch.hann_window(window_length, periodic=True)
        self.register_buffer("window", values.sqrt() if window == "sqrt_hann" else values, persistent=False)

    @property
    def freqs(self) -> int:
        """Number of frequencies, from 0 to half the sample rate."""
        return self.window_length // 2 + 1

    def frames(self, samples: int) -> int:
        """Number of frames that ``samples`` samples give."""
        return samples // self.hop + 1

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
        # istft wants to be told of at least one hop; what lies beyond `samples` is silence.
        audio = torch.istft(
            flat, self.window_length, self.hop, window=self.window, center=True, length=max(samples, self.hop)
        )[:, :samples]
        return audio.reshape(*spectrum.shape[:-2], samples)


class StftStream:
    """An :class:`Stft` that takes audio block by block, for ``channels`` signals side by side.

    Frames come as soon as their window is full; audio as soon as no later frame reaches it. All blocks
    together give what :meth:`Stft.analyse` and :meth:`Stft.synthesise` give of the whole.
    """

    def __init__(self, stft: Stft, channels: int) -> None:
        self._stft = stft
        window = stft.window
        self._squares = window.square()
        # Frame 0 is centred on the first sample: half a window of silence comes before it.
        self._waiting = window.new_zeros(channels, stft.window_length // 2)
        self._sum = window.new_zeros(channels, 0)
        self._envelope = window.new_zeros(1, 0)
        self._heard, self._framed, self._given = 0, 0, -(stft.window_length // 2)

    def analyse(self, audio: Tensor, *, ended: bool = False) -> Tensor:
        """Some more samples ``(channels, samples)``: the frames that are known now, ``(channels, frames, freqs)``.

        With ``ended`` all frames that are still owed come.
        """
        window, hop = self._stft.window_length, self._stft.hop
        self._heard += audio.shape[-1]
        waiting = torch.cat([self._waiting, audio], dim=-1)
        if ended:
            owed = self._stft.frames(self._heard) - self._framed
            waiting = nn.functional.pad(waiting, (0, max(0, (owed - 1) * hop + window - waiting.shape[-1])))
            waiting = waiting[:, : (owed - 1) * hop + window] if owed else waiting[:, :0]
        frames = max(0, (waiting.shape[-1] - window) // hop + 1)
        self._framed += frames
        self._waiting = waiting[:, frames * hop :]
        if not frames:
            return torch.zeros(len(waiting), 0, self._stft.freqs, dtype=torch.complex64, device=audio.device)
        spectrum: Tensor = torch.fft.rfft(waiting.unfold(-1, window, hop) * self._stft.window)
        return spectrum

    def synthesise(self, spectrum: Tensor, *, ended: bool = False) -> Tensor:
        """Some more frames ``(channels, frames, freqs)``: the samples that are known now, ``(channels, samples)``.

        With ``ended`` all samples that are still owed come.
        """
        window, hop = self._stft.window_length, self._stft.hop
        count = spectrum.shape[1]
        if count:
            pieces = torch.fft.irfft(spectrum, window) * self._stft.window
            squares = self._squares.expand(1, count, window)
            self._sum = _added(self._sum, pieces, hop)
            self._envelope = _added(self._envelope, squares, hop)
        ready = self._sum.shape[-1] if ended else count * hop
        audio = self._sum[:, :ready] / self._envelope[:, :ready].clamp_min(1e-11)
        self._sum, self._envelope = self._sum[:, ready:], self._envelope[:, ready:]
        start = max(0, -self._given)
        self._given += ready
        if ended:
            audio = audio[:, : audio.shape[-1] - max(0, self._given - self._heard)]
        return audio[:, start:]


def _added(before: Tensor, pieces: Tensor, hop: int) -> Tensor:
    """Windows ``(channels, frames, window)`` added ``hop`` apart, onto what is there of earlier ones."""
    channels, count, window = pieces.shape
    size = (count - 1) * hop + window
    if count == 1:
        alone = pieces[:, 0].clone()
        alone[:, : before.shape[-1]] += before
        return alone
    summed = nn.functional.fold(pieces.transpose(1, 2), (1, size), (1, window), stride=(1, hop))
    summed = summed.reshape(channels, size)
    summed[:, : before.shape[-1]] += before
    return summed
