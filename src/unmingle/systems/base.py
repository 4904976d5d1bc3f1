"""What every system takes and gives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unmingle.batch import MixtureBatch
from unmingle.config import Config
from unmingle.counting import Counted, count_by_energy
from unmingle.errors import UnmingleError
from unmingle.frontend import FrontEnd, Spectra, StftConfig
from unmingle.masks import apply_masks
from unmingle.padding import within


@dataclass
class Estimates:
    """What a system says of a batch of mixtures."""

    sources: Tensor
    """``(batch, sources, samples)``; beyond a mixture's count, silence."""
    count: Tensor
    """``(batch,)``: number of speakers."""
    confidence: Tensor
    """``(batch,)`` in [0, 1]: trust in the count; 1 where the caller gave it."""


class MaskSteps(Protocol):
    """The masks of one mixture, frame by frame: together those of the whole mixture."""

    lag_frames: int
    """The mask of a frame comes at the latest when so many frames after it have been pushed."""

    def push(self, magnitude: Tensor, *, ended: bool) -> Tensor:
        """Push magnitudes ``(1, frames, freqs)``; returns the masks that are ready, ``(speakers, frames, freqs)``.

        With ``ended`` the masks of all frames that are left come.
        """


class System(nn.Module):
    """An ``nn.Module`` with two doors, :meth:`loss` and :meth:`separate`."""

    sample_rate: int
    """The one rate, in hertz, of all audio that goes in and out."""
    speakers: int
    """The largest number of speakers it was built for."""
    hop: int
    """Samples between frames."""
    statistics_mixtures: int = 64
    """Training mixtures that :meth:`fit` is given."""
    _part: str = "all"

    @property
    @abstractmethod
    def config(self) -> SystemConfig:
        """All that is needed to build it anew."""

    @abstractmethod
    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        """Named losses, means over the batch; ``loss`` is the one to minimize."""

    @abstractmethod
    def separate(self, mixture: Tensor, speakers: int | None = None) -> Estimates:
        """Mixture ``(batch, samples)`` to estimates, by the paper's equation with nothing added.

        Without ``speakers`` the system counts them itself, up to the number it was built for.

        Raises:
            UnmingleError: it cannot separate so many speakers.
        """

    @abstractmethod
    def most_speakers(self) -> int | None:
        """The largest number of speakers that :meth:`separate` can be asked for; None for any."""

    @abstractmethod
    def fit(self, mixtures: Tensor) -> None:
        """Gather statistics of the training data ``(batch, samples)`` before training."""

    @abstractmethod
    def multiply_accumulates(self, seconds: float) -> int:
        """Multiply-accumulate operations to separate so many seconds of audio."""

    @abstractmethod
    def working_bytes(self, seconds: float, speakers: int) -> int:
        """Roughly the memory that :meth:`separate` needs for so many seconds of audio, in bytes."""

    @property
    def trainable_parts(self) -> tuple[str, ...]:
        """Names of what can be trained on its own; ``all`` is always one."""
        return self.config.trainable_parts

    def choose_part(self, part: str) -> None:
        """Train only this part from now on, or ``all``.

        Raises:
            UnmingleError: it is none of :attr:`trainable_parts`.
        """
        if part not in self.trainable_parts:
            raise UnmingleError(
                f"This system has no part {part!r} to train; choose from {', '.join(self.trainable_parts)}."
            )
        self._part = part

    def trained_system(self) -> System:
        """What is worth keeping and scoring now; less than the whole while a first part is trained alone."""
        return self

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def active_parameter_count(self) -> int:
        """Number of those that work on any one mixture."""
        return self.parameter_count()


class SystemConfig(Config):
    """What the configs of all systems hold."""

    trainable_parts: ClassVar[tuple[str, ...]] = ("all",)
    """What a stage of training can train on its own."""
    needs_noise: ClassVar[bool] = False
    """It learns from mixtures with noise only."""
    sample_rate: int = Field(8000, ge=1000, le=192000)
    speakers: int = Field(2, ge=1, le=16)
    fewest_speakers: int | None = Field(None, ge=1)
    """Where one model is for several numbers of speakers, the least; it then counts them if not told."""
    stft: StftConfig = StftConfig()

    @model_validator(mode="after")
    def _counts(self) -> SystemConfig:
        if self.fewest_speakers is not None and self.fewest_speakers > self.speakers:
            raise ValueError(f"fewest_speakers {self.fewest_speakers} is more than speakers {self.speakers}")
        return self

    def check_trainable(self) -> None:
        """Refuse what can separate, but cannot be trained.

        Raises:
            ValueError: says why.
        """


class MaskingSystem(System):
    """A system that masks the mixture's spectrogram: it needs to say the masks, and maybe the count."""

    def __init__(self, config: SystemConfig) -> None:
        super().__init__()
        self.sample_rate, self.speakers, self.hop = config.sample_rate, config.speakers, config.stft.hop
        self.frontend = FrontEnd(config.stft)

    @abstractmethod
    def mask(
        self, mixture: Tensor, speakers: int, lengths: Tensor | None = None, sources: Tensor | None = None
    ) -> tuple[Spectra, Tensor]:
        """Spectra and masks ``(batch, speakers, frames, freqs)`` of mixtures, as at test time.

        ``sources`` ``(batch, sources, samples)`` are for oracle attractors only.
        """

    def mask_and_attractors(self, mixture: Tensor, speakers: int) -> tuple[Spectra, Tensor, Tensor | None]:
        """As :meth:`mask`, and the attractors ``(batch, speakers, dim)`` of the masks; None if there are none."""
        return *self.mask(mixture, speakers), None

    def steps(self, speakers: int) -> MaskSteps | None:
        """A fresh run of :meth:`mask` frame by frame; None if masks need the whole mixture."""
        return None

    @property
    def needs_sources(self) -> bool:
        """Whether :meth:`separate` works from the true sources, for analysis only."""
        return False

    def count(self, mixture: Tensor) -> Counted | None:
        """The speakers of mixtures ``(batch, samples)``; None if only the energy of estimates can tell."""
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
                raise UnmingleError(
                    f"This model separates 1 to {most or 'any number of'} speakers; {speakers} were asked for."
                )
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
        spectra, masks = self.mask(mixture, speakers, sources=sources)
        return self.frontend.stft.synthesise(apply_masks(spectra.spectrum, masks), mixture.shape[-1])


def _keep_loud(estimates: Tensor) -> Estimates:
    """The estimates that the energy rule takes for speakers, first; silence in place of the others."""
    counted = count_by_energy(estimates)
    order = estimates.square().sum(dim=-1).argsort(dim=1, descending=True)
    ordered = estimates.gather(1, order.unsqueeze(-1).expand_as(estimates))
    kept = within(counted.count, estimates.shape[1])
    return Estimates(ordered * kept.unsqueeze(-1), counted.count, counted.confidence)
