"""One LSTM that masks noise: a specialist of Sivaraman & Kim 2020, or their generalist."""

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
    """Settings of all denoisers of one speaker."""

    needs_noise: ClassVar[bool] = True
    sample_rate: int = Field(16000, ge=1000, le=192000)
    speakers: Literal[1] = 1
    stft: StftConfig = DENOISING_STFT
    network: LstmConfig = LstmConfig()
    objective: ObjectiveName = "si_sdr"
    prelude_seconds: float = Field(0.0, ge=0.0, le=60.0)
    """Ours: the networks process the first seconds of a recording twice. The first time, without output, initializes
    the running level and the state. Live streams have no prelude, because they have no look-ahead."""
    bands_above: float | None = Field(None, gt=0.0, le=96000.0)
    """Ours: above this frequency in hertz, experts use bands instead of bins. The bands have twice as many bins in
    every octave (default: all bins, as in the paper)."""

    @field_validator("stft", mode="before")
    @classmethod
    def _streams(cls, stft: Any) -> Any:
        """Fill in the paper's values, and check that the level is running, which streams need."""
        if not isinstance(stft, Mapping):
            return stft
        if stft.get("level", "running") != "running":
            raise ValueError("level must be running for a denoiser, which streams")
        return DENOISING_STFT.model_dump() | dict(stft)


class DenoiserConfig(DenoisingConfig):
    """Config of one denoiser."""

    kind: Literal["denoiser"] = "denoiser"


class DenoisingSystem(MaskingSystem):
    """A system with one mask, for the speaker. It can also run frame by frame.

    The mask is a ratio between 0 and 1. It is applied to the mixture's magnitude, with the mixture's phase.
    """

    default_expert: int = 0
    """Number of the expert that runs in a stream until the gate's first choice."""
    gate: Gate | None
    """Chooses the expert. None for a single expert."""

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__(config)
        self._config = config

    @property
    def config(self) -> DenoisingConfig:
        return self._config

    @property
    @abstractmethod
    def experts(self) -> Sequence[Lstm]:
        """The networks. One of them gives the mask before the sigmoid."""

    def build_expert(self) -> Lstm:
        """A new network from features to a mask before the sigmoid, both ``(batch, frames, freqs)``."""
        freqs, above = self.frontend.stft.freqs, self.config.bands_above
        bands = None
        if above is not None:
            bands = Bands(freqs, max(1, round(above / self.sample_rate * self.frontend.stft.window_length)))
        return Lstm(freqs, freqs, self.config.network, bands)

    def most_speakers(self) -> int | None:
        return 1

    def objective(self, spectra: Spectra, masks: Tensor, batch: MixtureBatch) -> Tensor:
        """The config's objective for masks, ``(batch,)``."""
        stft = self.frontend.stft
        with torch.autocast(masks.device.type, enabled=False):
            return mask_objective(
                self.config.objective, stft, spectra.spectrum, masks.float(), batch, ordered=True
            )

    @property
    def prelude_frames(self) -> int:
        """Number of frames of the prelude."""
        return round(self.config.prelude_seconds * self.sample_rate / self.hop)

    def processed_frames(self, seconds: float) -> int:
        """Number of frames that a network processes for a recording of ``seconds``, the prelude included."""
        return self.prelude_frames + self.frontend.stft.frames(round(seconds * self.sample_rate))

    def with_prelude(
        self, spectra: Spectra, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs of the networks and the gate for whole recordings, with the prelude.

        Args:
            spectra: of ``(batch, frames, freqs)``.
            lengths: ``(batch,)``, the number of samples that are not padding (default: all).

        Returns:
            Features ``(batch, prelude + frames, freqs)``; magnitudes of the same shape, 0 in the prelude so that the
            gate does not count these frames twice; and the number of frames that are not padding, if ``lengths`` is
            given.
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
        frames = self.processed_frames(seconds)
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
        logits = self.network(features)[:, self.prelude_frames :].float()
        return spectra, torch.sigmoid(logits).unsqueeze(1)

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        spectra, masks = self.mask(batch.mixture, 1)
        return {"loss": self.objective(spectra, masks, batch).mean()}

    def multiply_accumulates(self, seconds: float) -> int:
        return self.network.multiply_accumulates(self.processed_frames(seconds))


def prelude(magnitude: Tensor, count: int, frames: Tensor | None = None) -> Tensor:
    """The first ``count`` frames of magnitudes ``(batch, frames, freqs)``. Shorter recordings are repeated.

    ``frames`` ``(batch,)`` is the number of frames that are not padding (default: all).
    """
    places = torch.arange(count, device=magnitude.device)
    if frames is None:
        return magnitude[:, places % magnitude.shape[1]]
    own = places % frames.to(magnitude.device)[:, None]
    return magnitude.gather(1, own.unsqueeze(-1).expand(-1, -1, magnitude.shape[2]))
