"""Masks from a BLSTM without embeddings: uPIT (Kolbaek et al. 2017), the papers' baseline."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unmingle.batch import MixtureBatch
from unmingle.frontend import Spectra
from unmingle.masks import loudest_masks
from unmingle.networks import BlstmConfig, BlstmMasks
from unmingle.padding import frame_counts
from unmingle.systems.base import MaskingSystem, SystemConfig
from unmingle.systems.objectives import ObjectiveName, mask_objective


class MaskInferenceConfig(SystemConfig):
    """Config of a uPIT system."""

    kind: Literal["mask_inference"] = "mask_inference"
    network: BlstmConfig = BlstmConfig(layers=3, hidden_size=896)
    objective: ObjectiveName = "phase_sensitive_error"


class MaskInference(MaskingSystem):
    """A BLSTM computes ``speakers`` masks with a ReLU. The best permutation of the utterance counts."""

    def __init__(self, config: MaskInferenceConfig) -> None:
        super().__init__(config)
        self._config = config
        freqs = self.frontend.stft.freqs
        self.network = BlstmMasks(freqs, freqs, config.speakers, config.network)

    @property
    def config(self) -> MaskInferenceConfig:
        return self._config

    def most_speakers(self) -> int | None:
        return self.speakers

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra: Spectra = self.frontend(mixture)
        masks = self.all_masks(spectra, lengths)
        if speakers < self.speakers:
            masks = loudest_masks(masks, spectra.magnitude, speakers)
        return spectra, masks

    def all_masks(self, spectra: Spectra, lengths: Tensor | None = None) -> Tensor:
        """All masks, ``(batch, sources, frames, freqs)``."""
        return torch.relu(self.network(spectra.features, frame_counts(lengths, self.hop)).float())

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        spectra, masks = self.mask(batch.mixture, self.speakers, batch.lengths)
        with torch.autocast(masks.device.type, enabled=False):
            error = mask_objective(self._config.objective, self.frontend.stft, spectra.spectrum, masks, batch)
        return {"loss": error.mean()}

    def multiply_accumulates(self, seconds: float) -> int:
        return self.network.multiply_accumulates(self.frontend.stft.frames(round(seconds * self.sample_rate)))

    def working_bytes(self, seconds: float, speakers: int) -> int:
        frames = self.frontend.stft.frames(round(seconds * self.sample_rate))
        return 4 * frames * (self.frontend.stft.freqs * (6 + 8 * self.speakers) + 8 * self.network.outputs)
