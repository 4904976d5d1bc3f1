"""Networks: tensors in, tensors out. They do not depend on audio, speakers or papers."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from unmingle.networks.bands import Bands
from unmingle.networks.blstm import Blstm, BlstmConfig, BlstmEmbedding, BlstmMasks
from unmingle.networks.dilated_cnn import DilatedCnnConfig, DilatedCnnEmbedding
from unmingle.networks.dual_path import DualPathConfig, DualPathEmbedding
from unmingle.networks.embedding import EmbeddingNetwork, EmbeddingNetworkConfig, SteppingNetwork
from unmingle.networks.lstm import Lstm, LstmConfig, LstmState, mean_over_time
from unmingle.networks.lstm_embedding import LstmEmbedding, LstmEmbeddingConfig
from unmingle.networks.refiners import EnhancementNetwork, SecondStageNetwork
from unmingle.networks.unit_norm import unit_norm

__all__ = [
    "EMBEDDING_NETWORKS",
    "AnyEmbeddingNetworkConfig",
    "Bands",
    "Blstm",
    "BlstmConfig",
    "BlstmEmbedding",
    "BlstmMasks",
    "DilatedCnnConfig",
    "DilatedCnnEmbedding",
    "DualPathConfig",
    "DualPathEmbedding",
    "EmbeddingNetwork",
    "EmbeddingNetworkConfig",
    "EnhancementNetwork",
    "Lstm",
    "LstmConfig",
    "LstmEmbedding",
    "LstmEmbeddingConfig",
    "LstmState",
    "SecondStageNetwork",
    "SteppingNetwork",
    "mean_over_time",
    "unit_norm",
]

EMBEDDING_NETWORKS: tuple[type[EmbeddingNetworkConfig], ...] = (
    BlstmConfig,
    DilatedCnnConfig,
    LstmEmbeddingConfig,
    DualPathConfig,
)
"""All kinds of embedding networks. Recipes accept these."""

if TYPE_CHECKING:
    AnyEmbeddingNetworkConfig = EmbeddingNetworkConfig
else:
    AnyEmbeddingNetworkConfig = Annotated[Union[EMBEDDING_NETWORKS], Field(discriminator="kind")]  # noqa: UP007
"""The config of any embedding network; its ``kind`` selects the class."""
