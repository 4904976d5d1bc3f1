"""One LSTM that masks noise: a specialist of Sivaraman & Kim 2020, or the generalist it is compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from unmingle.batch import MixtureBatch
from unmingle.frontend import Spectra, StftConfig
from unmingle.networks import Bands, Lstm, LstmConfig
from unmingle.padding import frame_counts
from unmingle.systems.base import MaskingSystem, SystemConfig
from unmingle.systems.gate_base import Gate
from unmingle.systems.objectives import ObjectiveName, mask_objective

DENOISING_STFT = StftConfig(window_length=1024, hop=256, level="running")
"""The paper's window and hop at 16 kHz."""


class DenoisingConfig(SystemConfig):
    """What all systems that clean one speaker of noise share."""

    needs_noise: ClassVar[bool] = True
    sample_rate: int = Field(16000, ge=1000, le=192000)
    speakers: Literal[1] = 1
    stft: StftConfig = DENOISING_STFT
    network: LstmConfig = LstmConfig()
    objective: ObjectiveName = "si_sdr"
    prelude_seconds: float = Field(0.0, ge=0.0, le=60.0)
    """Ours: so much of a recording's beginning is heard before it begins, and then again: the level and the network
    know by then what they are in. A live stream, which has no look-ahead, does without."""

    bands_above: float | None = Field(None, gt=0.0, le=96000.0)
    """Ours: above so many hertz, experts hear and mask bands in place of bins, of twice as many bins in every octave;
    every bin, as in the paper, if not given."""

    @field_validator("stft", mode="before")
    @classmethod
    def _streams(cls, stft: Any) -> Any:
        """What is not said is the paper's; and only a running level can stream."""
        if not isinstance(stft, Mapping):
            return stft
        if stft.get("level", "running") != "running":
            raise ValueError("level must be running for a denoiser, which streams")
        return DENOISING_STFT.model_dump() | dict(stft)


class DenoiserConfig(DenoisingConfig):
    """All that makes one denoiser."""

    kind: Literal["denoiser"] = "denoiser"


class DenoisingSystem(MaskingSystem):
    """A system with one mask, for the speaker, which it can also give frame by frame.

    The mask is a ratio between 0 and 1, used on the mixture's magnitude with the mixture's phase.
    """

    default_expert: int = 0
    """The expert that runs in a stream until the gate has heard enough."""
    gate: Gate | None
    """Chooses the expert; None where there is only one."""

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__(config)
        self._config = config

    @property
    def config(self) -> DenoisingConfig:
        return self._config

    @property
    @abstractmethod
    def experts(self) -> Sequence[Lstm]:
        """The networks of which one gives the mask, before the sigmoid."""

    def build_expert(self) -> Lstm:
        """A fresh network from features to a mask before the sigmoid, both ``(batch, frames, freqs)``."""
        freqs, above = self.frontend.stft.freqs, self.config.bands_above
        bands = None
        if above is not None:
            bands = Bands(freqs, max(1, round(above / self.sample_rate * self.frontend.stft.window_length)))
        return Lstm(freqs, freqs, self.config.network, bands)

    def most_speakers(self) -> int | None:
        return 1

    def objective(self, spectra: Spectra, masks: Tensor, batch: MixtureBatch) -> Tensor:
        """What the config trains masks for: ``(batch,)``."""
        stft = self.frontend.stft
        with torch.autocast(masks.device.type, enabled=False):
            return mask_objective(
                self.config.objective, stft, spectra.spectrum, masks.float(), batch, ordered=True
            )

    @property
    def prelude_frames(self) -> int:
        """How many frames are heard before a recording begins."""
        return round(self.config.prelude_seconds * self.sample_rate / self.hop)

    def frames_heard(self, seconds: float) -> int:
        """How many frames a network hears of a recording of so many seconds, the prelude included."""
        return self.prelude_frames + self.frontend.stft.frames(round(seconds * self.sample_rate))

    def with_prelude(
        self, spectra: Spectra, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What networks and the gate hear of whole recordings, the prelude before them.

        Args:
            spectra: of ``(batch, frames, freqs)``.
            lengths: ``(batch,)``, the number of samples that are not padding; all, if not given.

        Returns:
            Features ``(batch, prelude + frames, freqs)``; magnitudes of that shape, 0 in the prelude, which tells the
            gate nothing twice; and for each recording the frames that are not padding, if lengths were given.
        """
        magnitude, count = spectra.magnitude, self.prelude_frames
        frames = frame_counts(lengths, self.hop)
        if not count:
            return spectra.features, magnitude, frames
        first = prelude(magnitude, count, frames)
        state = self.frontend.initial_state(len(magnitude))
        features = self.frontend.step(torch.cat([first, magnitude], dim=1), state)
        padded = torch.nn.functional.pad(magnitude, (0, 0, count, 0))
        return features, padded, None if frames is None else frames + count

    def working_bytes(self, seconds: float, speakers: int) -> int:
        frames = self.frames_heard(seconds)
        return 4 * frames * (8 * self.frontend.stft.freqs + 8 * self.config.network.hidden_size)


class Denoiser(DenoisingSystem):
    """An LSTM and a dense sigmoid layer."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        self.gate = None
        self.network = self.build_expert()

    @property
    def experts(self) -> Sequence[Lstm]:
        return [self.network]

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra: Spectra = self.frontend(mixture)
        features, _, _ = self.with_prelude(spectra, lengths)
        return spectra, torch.sigmoid(self.network(features)[:, self.prelude_frames :]).unsqueeze(1)

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        spectra, masks = self.mask(batch.mixture, 1)
        return {"loss": self.objective(spectra, masks, batch).mean()}

    def multiply_accumulates(self, seconds: float) -> int:
        return self.network.multiply_accumulates(self.frames_heard(seconds))


def prelude(magnitude: Tensor, count: int, frames: Tensor | None = None) -> Tensor:
    """The first ``count`` frames of magnitudes ``(batch, frames, freqs)``; shorter ones over and over.

    ``frames`` ``(batch,)`` counts those that are not padding, if any are.
    """
    places = torch.arange(count, device=magnitude.device)
    if frames is None:
        return magnitude[:, places % magnitude.shape[1]]
    own = places % frames.to(magnitude.device)[:, None]
    return magnitude.gather(1, own.unsqueeze(-1).expand(-1, -1, magnitude.shape[2]))
