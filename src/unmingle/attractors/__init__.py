"""Attractors: points in embedding space, one per speaker (Luo et al. 2018).

Every formation has the method ``form(embedding, weight, speakers, *, assignment=None)``, so any embedding network
works with any formation. :data:`FORMATIONS` contains all of them.

Shapes: embedding ``(batch, frames, freqs, dim)``, weight ``(batch, frames, freqs)``, assignments
``(batch, sources, frames, freqs)``, attractors ``(batch, sources, dim)``.
"""

from typing import TYPE_CHECKING, Literal

from unmingle.attractors.anchored import AnchoredAttractors, anchor_assignments
from unmingle.attractors.clustered import KMeansAttractors, SoftKMeansAttractors, SphericalKMeansAttractors
from unmingle.attractors.fixed import FixedAttractors, mean_of_largest_cluster
from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    FormationSizes,
    OracleAttractors,
    centroids,
    largest_similarity,
    mask_logits,
    path_logits,
    similarity,
)
from unmingle.attractors.running import (
    RunningAnchoredAttractors,
    RunningAttractors,
    RunningKMeansAttractors,
    RunningState,
)

__all__ = [
    "FORMATIONS",
    "AnchoredAttractors",
    "AttractorFormation",
    "Attractors",
    "FixedAttractors",
    "FormationName",
    "FormationSizes",
    "KMeansAttractors",
    "OracleAttractors",
    "RunningAnchoredAttractors",
    "RunningAttractors",
    "RunningKMeansAttractors",
    "RunningState",
    "SoftKMeansAttractors",
    "SphericalKMeansAttractors",
    "anchor_assignments",
    "centroids",
    "largest_similarity",
    "mask_logits",
    "mean_of_largest_cluster",
    "path_logits",
    "similarity",
]

FORMATIONS: dict[str, type[AttractorFormation]] = {
    "oracle": OracleAttractors,
    "kmeans": KMeansAttractors,
    "spherical_kmeans": SphericalKMeansAttractors,
    "soft_kmeans": SoftKMeansAttractors,
    "fixed": FixedAttractors,
    "anchored": AnchoredAttractors,
    "running_anchored": RunningAnchoredAttractors,
    "running_kmeans": RunningKMeansAttractors,
}
"""All formations by name. Recipes accept these names."""

if TYPE_CHECKING:
    FormationName = str
else:
    FormationName = Literal[tuple(FORMATIONS)]
