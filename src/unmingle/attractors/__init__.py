"""Attractors: points in embedding space that pull the bins of one speaker (Luo et al. 2018).

Every way to form attractors answers one call, ``form(embedding, weight, speakers, *,
assignment=None, generator=None)``, so that any embedding network works with any of them.

Shapes: embedding ``(batch, frames, freqs, dim)``, weight ``(batch, frames, freqs)``, assignments
``(batch, sources, frames, freqs)``, attractors ``(batch, sources, dim)``.
"""

from unmingle.attractors.anchored import AnchoredAttractors, anchor_assignments
from unmingle.attractors.clustered import KMeansAttractors, SoftKMeansAttractors
from unmingle.attractors.fixed import FixedAttractors, mean_of_largest_cluster
from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    OracleAttractors,
    centroids,
    largest_similarity,
    mask_logits,
    similarity,
)

__all__ = [
    "AnchoredAttractors",
    "AttractorFormation",
    "Attractors",
    "FixedAttractors",
    "KMeansAttractors",
    "OracleAttractors",
    "SoftKMeansAttractors",
    "anchor_assignments",
    "centroids",
    "largest_similarity",
    "mask_logits",
    "mean_of_largest_cluster",
    "similarity",
]
