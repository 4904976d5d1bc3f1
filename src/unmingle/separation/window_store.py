"""The masks of a recording's windows in a temporary file, cross-faded where windows overlap.

The energies of the sources are there, too, and the magnitudes of the mixture, if they are needed again. So memory
hardly grows with the length of a recording.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples
from unmingle.temporary import refusal


@dataclass(frozen=True)
class Window:
    """Position of a window in the recording, and of its values in the temporary file."""

    first: int
    """Its first frame."""
    sources: int
    frames: int
    energies: int
    """Offset of its energies."""
    masks: int
    """Offset of its masks, and of the magnitudes after them."""

    @property
    def end(self) -> int:
        """The frame after its last one."""
        return self.first + self.frames


@dataclass(frozen=True)
class Kept:
    """Position and shape of other values in the temporary file."""

    offset: int
    shape: tuple[int, ...]


class WindowStore:
    """Masks of windows, in half precision. :meth:`close` removes the file.

    Args:
        freqs: number of frequencies of a mask.
        magnitudes: keep those of the mixture for :meth:`window`.
    """

    def __init__(self, freqs: int, *, magnitudes: bool = False) -> None:
        self._freqs, self._magnitudes = freqs, magnitudes
        # Open until the store is closed.
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self.windows: list[Window] = []

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def add(self, first: int, masks: Tensor, magnitude: Tensor) -> None:
        """Add the window from frame ``first`` on.

        Args:
            first: its first frame in the recording.
            masks: ``(sources, frames, freqs)``.
            magnitude: of the mixture, ``(frames, freqs)``.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        energies = _energies(masks * magnitude).tobytes()
        sources, frames, _ = masks.shape
        start = self._file.seek(0, 2)
        window = Window(first, sources, frames, start, start + len(energies))
        self.windows.append(window)
        self._write(energies)
        self._write(masks.half().cpu().numpy().tobytes())
        if self._magnitudes:
            # Relative to the largest one, because half precision has no small numbers.
            relative = magnitude / magnitude.max().clamp_min(1e-30)
            self._write(relative.half().cpu().numpy().tobytes())

    def keep(self, values: NDArray[np.float16]) -> Kept:
        """Write values of any shape, for :meth:`load`.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        kept = Kept(self._file.seek(0, 2), values.shape)
        self._write(values.tobytes())
        return kept

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            where = Path(tempfile.gettempdir())
            raise refusal(where, error, "free some space, or set TMPDIR to another folder") from error

    def load(self, kept: Kept) -> NDArray[np.float16]:
        """The values of :meth:`keep`."""
        self._file.seek(kept.offset)
        content = self._file.read(np.dtype(np.float16).itemsize * math.prod(kept.shape))
        return np.frombuffer(content, dtype=np.float16).reshape(kept.shape)

    def energies(self, number: int, *, upper: bool = False) -> Samples:
        """Energy of each source of a window, and cross-energy of each pair of sources, in each frame.

        Args:
            number: of the window.
            upper: of the upper half of the frequencies only.

        Returns:
            ``(sources, sources, frames)``.
        """
        window = self.windows[number]
        shape = window.sources, window.sources, window.frames
        size = np.dtype(np.float32).itemsize * math.prod(shape)
        self._file.seek(window.energies + upper * size)
        return np.frombuffer(self._file.read(size), dtype=np.float32).reshape(shape)

    def window(self, number: int) -> tuple[Samples, Samples]:
        """Magnitudes of the mixture ``(frames, freqs)``, relative to their largest, and masks of a whole window.

        Masks are ``(sources, frames, freqs)``. Magnitudes must have been kept.
        """
        window = self.windows[number]
        loaded = [self._load(window, place, 0, window.frames) for place in range(window.sources + 1)]
        return loaded[-1], np.stack(loaded[:-1])

    def masks(self, first: int, count: int, speakers: int, shares: Callable[[int], Samples]) -> Samples:
        """Masks ``(speakers, count, freqs)`` of ``count`` frames.

        Args:
            first: first frame.
            count: number of frames.
            speakers: number of speakers.
            shares: gives, for a window's number, how much of each of its sources goes to each speaker:
                ``(sources, speakers, frames)``.
        """
        masks = np.zeros((speakers, count, self._freqs), dtype=np.float32)
        weights = np.full((count, 1), 1e-9, dtype=np.float32)
        for number, window in enumerate(self.windows):
            begin, end = max(first, window.first), min(first + count, window.end)
            if begin >= end:
                continue
            own, place = slice(begin - window.first, end - window.first), slice(begin - first, end - first)
            fade = self._fade(number)[own]
            weights[place] += fade[:, None]
            for source, share in enumerate(shares(number)[..., own] * fade):
                loaded = self._load(window, source, begin - window.first, end - begin)
                for speaker in np.flatnonzero(share.any(axis=1)):
                    masks[speaker, place] += share[speaker, :, None] * loaded
        found: Samples = masks / weights
        return found

    def cross_fade(self, values: Sequence[Samples]) -> Samples:
        """Values of the whole recording ``(speakers, frames)``, from those of every window."""
        total = self.windows[-1].end
        joined = np.zeros((len(values[0]), total), dtype=np.float32)
        weights = np.full(total, 1e-9, dtype=np.float32)
        for number, (window, own) in enumerate(zip(self.windows, values, strict=True)):
            frames, fade = slice(window.first, window.end), self._fade(number)
            weights[frames] += fade
            joined[:, frames] += fade * own
        return joined / weights

    def _load(self, window: Window, source: int, first: int, count: int) -> Samples:
        self._file.seek(window.masks + 2 * self._freqs * (source * window.frames + first))
        halves = np.frombuffer(self._file.read(2 * self._freqs * count), dtype=np.float16)
        return halves.reshape(count, self._freqs).astype(np.float32)

    def _fade(self, number: int) -> Samples:
        """Weight ``(frames,)`` of each of a window's frames, with fades where it overlaps its neighbours."""
        window = self.windows[number]
        weight = np.ones(window.frames, dtype=np.float32)
        if number > 0:
            shared = self._shared(number - 1)
            weight[:shared] = (np.arange(shared) + 0.5) / shared
        if number + 1 < len(self.windows):
            shared = self._shared(number)
            weight[window.frames - shared :] *= (np.arange(shared)[::-1] + 0.5) / shared
        return weight

    def _shared(self, number: int) -> int:
        """Number of frames in common with the next window."""
        return self.windows[number].end - self.windows[number + 1].first


def _energies(estimates: Tensor) -> Samples:
    """Energies of sources, and what each two have in common, of all frequencies and of the upper half of them.

    Args:
        estimates: magnitudes of the sources, ``(sources, frames, freqs)``.

    Returns:
        ``(2, sources, sources, frames)``.
    """
    upper = estimates[..., estimates.shape[-1] // 2 :]
    both = [torch.einsum("stf,rtf->srt", part, part).cpu().numpy() for part in (estimates, upper)]
    return np.stack(both)
