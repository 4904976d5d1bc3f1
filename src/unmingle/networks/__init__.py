"""Networks: tensors in, tensors out. They know nothing of audio, speakers or papers."""

from unmingle.networks.bands import Bands
from unmingle.networks.blstm import Blstm, BlstmConfig, BlstmEmbedding, BlstmMasks
from unmingle.networks.dilated_cnn import DilatedCnnConfig, DilatedCnnEmbedding
from unmingle.networks.lstm import Lstm, LstmConfig, LstmState, mean_over_time
from unmingle.networks.refiners import EnhancementNetwork, SecondStageNetwork
from unmingle.networks.unit_norm import unit_norm

__all__ = [
    "Bands",
    "Blstm",
    "BlstmConfig",
    "BlstmEmbedding",
    "BlstmMasks",
    "DilatedCnnConfig",
    "DilatedCnnEmbedding",
    "EmbeddingNetwork",
    "EmbeddingNetworkConfig",
    "EnhancementNetwork",
    "Lstm",
    "LstmConfig",
    "LstmState",
    "SecondStageNetwork",
    "build_embedding_network",
    "mean_over_time",
    "unit_norm",
]

EmbeddingNetwork = BlstmEmbedding | DilatedCnnEmbedding
EmbeddingNetworkConfig = BlstmConfig | DilatedCnnConfig


def build_embedding_network(config: EmbeddingNetworkConfig, freqs: int, dimension: int) -> EmbeddingNetwork:
    """The network that embeds every bin of ``freqs`` frequencies in ``dimension`` dimensions."""
    if isinstance(config, DilatedCnnConfig):
        return DilatedCnnEmbedding(freqs, dimension, config)
    return BlstmEmbedding(freqs, dimension, config)
