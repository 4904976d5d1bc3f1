"""Front end + embedding network + attractor formation + masks + objective.

DPCL, DANet, ADANet, the dilated CNN and every cross of them are configs of this one system.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unmingle.attractors import (
    FORMATIONS,
    AttractorFormation,
    Attractors,
    FormationName,
    OracleAttractors,
    RunningAttractors,
)
from unmingle.batch import MixtureBatch
from unmingle.counting import Counted, count_by_spread
from unmingle.errors import UnmingleError
from unmingle.frontend import Spectra, WeightConfig, bin_weights
from unmingle.losses import affinity_loss
from unmingle.masks import (
    chosen_sources,
    hard_masks,
    ideal_binary_mask,
    ideal_ratio_mask,
    loudest_sources,
    sigmoid_masks,
    softmax_masks,
    softmax_masks_with_rest,
)
from unmingle.networks import AnyEmbeddingNetworkConfig, BlstmConfig, SteppingNetwork, unit_norm
from unmingle.padding import frame_counts
from unmingle.systems.base import MaskingSystem, MaskSteps, SystemConfig
from unmingle.systems.embedding_steps import EmbeddingSteps
from unmingle.systems.objectives import ObjectiveName, mask_objective

MaskName = Literal["softmax", "softmax_with_rest", "sigmoid", "assignment", "hard"]
_FIRST_SCALE = 5.0
"""Of a learned scale: with unit-norm embeddings the softmax of two speakers then reaches 0.9999."""


class EmbeddingSeparatorConfig(SystemConfig):
    """Settings of an embedding separator. The defaults are ADANet (Luo et al. 2018)."""

    kind: Literal["embedding_separator"] = "embedding_separator"
    network: AnyEmbeddingNetworkConfig = BlstmConfig()
    dimension: int = Field(20, ge=1, le=1024)
    """K, of the embedding."""
    unit_norm: bool = False
    """Embeddings of length one (Isik, Mobin)."""
    learned_scale: bool = False
    """A trained factor on the dot products. With ``unit_norm`` they lie in [-1, 1] and the softmax is flat."""
    weight: WeightConfig = WeightConfig()
    """Which bins form attractors and enter the affinity loss."""
    evaluation_weight: WeightConfig | None = None
    """Which bins form attractors at test time (default: ``weight``)."""
    anchors: int = Field(6, ge=1, le=16)
    """N, number of anchors."""
    hardness: float = Field(5.0, gt=0.0)
    """Alpha of soft k-means."""
    unfolded_steps: int = Field(10, ge=1, le=100)
    """Steps of soft k-means."""
    running_frames: int = Field(125, ge=1, le=100_000)
    """Tau of running attractors, in frames: the longer, the slower they move."""
    start_frames: int = Field(20, ge=1, le=1000)
    """Frames from which running k-means begins; the first of them wait for the last."""
    training_formation: FormationName = "anchored"
    formation: FormationName = "anchored"
    """At test time."""
    assignment: Literal["ibm", "irm"] = "ibm"
    """The ideal assignment Y."""
    mask: MaskName = "softmax"
    """``softmax`` or ``sigmoid`` of the dot products with the attractors; ``softmax_with_rest``: one more class
    with dot product 0 for noise (ours); ``hard``: 1 for the largest dot product; ``assignment``: the formation's
    assignments (k-means: binary masks)."""
    evaluation_mask: MaskName | None = None
    """At test time (default: ``mask``)."""
    objective: ObjectiveName | Literal["affinity"] = "mask_error"

    @model_validator(mode="after")
    def _fits_together(self) -> EmbeddingSeparatorConfig:
        FORMATIONS[self.formation].check(self)
        if self.objective != "affinity":
            FORMATIONS[self.training_formation].check(self)
        if self.objective != "affinity" and self.mask == "hard":
            raise ValueError("mask hard has no gradient; make it the evaluation_mask")
        if FORMATIONS[self.training_formation].collected:
            raise ValueError(
                f"training_formation cannot be {self.training_formation}: its points are collected from training"
            )
        return self

    def check_trainable(self) -> None:
        formation, mask, trained = self.formation, self.mask, self.training_formation
        if FORMATIONS[formation].needs_assignment:
            raise ValueError(
                f"formation must not be {formation}: validation separates without the true sources"
            )
        if FORMATIONS[formation].trained and (self.objective == "affinity" or trained != formation):
            raise ValueError(f"formation {formation} needs training_formation {formation}, which trains it")
        if self.objective == "affinity":
            return
        if mask == "assignment" and not FORMATIONS[trained].gradient_through_assignments:
            raise ValueError(f"mask assignment gives no gradient with training_formation {trained}")
        if self.fewest_speakers is not None and FORMATIONS[trained].counts_by_spread:
            raise ValueError(f"{trained} in training cannot know a number of speakers that varies")


class EmbeddingSeparator(MaskingSystem):
    """Embeds every bin, forms attractors, and masks (Hershey et al. 2016; Luo et al. 2018; Mobin et al. 2018)."""

    def __init__(self, config: EmbeddingSeparatorConfig) -> None:
        super().__init__(config)
        self._config = config
        self.network = config.network.build(self.frontend.stft.freqs, config.dimension)
        # One module if both names agree: anchors are trained and then used.
        trained = config.formation if config.objective == "affinity" else config.training_formation
        self.training_formation: AttractorFormation = FORMATIONS[trained].build(config)
        self.formation = (
            self.training_formation
            if trained == config.formation
            else FORMATIONS[config.formation].build(config)
        )
        if config.learned_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    @property
    def config(self) -> EmbeddingSeparatorConfig:
        return self._config

    def most_speakers(self) -> int | None:
        return self.formation.most_speakers()

    @property
    def needs_sources(self) -> bool:
        return self.formation.needs_assignment

    def embed(self, mixture: Tensor, lengths: Tensor | None = None) -> tuple[Spectra, Tensor]:
        """Spectra and embeddings ``(batch, frames, freqs, dim)`` of mixtures ``(batch, samples)``."""
        spectra = self.frontend(mixture)
        # Products over thousands of bins lose too much in bfloat16: only the network runs in it.
        return spectra, self.normalized(self.network(spectra.features, self._frames(lengths)))

    def normalized(self, embedding: Tensor) -> Tensor:
        """Embeddings in float32, scaled to unit length if ``unit_norm`` is set."""
        return unit_norm(embedding) if self._config.unit_norm else embedding.float()

    def weight(self, spectra: Spectra, lengths: Tensor | None = None, *, training: bool = False) -> Tensor:
        """Weights ``(batch, frames, freqs)`` of the bins, in training or at test time."""
        rule = self._config.weight if training else self.test_weight
        magnitude = spectra.relative if rule.rule == "near_level" else spectra.magnitude
        return bin_weights(rule, magnitude, self._frames(lengths))

    @property
    def test_weight(self) -> WeightConfig:
        """The rule of :meth:`weight` at test time."""
        return self._config.evaluation_weight or self._config.weight

    def _frames(self, lengths: Tensor | None) -> Tensor | None:
        return frame_counts(lengths, self.hop)

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        config = self._config
        spectra, embedding = self.embed(batch.mixture, batch.lengths)
        weight = self.weight(spectra, batch.lengths, training=True)
        with torch.autocast(embedding.device.type, enabled=False):
            if config.objective == "affinity":
                return {"loss": affinity_loss(embedding, self._ideal(batch.sources), weight).mean()}
            oracle = self.training_formation.needs_assignment
            attractors = self.training_formation.form(
                embedding,
                weight,
                batch.sources.shape[1],
                assignment=self._ideal(batch.sources) if oracle else None,
            )
            # A missing speaker has no bins, so no attractor: its mask must be nothing.
            talking = batch.active | ~batch.active.any(dim=1, keepdim=True) if oracle else None
            error = mask_objective(
                config.objective,
                self.frontend.stft,
                spectra.spectrum,
                self._masks(config.mask, embedding, attractors, talking),
                batch,
                ordered=oracle,
            )
        return {"loss": error.mean()}

    def _ideal(self, sources: Tensor) -> Tensor:
        """The assignment Y of sources ``(batch, sources, samples)``."""
        ideal = ideal_binary_mask if self._config.assignment == "ibm" else ideal_ratio_mask
        return ideal(self.frontend.stft.analyse(sources))

    def _masks(
        self, rule: MaskName, embedding: Tensor, attractors: Attractors, talking: Tensor | None = None
    ) -> Tensor:
        """Masks ``(batch, sources, frames, freqs)`` of embeddings and attractors, by a rule."""
        if rule == "assignment":
            return attractors.assignments
        return self._masks_by(rule, attractors.logits(embedding), talking)

    def test_masks(self, logits: Tensor) -> Tensor:
        """Masks at test time from dot products, both ``(batch, sources, frames, freqs)``."""
        return self._masks_by(self._test_mask, logits)

    def _masks_by(self, rule: MaskName, logits: Tensor, talking: Tensor | None = None) -> Tensor:
        """Masks from dot products (Luo et al. 2018, Eq. 11 and 12)."""
        if self._config.learned_scale:
            logits = logits * self.log_scale.exp()
        if talking is not None:
            logits = logits.masked_fill(~talking[:, :, None, None], -torch.inf)
        if rule == "hard":
            return hard_masks(logits)
        if rule == "sigmoid":
            return sigmoid_masks(logits)
        return softmax_masks(logits) if rule == "softmax" else softmax_masks_with_rest(logits)

    @property
    def _test_mask(self) -> MaskName:
        return self._config.evaluation_mask or self._config.mask

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        spectra, masks, _ = self._mask(mixture, speakers, lengths, sources)
        return spectra, masks

    def mask_and_attractors(self, mixture: Tensor, speakers: int) -> tuple[Spectra, Tensor, Tensor | None]:
        return self._mask(mixture, speakers)

    def _mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor, Tensor]:
        if self.needs_sources and sources is None:
            raise UnmingleError(
                "Oracle attractors need the true sources; choose k-means or anchors to separate a recording."
            )
        spectra, embedding = self.embed(mixture, lengths)
        formed = self.formed_attractors(speakers)
        with torch.autocast(embedding.device.type, enabled=False):
            masks, points = self.masks_of(embedding, self.weight(spectra, lengths), formed, sources)
            if formed != speakers:
                loudest = loudest_sources(masks, spectra.magnitude, speakers)
                masks, points = chosen_sources(masks, loudest), chosen_sources(points, loudest)
            return spectra, masks, points

    def steps(self, speakers: int) -> MaskSteps | None:
        causal = self._config.stft.level == "running" and self.test_weight.causal
        if not causal or self._test_mask == "assignment" or self.formed_attractors(speakers) != speakers:
            return None
        if isinstance(self.network, SteppingNetwork) and isinstance(self.formation, RunningAttractors):
            return EmbeddingSteps(self, self.network, self.formation, speakers)
        return None

    def masks_of(
        self, embedding: Tensor, weight: Tensor, speakers: int, sources: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Masks ``(batch, speakers, frames, freqs)`` and attractors of embeddings and weights, as at test time."""
        attractors = self.attractors(embedding, weight, speakers, sources)
        masks = self._masks(self._test_mask, embedding, attractors)
        return masks, attractors.points

    def attractors(
        self, embedding: Tensor, weight: Tensor, speakers: int, sources: Tensor | None = None
    ) -> Attractors:
        """The attractors that separation uses, of embeddings and weights; oracle ones need the sources."""
        assignment = None if sources is None else self._ideal(sources)
        return self.formation.form(embedding, weight, speakers, assignment=assignment)

    def formed_attractors(self, speakers: int) -> int:
        """Number of attractors to form in order to separate ``speakers`` speakers."""
        return self.speakers if self._always_all() and speakers < self.speakers else speakers

    def _always_all(self) -> bool:
        """Whether the maximum number of attractors is always formed (Luo et al. 2018, Table V)."""
        several = self._config.fewest_speakers is not None and self.formation.most_speakers() is not None
        # Any subset of fixed attractors would be arbitrary.
        return several or self.formation.collected

    @torch.no_grad()
    def oracle_attractors(self, batch: MixtureBatch) -> Tensor:
        """The attractors ``(batch, sources, dim)`` of the ideal assignment, as in training."""
        spectra, embedding = self.embed(batch.mixture, batch.lengths)
        weight = self.weight(spectra, batch.lengths, training=True)
        assignment = self._ideal(batch.sources)
        formed = OracleAttractors().form(embedding, weight, assignment.shape[1], assignment=assignment)
        return formed.points

    def count(self, mixture: Tensor) -> Counted | None:
        if not self.formation.counts_by_spread:
            return None
        with torch.no_grad():
            spectra, embedding = self.embed(mixture)
            return count_by_spread(embedding, self.weight(spectra), self.speakers)

    def multiply_accumulates(self, seconds: float) -> int:
        frames = self.frontend.stft.frames(round(seconds * self.sample_rate))
        dots = self.formation.products + self.speakers  # For the masks.
        bins = frames * self.frontend.stft.freqs
        return self.network.multiply_accumulates(frames) + bins * dots * self._config.dimension

    def working_bytes(self, seconds: float, speakers: int) -> int:
        # The embedding and its copies in the formation, 6 arrays of the spectrogram's size, 8 more per speaker, and
        # the network's own. Measured by benchmarks/separation_speed.py.
        bins = self.frontend.stft.frames(round(seconds * self.sample_rate)) * self.frontend.stft.freqs
        embeddings = self.formation.working_copies * self._config.dimension
        return 4 * bins * (embeddings + 6 + 8 * speakers + self.network.working_channels)
