"""The interface of all systems."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from unmingle.batch import MixtureBatch
from unmingle.config import Config
from unmingle.counting import Counted, count_by_energy
from unmingle.errors import UnmingleError
from unmingle.frontend import FrontEnd, Spectra, StftConfig
from unmingle.masks import apply_masks
from unmingle.padding import within
from unmingle.perceptual import PESQ_RATE


@dataclass
class Estimates:
    """The estimates of a system for a batch of mixtures."""

    sources: Tensor
    """``(batch, sources, samples)``. Sources beyond a mixture's count are silent."""
    count: Tensor
    """``(batch,)``: number of speakers."""
    confidence: Tensor
    """``(batch,)`` in [0, 1]: confidence in the count; 1 if the caller gave it."""


class MaskSteps(Protocol):
    """The masks of one mixture, frame by frame. Together they equal those of the whole mixture."""

    lag_frames: int
    """Maximum number of later frames that a frame's mask needs."""

    def push(self, magnitude: Tensor, *, ended: bool) -> Tensor:
        """Push magnitudes ``(1, frames, freqs)``; returns the masks that are ready, ``(speakers, frames, freqs)``.

        With ``ended`` the masks of all remaining frames are ready.
        """


class System(nn.Module):
    """An ``nn.Module`` with two main methods, :meth:`loss` and :meth:`separate`."""

    sample_rate: int
    """Sample rate of input and output, in hertz."""
    speakers: int
    """Maximum number of speakers for which it was built."""
    hop: int
    """Number of samples between frames."""
    statistics_mixtures: int = 64
    """Number of training mixtures for :meth:`fit`."""
    _part: str = "all"

    @property
    @abstractmethod
    def config(self) -> SystemConfig:
        """The config from which it was built."""

    @abstractmethod
    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        """Named losses, means over the batch; ``loss`` is the one to minimize."""

    @abstractmethod
    def separate(self, mixture: Tensor, speakers: int | None = None) -> Estimates:
        """Mixture ``(batch, samples)`` to estimates, by the paper's equations without additions.

        Without ``speakers`` the system counts them, up to the number for which it was built.

        Raises:
            UnmingleError: it cannot separate this number of speakers.
        """

    @abstractmethod
    def most_speakers(self) -> int | None:
        """Maximum number of speakers for :meth:`separate`; None for no limit."""

    @abstractmethod
    def fit(self, mixtures: Tensor) -> None:
        """Compute statistics of training mixtures ``(batch, samples)`` before training."""

    @abstractmethod
    def multiply_accumulates(self, seconds: float) -> int:
        """Number of multiply-accumulate operations to separate ``seconds`` of audio."""

    @abstractmethod
    def working_bytes(self, seconds: float, speakers: int) -> int:
        """Approximate memory in bytes that :meth:`separate` needs for ``seconds`` of audio."""

    @property
    def trainable_parts(self) -> tuple[str, ...]:
        """Names of the parts that can be trained alone. ``all`` is always one of them."""
        return self.config.trainable_parts

    def choose_part(self, part: str) -> None:
        """Train only this part from now on, or ``all``.

        Raises:
            UnmingleError: it is not one of :attr:`trainable_parts`.
        """
        if part not in self.trainable_parts:
            raise UnmingleError(
                f"This system has no part {part!r} to train; choose from {', '.join(self.trainable_parts)}."
            )
        self._part = part

    def trained_system(self) -> System:
        """The system to save and score now: a part of it while a first part is trained alone."""
        return self

    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def active_parameter_count(self) -> int:
        """Number of parameters that process a single mixture."""
        return self.parameter_count()


class SystemConfig(Config):
    """Settings of all systems."""

    trainable_parts: ClassVar[tuple[str, ...]] = ("all",)
    """Parts that a stage of training can train alone."""
    needs_noise: ClassVar[bool] = False
    """Whether training needs mixtures with noise."""
    sample_rate: int = Field(8000, ge=1000, le=192000)
    speakers: int = Field(2, ge=1, le=8)
    """Maximum number of speakers. All their orders are compared, 40,320 of eight."""
    fewest_speakers: int | None = Field(None, ge=1)
    """Minimum number of speakers, for a model of several numbers. Such a model counts speakers by default."""
    stft: StftConfig = StftConfig()

    @model_validator(mode="after")
    def _counts(self) -> SystemConfig:
        if self.fewest_speakers is not None and self.fewest_speakers > self.speakers:
            raise ValueError(f"fewest_speakers {self.fewest_speakers} is more than speakers {self.speakers}")
        return self

    @model_validator(mode="after")
    def _has_the_rate_of_pesq(self) -> SystemConfig:
        if getattr(self, "objective", None) == "perceptual" and self.sample_rate != PESQ_RATE:
            raise ValueError(
                f"the objective perceptual needs sample_rate {PESQ_RATE}, got {self.sample_rate}"
            )
        return self

    def check_trainable(self) -> None:
        """Check that the config can be trained, not only used for separation.

        Raises:
            ValueError: it cannot; the text has the reason.
        """


class MaskingSystem(System):
    """A system that masks the mixture's spectrogram. Subclasses compute the masks, and may count speakers."""

    def __init__(self, config: SystemConfig) -> None:
        super().__init__()
        self.sample_rate, self.speakers, self.hop = config.sample_rate, config.speakers, config.stft.hop
        self.frontend = FrontEnd(config.stft)

    @abstractmethod
    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        """Spectra and masks ``(batch, speakers, frames, freqs)`` of mixtures at test time.

        ``sources`` ``(batch, sources, samples)`` are for oracle attractors only.
        """

    def mask_and_attractors(self, mixture: Tensor, speakers: int) -> tuple[Spectra, Tensor, Tensor | None]:
        """Like :meth:`mask`, with the attractors ``(batch, speakers, dim)`` of the masks; None if there are none."""
        return *self.mask(mixture, speakers), None

    def steps(self, speakers: int) -> MaskSteps | None:
        """A new run of :meth:`mask` frame by frame; None if masks need the whole mixture."""
        return None

    @property
    def needs_sources(self) -> bool:
        """Whether :meth:`separate` needs the true sources, for analysis only."""
        return False

    def count(self, mixture: Tensor) -> Counted | None:
        """Numbers of speakers of mixtures ``(batch, samples)``; None if it follows from the estimates' energy."""
        return None

    def fit(self, mixtures: Tensor) -> None:
        self.frontend.fit(mixtures)

    @torch.no_grad()
    def separate(
        self, mixture: Tensor, speakers: int | None = None, sources: Tensor | None = None
    ) -> Estimates:
        if speakers is not None:
            most = self.most_speakers()
            if speakers < 1 or (most is not None and speakers > most):
                allowed = "at least 1" if most is None else f"from 1 to {most}"
                raise UnmingleError(f"The number of speakers must be {allowed}; got {speakers}.")
            count = torch.full((len(mixture),), speakers, device=mixture.device)
            trust = torch.ones(len(mixture), device=mixture.device)
            return Estimates(self._estimate(mixture, speakers, sources), count, trust)
        counted = self.count(mixture)
        if counted is None:
            return _keep_loud(self._estimate(mixture, self.speakers, sources))
        estimates = mixture.new_zeros(len(mixture), int(counted.count.max()), mixture.shape[-1])
        for number in sorted(set(counted.count.tolist())):
            chosen = counted.count == number
            estimates[chosen, :number] = self._estimate(mixture[chosen], number, None)
        return Estimates(estimates, counted.count, counted.confidence)

    def _estimate(self, mixture: Tensor, speakers: int, sources: Tensor | None) -> Tensor:
        stft, samples = self.frontend.stft, mixture.shape[-1]
        silence = (0, stft.missing(samples))
        if sources is not None:
            sources = functional.pad(sources, silence)
        spectra, masks = self.mask(functional.pad(mixture, silence), speakers, sources=sources)
        return stft.synthesise(apply_masks(spectra.spectrum, masks), samples)


def _keep_loud(estimates: Tensor) -> Estimates:
    """The estimates that are speakers by the energy rule come first. The others become silence."""
    counted = count_by_energy(estimates)
    order = estimates.square().sum(dim=-1).argsort(dim=1, descending=True)
    ordered = estimates.gather(1, order.unsqueeze(-1).expand_as(estimates))
    kept = within(counted.count, estimates.shape[1])
    return Estimates(ordered * kept.unsqueeze(-1), counted.count, counted.confidence)
