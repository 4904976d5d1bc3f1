"""Networks: tensors in, tensors out. They know nothing of audio, talkers or papers."""

from unmingle.networks.blstm import BlstmEmbedding

__all__ = ["BlstmEmbedding"]
