"""Base classes of embedding networks and their configs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from unmingle.config import Config


class EmbeddingNetwork(nn.Module):
    """Computes an embedding for every time-frequency bin."""

    lag_frames: int | None
    """Number of later frames that an output depends on; None: all, so the network cannot stream."""
    context_frames: int | None
    """Number of earlier frames that an output depends on; None: all."""
    working_channels: int
    """Number of arrays of the spectrogram's size in memory besides the embedding, for the memory estimate."""

    @abstractmethod
    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Features ``(batch, frames, freqs)`` to embeddings ``(batch, frames, freqs, dimension)``.

        ``frames`` ``(batch,)`` counts the frames that are not padding, if any are padding.
        """

    @abstractmethod
    def multiply_accumulates(self, frames: int) -> int:
        """Multiply-accumulate operations for ``frames`` frames."""


class SteppingNetwork(EmbeddingNetwork):
    """An embedding network that can also process a stream of frames."""

    lag_frames: int
    """Number of later frames that an output depends on."""

    @abstractmethod
    def initial_state(self, batch: int) -> Any:
        """State before the first frame, for ``batch`` parallel streams."""

    @abstractmethod
    def step(self, features: Tensor, state: Any, *, ended: bool = False) -> Tensor:
        """Push frames ``(batch, frames, freqs)``; returns the embeddings that are ready.

        All steps together equal :meth:`forward` in evaluation mode. Each embedding is ready :attr:`lag_frames`
        frames after its frame, and ``ended=True`` returns the remaining ones. ``state`` is updated in place.
        """


class EmbeddingNetworkConfig(Config):
    """The config of one kind of embedding network."""

    kind: str
    """Its name in recipes: a literal with a default."""
    tiny_sizes: ClassVar[dict[str, int]] = {}
    """Sizes for a network that runs in milliseconds, for ``train --smoke``."""

    @abstractmethod
    def build(self, freqs: int, dimension: int) -> EmbeddingNetwork:
        """A new network that embeds every bin of ``freqs`` frequencies in ``dimension`` dimensions."""
