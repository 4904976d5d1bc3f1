"""What every system takes and gives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from unmingle.batch import MixtureBatch
from unmingle.config import Config


@dataclass
class Estimates:
    """What a system says of a batch of mixtures."""

    sources: Tensor
    """``(batch, sources, samples)``."""
    count: Tensor
    """``(batch,)``: number of talkers."""
    confidence: Tensor
    """``(batch,)`` in [0, 1]: trust in the count; 1 where the caller gave it."""


class System(nn.Module):
    """An ``nn.Module`` with two doors, :meth:`loss` and :meth:`separate`."""

    sample_rate: int
    """The one rate, in hertz, of all audio that goes in and out."""
    talkers: int
    """The number of talkers it was built for."""
    hop: int
    """Samples between frames."""

    @property
    @abstractmethod
    def config(self) -> Config:
        """All that is needed to build it anew."""

    @abstractmethod
    def loss(self, batch: MixtureBatch) -> dict[str, Tensor]:
        """Named losses, means over the batch; ``loss`` is the one to minimize."""

    @abstractmethod
    def separate(self, mixture: Tensor, talkers: int | None = None) -> Estimates:
        """Mixture ``(batch, samples)`` to estimates, by the paper's equation with nothing added."""

    @abstractmethod
    def most_talkers(self) -> int | None:
        """The largest number of talkers that :meth:`separate` can be asked for; None for any."""

    @abstractmethod
    def fit(self, mixtures: Tensor) -> None:
        """Gather statistics of the training data ``(batch, samples)`` before training."""

    @abstractmethod
    def multiply_accumulates(self, seconds: float) -> int:
        """Multiply-accumulate operations to separate so many seconds of audio."""

    @abstractmethod
    def working_bytes(self, seconds: float, talkers: int) -> int:
        """Roughly the memory that :meth:`separate` needs for so many seconds of audio, in bytes."""

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())
