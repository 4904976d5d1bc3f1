"""Systems with a second network that improves masks: DPCL++ (Isik et al. 2016), uPIT-ST (Kolbaek et al. 2017)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unmingle.batch import MixtureBatch
from unmingle.counting import Counted
from unmingle.errors import UnmingleError
from unmingle.frontend import Spectra
from unmingle.masks import loudest_masks
from unmingle.networks import BlstmConfig, EnhancementNetwork, SecondStageNetwork
from unmingle.padding import frame_counts
from unmingle.systems.base import MaskingSystem, System, SystemConfig
from unmingle.systems.embedding_separator import EmbeddingSeparator, EmbeddingSeparatorConfig
from unmingle.systems.mask_inference import MaskInference, MaskInferenceConfig
from unmingle.systems.objectives import ObjectiveName, mask_objective


class TwoStageConfig(SystemConfig):
    """Config of a complete first system, and of the network that refines its estimates."""

    trainable_parts: ClassVar[tuple[str, ...]] = ("all", "first", "second")
    """See :class:`TwoStage`."""
    kind: Literal["two_stage"] = "two_stage"
    first: Annotated[EmbeddingSeparatorConfig | MaskInferenceConfig, Field(discriminator="kind")]
    refiner: Literal["enhancement", "second_stage"] = "enhancement"
    """``enhancement``: the same network for every source, and a softmax over sources (Isik et al.).
    ``second_stage``: one network for all sources at once, and ReLU (uPIT-ST)."""
    network: BlstmConfig = BlstmConfig(layers=2, hidden_size=300)
    objective: ObjectiveName = "magnitude_error"

    @model_validator(mode="after")
    def _one_front_end(self) -> TwoStageConfig:
        for name in ("sample_rate", "speakers", "fewest_speakers", "stft"):
            if getattr(self, name) != getattr(self.first, name):
                raise ValueError(f"{name} differs between the two stages; set it outside `first` only")
        return self

    def check_trainable(self) -> None:
        self.first.check_trainable()

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: object) -> object:
        """The first system has the same front end and number of speakers."""
        if isinstance(values, dict) and isinstance(values.get("first"), dict):
            shared = {
                k: values[k] for k in ("sample_rate", "speakers", "fewest_speakers", "stft") if k in values
            }
            return values | {"first": shared | values["first"]}
        return values


class TwoStage(MaskingSystem):
    """A refiner computes masks from the mixture and the first system's estimates.

    The part ``first`` is the first system, trained with its own loss. ``second`` is the refiner, trained on the first
    system's estimates. ``all`` trains end to end.
    """

    def __init__(self, config: TwoStageConfig) -> None:
        super().__init__(config)
        self._config = config
        self.first: EmbeddingSeparator | MaskInference = (
            EmbeddingSeparator(config.first)
            if isinstance(config.first, EmbeddingSeparatorConfig)
            else MaskInference(config.first)
        )
        freqs = self.frontend.stft.freqs
        self.refiner: EnhancementNetwork | SecondStageNetwork = (
            EnhancementNetwork(freqs, config.network)
            if config.refiner == "enhancement"
            else SecondStageNetwork(freqs, config.speakers, config.network)
        )

    @property
    def config(self) -> TwoStageConfig:
        return self._config

    def most_speakers(self) -> int | None:
        return self.speakers if self._config.refiner == "second_stage" else self.first.most_speakers()

    @property
    def needs_sources(self) -> bool:
        return self.first.needs_sources

    def fit(self, mixtures: Tensor) -> None:
        super().fit(mixtures)
        self.first.fit(mixtures)

    def choose_part(self, part: str) -> None:
        super().choose_part(part)
        self.first.requires_grad_(part != "second")
        self.refiner.requires_grad_(part != "first")

    def trained_system(self) -> System:
        return self.first if self._part == "first" else self

    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        if self._part == "first":
            return self.first.loss(batch)
        if self._part == "second":
            training = self.first.training
            with torch.no_grad():
                spectra, estimates = self.first.eval().mask(
                    batch.mixture, batch.sources.shape[1], batch.lengths
                )
            self.first.train(training)
        else:
            spectra, estimates = self.first.mask(batch.mixture, batch.sources.shape[1], batch.lengths)
            if torch.is_grad_enabled() and not estimates.requires_grad:
                raise UnmingleError(
                    "The masks of the first system have no gradient, so part all cannot train it; choose formation "
                    "soft_kmeans, or train the part second."
                )
        masks = self.refine(spectra, estimates, batch.lengths)
        with torch.autocast(masks.device.type, enabled=False):
            error = mask_objective(self._config.objective, self.frontend.stft, spectra.spectrum, masks, batch)
        return {"loss": error.mean()}

    def refine(self, spectra: Spectra, masks: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The second network's masks from those of the first, both ``(batch, sources, frames, freqs)``."""
        magnitude = spectra.magnitude
        estimates = magnitude.unsqueeze(1) * masks
        refined: Tensor = self.refiner(magnitude, estimates, frame_counts(lengths, self.hop))
        return refined

    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        if self._part == "first":
            return self.first.mask(mixture, speakers, lengths, sources)
        # uPIT-ST always reads and gives as many as it was built for.
        wanted = self.speakers if self._config.refiner == "second_stage" else speakers
        spectra, estimates = self.first.mask(mixture, wanted, lengths, sources)
        masks = self.refine(spectra, estimates, lengths)
        return spectra, masks if speakers == wanted else loudest_masks(masks, spectra.magnitude, speakers)

    def count(self, mixture: Tensor) -> Counted | None:
        return self.first.count(mixture)

    def multiply_accumulates(self, seconds: float) -> int:
        frames = self.frontend.stft.frames(round(seconds * self.sample_rate))
        return self.first.multiply_accumulates(seconds) + self.refiner.multiply_accumulates(
            frames, self.speakers
        )

    def working_bytes(self, seconds: float, speakers: int) -> int:
        frames = self.frontend.stft.frames(round(seconds * self.sample_rate))
        refining = 4 * frames * speakers * (8 * self.frontend.stft.freqs + 8 * self.refiner.network.outputs)
        return self.first.working_bytes(seconds, speakers) + refining
