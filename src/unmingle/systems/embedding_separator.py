"""Front end + embedding network + attractor formation + masks + objective: DANet and ADANet."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unmingle.attractors import (
    AnchoredAttractors,
    AttractorFormation,
    Attractors,
    KMeansAttractors,
    OracleAttractors,
    mask_logits,
)
from unmingle.batch import MixtureBatch
from unmingle.config import Config
from unmingle.errors import UnmingleError
from unmingle.frontend import FrontEnd, Spectra, loudest_weights
from unmingle.losses import mask_error, pairwise_mask_error, pairwise_si_sdr_error, permutation_invariant
from unmingle.masks import (
    apply_masks,
    ideal_binary_mask,
    ideal_ratio_mask,
    sigmoid_masks,
    softmax_masks,
    wiener_filter_mask,
)
from unmingle.networks import BlstmEmbedding
from unmingle.stft import WindowName
from unmingle.systems.base import Estimates, System

FormationName = Literal["oracle", "kmeans", "spherical_kmeans", "anchored"]


class EmbeddingSeparatorConfig(Config):
    """All that makes one embedding separator; the defaults are the paper's ADANet."""

    kind: Literal["embedding_separator"] = "embedding_separator"
    sample_rate: int = Field(8000, ge=1000, le=192000)
    talkers: int = Field(2, ge=1, le=16)
    window_length: int = Field(256, ge=16, le=65536)
    hop: int = Field(64, ge=1)
    window: WindowName = "sqrt_hann"
    layers: int = Field(4, ge=1, le=32)
    hidden_size: int = Field(300, ge=1, le=8192)
    dimension: int = Field(20, ge=1, le=1024)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    residual: bool = False
    loud_share: float = Field(0.9, gt=0.0, le=1.0)
    anchors: int = Field(6, ge=1, le=16)
    training_formation: FormationName = "anchored"
    formation: FormationName = "anchored"
    assignment: Literal["ibm", "irm"] = "ibm"
    mask: Literal["softmax", "sigmoid"] = "softmax"
    objective: Literal["mask_error", "si_sdr"] = "mask_error"

    @model_validator(mode="after")
    def _fits_together(self) -> EmbeddingSeparatorConfig:
        if self.hop > self.window_length // 2:
            raise ValueError(
                f"hop must be at most half of window_length {self.window_length}, got {self.hop}"
            )
        if "anchored" in (self.formation, self.training_formation) and self.talkers > self.anchors:
            raise ValueError(f"{self.talkers} talkers need at least as many anchors, got {self.anchors}")
        return self


class EmbeddingSeparator(System):
    """Embeds every bin, forms attractors, and masks by their dot products (Luo et al. 2018)."""

    def __init__(self, config: EmbeddingSeparatorConfig) -> None:
        super().__init__()
        self._config = config
        self.sample_rate, self.talkers, self.hop = config.sample_rate, config.talkers, config.hop
        self.frontend = FrontEnd(config.window_length, config.hop, config.window)
        self.network = BlstmEmbedding(
            self.frontend.stft.freqs,
            config.layers,
            config.hidden_size,
            config.dimension,
            config.dropout,
            config.residual,
        )
        self.training_formation = self._build_formation(config.training_formation)
        # One module if both names agree: anchors are trained and then used.
        self.formation = (
            self.training_formation
            if config.formation == config.training_formation
            else self._build_formation(config.formation)
        )

    def _build_formation(self, name: FormationName) -> AttractorFormation:
        if name == "anchored":
            return AnchoredAttractors(self._config.anchors, self._config.dimension)
        if name == "oracle":
            return OracleAttractors()
        return KMeansAttractors(spherical=name == "spherical_kmeans")

    @property
    def config(self) -> EmbeddingSeparatorConfig:
        return self._config

    def most_talkers(self) -> int | None:
        return self.formation.most_talkers()

    def fit(self, mixtures: Tensor) -> None:
        self.frontend.fit(mixtures)

    def embed(self, mixture: Tensor, lengths: Tensor | None = None) -> tuple[Spectra, Tensor, Tensor]:
        """Spectra, embeddings ``(batch, frames, freqs, dim)`` and weights of mixtures ``(batch, samples)``."""
        spectra = self.frontend(mixture)
        frames = None if lengths is None else lengths // self.hop + 1
        # Products over thousands of bins lose too much in bfloat16: only the network runs in it.
        embedding = self.network(spectra.features, frames).float()
        weight = loudest_weights(spectra.spectrum.abs(), self._config.loud_share, frames)
        return spectra, embedding, weight

    def masks(self, embedding: Tensor, attractors: Tensor) -> Tensor:
        """Masks ``(batch, sources, frames, freqs)`` by Eq. 10 and Eq. 11 or 12."""
        logits = mask_logits(embedding, attractors)
        return softmax_masks(logits) if self._config.mask == "softmax" else sigmoid_masks(logits)

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        spectra, embedding, weight = self.embed(batch.mixture, batch.lengths)
        with torch.autocast(embedding.device.type, enabled=False):
            sources = self.frontend.stft.analyse(batch.sources)
            assignment = self._ideal(sources) if self.training_formation.needs_assignment else None
            attractors = self.training_formation.form(
                embedding, weight, sources.shape[1], assignment=assignment
            )
            masks = self.masks(embedding, attractors.points)
            if self._config.objective == "mask_error":
                error = self._mask_error(spectra.spectrum.abs(), masks, wiener_filter_mask(sources))
                if batch.lengths is not None:
                    # The mean of Eq. 13 is over the mixture's own frames; padding adds nothing to the sum.
                    error = error * (spectra.spectrum.shape[1] / (batch.lengths // self.hop + 1))
            else:
                error = self._waveform_error(spectra.spectrum, masks, batch)
        return {"loss": error.mean()}

    def _ideal(self, sources: Tensor) -> Tensor:
        """The assignment Y of source spectrograms ``(batch, sources, frames, freqs)``."""
        return (ideal_binary_mask if self._config.assignment == "ibm" else ideal_ratio_mask)(sources)

    def _mask_error(self, magnitude: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
        if self._config.training_formation == "oracle":
            return mask_error(magnitude, masks, targets)
        return permutation_invariant(pairwise_mask_error(magnitude, masks, targets))

    def _waveform_error(self, spectrum: Tensor, masks: Tensor, batch: MixtureBatch) -> Tensor:
        estimates = self.frontend.stft.synthesise(apply_masks(spectrum, masks), batch.mixture.shape[-1])
        if batch.lengths is not None:
            inside = torch.arange(estimates.shape[-1], device=estimates.device) < batch.lengths[:, None]
            estimates = estimates * inside.unsqueeze(1)
        pairwise = pairwise_si_sdr_error(estimates, batch.sources, batch.active, batch.mixture)
        if self._config.training_formation == "oracle":
            return pairwise.diagonal(dim1=1, dim2=2).mean(dim=-1)
        return permutation_invariant(pairwise)

    def _form(self, embedding: Tensor, weight: Tensor, talkers: int, sources: Tensor | None) -> Attractors:
        most = self.most_talkers()
        if talkers < 1 or (most is not None and talkers > most):
            raise UnmingleError(f"This model separates 1 to {most} talkers; {talkers} were asked for.")
        assignment = None if sources is None else self._ideal(self.frontend.stft.analyse(sources))
        return self.formation.form(embedding, weight, talkers, assignment=assignment)

    @torch.no_grad()
    def separate(
        self, mixture: Tensor, talkers: int | None = None, sources: Tensor | None = None
    ) -> Estimates:
        talkers = talkers or self.talkers
        spectra, embedding, weight = self.embed(mixture)
        attractors = self._form(embedding, weight, talkers, sources)
        masked = apply_masks(spectra.spectrum, self.masks(embedding, attractors.points))
        estimates = self.frontend.stft.synthesise(masked, mixture.shape[-1])
        count = torch.full((len(mixture),), talkers, device=mixture.device)
        return Estimates(estimates, count, torch.ones(len(mixture), device=mixture.device))

    def multiply_accumulates(self, seconds: float) -> int:
        frames = self.frontend.stft.frames(round(seconds * self.sample_rate))
        dots = self._config.anchors + self.talkers  # anchors, then masks
        bins = frames * self.frontend.stft.freqs
        return self.network.multiply_accumulates(frames) + bins * dots * self._config.dimension

    def working_bytes(self, seconds: float, talkers: int) -> int:
        # Measured by benchmarks/separate_speed.py: the embedding twice (products want it in another
        # order), and a dozen arrays of the spectrogram's size, several of them once a talker.
        bins = self.frontend.stft.frames(round(seconds * self.sample_rate)) * self.frontend.stft.freqs
        return 4 * bins * (2 * self._config.dimension + 6 + 8 * talkers)
