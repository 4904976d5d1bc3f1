"""Systems: compositions of front end, network, attractors, masks and objective. Papers are recipes."""

from unmingle.systems.base import Estimates, System
from unmingle.systems.embedding_separator import EmbeddingSeparator, EmbeddingSeparatorConfig

__all__ = [
    "EmbeddingSeparator",
    "EmbeddingSeparatorConfig",
    "Estimates",
    "System",
    "build_system",
]


def build_system(config: EmbeddingSeparatorConfig) -> System:
    """A fresh system, with random weights, from its config."""
    return EmbeddingSeparator(config)
