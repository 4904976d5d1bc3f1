"""Attractors from trainable anchors: ADANet (Luo et al. 2018, IV-C)."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    FormationSizes,
    centroids,
    largest_similarity,
    mask_logits,
)

_SHARES_AT_ONCE = 1 << 21


class AnchoredAttractors(AttractorFormation):
    """ADANet: trained anchors replace the unknown assignment (Luo et al. 2018, IV-C).

    Args:
        anchors: N, the number of anchors. It is also the maximum number of speakers.
        dimension: K, the dimension of the embedding.
    """

    trained = True

    @classmethod
    def build(cls, sizes: FormationSizes) -> AnchoredAttractors:
        return cls(sizes.anchors, sizes.dimension)

    @classmethod
    def check(cls, sizes: FormationSizes) -> None:
        if sizes.speakers > sizes.anchors:
            raise ValueError(f"{sizes.speakers} speakers need at least as many anchors, got {sizes.anchors}")

    def __init__(self, anchors: int, dimension: int) -> None:
        super().__init__()
        # On the meta device, where models are only measured, PyTorch would load its compiler to draw numbers.
        self.anchors = nn.Parameter(torch.randn(anchors, dimension, device="cpu"))

    @property
    def products(self) -> int:
        return len(self.anchors)

    def most_speakers(self) -> int | None:
        return len(self.anchors)

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        with torch.no_grad():
            subset = self.choose_subset(embedding, weight, speakers)
        # The choice is discrete, so only the chosen subset is computed again with gradients.
        chosen = self.anchors[subset]
        assignments = anchor_assignments(embedding, chosen)
        points = centroids(embedding, assignments, weight)
        return Attractors(points, assignments)

    def choose_subset(self, embedding: Tensor, weight: Tensor, speakers: int) -> Tensor:
        """Anchors of the subset whose attractors are least alike (Eq. 15): indices ``(batch, speakers)``."""
        subsets = torch.tensor(
            list(combinations(range(len(self.anchors)), speakers)), device=embedding.device
        )
        flat, flat_weight = embedding.flatten(1, 2), weight.flatten(1)
        sums = embedding.new_zeros(len(embedding), len(subsets) * speakers, embedding.shape[-1])
        masses = embedding.new_zeros(len(embedding), len(subsets) * speakers, 1)
        # In pieces, so that the shares of all subsets stay in the processor's cache.
        size = max(1, _SHARES_AT_ONCE // (len(embedding) * subsets.numel()))
        pieces = [(flat, flat_weight)]
        if (
            not torch.onnx.is_in_onnx_export()
        ):  # In an ONNX graph, the number of pieces cannot depend on the length.
            pieces = list(zip(torch.split(flat, size, 1), torch.split(flat_weight, size, 1), strict=True))
        for piece, piece_weight in pieces:
            # The similarities to the anchors are computed once and shared by the subsets.
            products = self.anchors @ piece.transpose(1, 2)
            shares = torch.softmax(products[:, subsets], dim=2).flatten(1, 2) * piece_weight.unsqueeze(1)
            sums += torch.bmm(shares, piece)
            masses += shares.sum(dim=-1, keepdim=True)
        points = (sums / masses.clamp_min(1e-8)).reshape(len(embedding), *subsets.shape, -1)
        return subsets[largest_similarity(points).argmin(dim=1)]


def anchor_assignments(embedding: Tensor, anchors: Tensor) -> Tensor:
    """Softmax over anchors ``(batch, sources, dim)`` of their dot product with every embedding (Eq. 14)."""
    return torch.softmax(mask_logits(embedding, anchors), dim=1)
