"""Remove noise from a recording block by block."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.arrays import as_rate, as_samples
from unmingle.audio import Samples
from unmingle.audio_stream import Frames, RateConverter, StftStream
from unmingle.denoising.expert_choice import ExpertMasks
from unmingle.denoising.post_gain import LOOK_AHEAD_FRAMES, PostGain
from unmingle.errors import UnmingleError
from unmingle.systems import DenoisingSystem
from unmingle.systems.denoiser import prelude


class DenoisingStream:
    """Removes noise from one recording, block by block, at any sample rate.

    All channels have the same mask, so that stereo positions stay. It is computed from the root mean square of the
    channels' magnitudes. Above the model's band (8 kHz for a 16 kHz model), each frame has the average gain of the
    upper half of the band. Block size does not change the result.

    Args:
        system: the denoiser.
        sample_rate: of the audio, in hertz.
        channels: number of channels.
        expert: number of a specialist that runs all the time (default: the gate chooses).
        look_ahead_seconds: length of the audio that the gate uses before it chooses, and maximum length of the
            system's prelude; 0 for live use.
        attenuation_limit: maximum attenuation in dB; None for no limit.

    Raises:
        UnmingleError: the rate, look-ahead, limit or number of channels is not valid, or the specialist does not
            exist.
    """

    def __init__(
        self,
        system: DenoisingSystem,
        sample_rate: int,
        channels: int = 1,
        *,
        expert: int | None = None,
        look_ahead_seconds: float = 0.0,
        attenuation_limit: float | None = None,
    ) -> None:
        sample_rate = as_rate(sample_rate)
        if channels < 1:
            raise UnmingleError(f"A stream needs at least one channel; got {channels}.")
        if not 0.0 <= look_ahead_seconds <= 3600.0:
            raise UnmingleError(f"look_ahead_seconds must lie between 0 and 3600; got {look_ahead_seconds}.")
        self.sample_rate, self.channels, self.outputs = sample_rate, channels, channels
        self._system, self._stft = system, system.frontend.stft
        look_ahead = round(look_ahead_seconds * system.sample_rate / system.hop)
        self.masks = ExpertMasks(system, expert, look_ahead)
        self._post_gain = PostGain(system.sample_rate, attenuation_limit, min(look_ahead, LOOK_AHEAD_FRAMES))
        self._prelude_frames = min(look_ahead, system.prelude_frames)
        self._magnitude = Frames(system.frontend.mean.new_zeros(1, 0, self._stft.freqs))
        self._frames = StftStream(self._stft, channels)
        self._level = system.frontend.initial_state(1)
        self._spectra = torch.zeros(channels, 0, self._stft.freqs, dtype=torch.complex64)
        self._pushed = self._given = self._samples = 0
        self._flat = self._ended = False
        waits = max(self.masks.look_ahead, self._prelude_frames) + self._post_gain.look_ahead
        self.lag_seconds = (waits * system.hop + self._stft.window_length) / system.sample_rate
        self._converter = None
        if sample_rate != system.sample_rate:
            self._converter = RateConverter(sample_rate, system.sample_rate, system.hop, channels)
            self.lag_seconds += self._converter.lag_seconds

    def push(self, block: NDArray[np.generic]) -> Samples:
        """Push audio ``(samples,)`` or ``(channels, samples)``; returns the output that is ready.

        Raises:
            UnmingleError: the number of channels is wrong, a sample is not finite or beyond 1e10, or the stream has
                ended. The state of the stream does not change.
        """
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        audio = self._checked(block)
        self._pushed += audio.shape[1]
        return self._answer(self._run(audio, ended=False))

    def flush(self) -> Samples:
        """End the input; returns the remaining output. The stream cannot be used any more."""
        if self._ended:
            raise UnmingleError("The stream has ended; open another.")
        self._ended = True
        ready = self._run(np.zeros((self.channels, 0), dtype=np.float32), ended=True)
        left = self._pushed - self._given
        return self._answer(np.pad(ready[:, :left], ((0, 0), (0, max(0, left - ready.shape[1])))))

    def _run(self, audio: Samples, *, ended: bool) -> Samples:
        if self._converter is None:
            return self._denoise(audio, ended=ended)[0]
        converted = self._converter.to_model(audio, ended=ended)
        return self._converter.from_model(*self._denoise(converted, ended=ended), ended=ended)

    @torch.inference_mode()
    def _denoise(self, audio: Samples, *, ended: bool) -> tuple[Samples, Samples]:
        """At the model's rate: samples that are ready, and each new frame's gain in the upper half of the band."""
        self._samples += audio.shape[1]
        missing = self._stft.missing(self._samples) if ended else 0
        audio = np.pad(audio, ((0, 0), (0, missing)))
        spectrum = self._frames.analyse(torch.from_numpy(audio), ended=ended)
        magnitude = spectrum.abs()
        if self.channels > 1:
            magnitude = magnitude.square().mean(dim=0, keepdim=True).sqrt()
        if self._prelude_frames:
            magnitude = self._after_prelude(magnitude, ended=ended)
        features = magnitude
        if magnitude.shape[1]:
            features = self._system.frontend.step(magnitude, self._level)
        masks = self.masks.push(features, magnitude, ended=ended)
        self._spectra = torch.cat([self._spectra, spectrum], dim=1)
        new = self._spectra[:, self._post_gain.waiting :][:, : masks.shape[1]]
        heard = new.abs().square().mean(dim=0, keepdim=True).sqrt()
        masks = self._post_gain.push(masks, heard, ended=ended)
        ready, self._spectra = self._spectra[:, : masks.shape[1]], self._spectra[:, masks.shape[1] :]
        masked = ready * masks
        gains = np.zeros((1, 0), dtype=np.float32)
        if self._converter is not None:
            upper = slice(self._stft.freqs // 2, None)
            kept, all_ = (part[..., upper].abs().square().sum(dim=(0, 2)) for part in (masked, ready))
            gains = (kept / all_.clamp_min(1e-20)).sqrt().numpy()[None]
        cleaned = self._frames.synthesise(masked, ended=ended).numpy()
        return cleaned[:, : cleaned.shape[1] - missing], gains

    def _after_prelude(self, magnitude: Tensor, *, ended: bool) -> Tensor:
        """No frames until the prelude is complete; then all frames, with a state that the prelude has initialized."""
        self._magnitude.add(magnitude)
        if not self._magnitude.count or (self._magnitude.count < self._prelude_frames and not ended):
            return magnitude[:, :0]
        waited = self._magnitude.take(self._magnitude.count)
        first = prelude(waited, self._prelude_frames)
        self.masks.begin(self._system.frontend.step(first, self._level))
        self._prelude_frames = 0
        return waited

    def _checked(self, block: NDArray[np.generic]) -> Samples:
        samples = as_samples(block)
        flat = samples.ndim == 1
        if (1 if flat else len(samples)) != self.channels:
            raise UnmingleError(
                f"The stream has {self.channels} channels; a block must be (channels, samples), got {block.shape}."
            )
        self._flat = flat
        return samples[None] if flat else samples

    def _answer(self, audio: Samples) -> Samples:
        self._given += audio.shape[1]
        return audio[0] if self._flat else audio
