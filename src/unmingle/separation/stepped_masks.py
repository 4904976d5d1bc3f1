"""Masks for a stream, from a system that runs frame by frame."""

from __future__ import annotations

from torch import Tensor

from unmingle.audio import Samples
from unmingle.audio_stream import Frames
from unmingle.separation.adding_up import RunningGains
from unmingle.systems import MaskingSystem, MaskSteps


class SteppedMasks:
    """Masks and gains of one stream.

    Args:
        steps: a new run of the system.
        system: the system.
    """

    def __init__(self, steps: MaskSteps, system: MaskingSystem) -> None:
        self.lag_frames = steps.lag_frames
        self._steps, self._upper = steps, system.frontend.stft.freqs // 2
        self._frame_seconds = system.hop / system.sample_rate
        self._waiting = Frames(system.frontend.mean.new_zeros(1, 0, system.frontend.stft.freqs))
        self._gains: RunningGains | None = None

    def push(self, audio: Samples, spectrum: Tensor, *, ended: bool) -> tuple[Tensor, Samples]:
        """Push the next frames of the ``spectrum`` ``(1, frames, freqs)``. The ``audio`` is not used.

        Returns:
            Masks ``(speakers, frames, freqs)`` of the frames that are ready, and each speaker's share of their
            residual, ``(speakers, frames)``. With ``ended`` all remaining frames are ready.
        """
        magnitude = spectrum.abs()
        self._waiting.add(magnitude)
        masks = self._steps.push(magnitude, ended=ended)
        if self._gains is None:
            self._gains = RunningGains(len(masks), self._frame_seconds)
        upper = (masks * self._waiting.take(masks.shape[1]))[..., self._upper :]
        return masks, self._gains.push(upper.square().sum(dim=2).double().numpy())
