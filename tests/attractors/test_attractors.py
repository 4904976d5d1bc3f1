"""Each equation of Luo, Chen, Mesgarani 2018 against a slow loop."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from unmingle.attractors import (
    FORMATIONS,
    AnchoredAttractors,
    FixedAttractors,
    KMeansAttractors,
    OracleAttractors,
    SoftKMeansAttractors,
    SphericalKMeansAttractors,
    anchor_assignments,
    centroids,
    largest_similarity,
    mask_logits,
    mean_of_largest_cluster,
)
from unmingle.errors import UnmingleError
from unmingle.masks import sigmoid_masks, softmax_masks

B, T, F, K, C = 2, 5, 3, 4, 2


@pytest.fixture
def embedding() -> torch.Tensor:
    return torch.randn(B, T, F, K, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weight() -> torch.Tensor:
    return (torch.rand(B, T, F, generator=torch.Generator().manual_seed(1)) > 0.3).float()


class _Sizes:
    speakers, dimension, anchors, hardness, unfolded_steps = C, K, 4, 5.0, 10
    running_frames, start_frames = 3, 2


@pytest.mark.parametrize("name", FORMATIONS)
def test_every_formation_is_what_it_says(name: str, embedding: torch.Tensor, weight: torch.Tensor) -> None:
    formation = FORMATIONS[name].build(_Sizes())
    kind = type(formation)
    kind.check(_Sizes())
    assert kind.trained == bool(list(formation.parameters()))
    assert kind.collected == bool(list(formation.buffers()))
    assert kind.working_copies >= 1
    assert formation.products == (4 if "anchored" in name else 0)
    most = formation.most_speakers()
    assert most is None or most >= C
    ideal = (torch.rand(B, C, T, F, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    embedding.requires_grad_()
    formed = formation.form(embedding, weight, C, assignment=ideal)
    assert formed.points.shape == (B, C, K)
    assert formed.assignments.shape == (B, C, T, F)
    assert formed.assignments.requires_grad == kind.gradient_through_assignments
    silent = formation.form(embedding, torch.zeros_like(weight), C, assignment=ideal)
    assert torch.isfinite(silent.points).all()
    assert torch.isfinite(silent.assignments).all()
    if kind.needs_assignment:
        with pytest.raises(UnmingleError, match="true sources"):
            formation.form(embedding, weight, C)
    else:
        torch.testing.assert_close(formation.form(embedding, weight, C).points, formed.points)


def test_centroids_follow_equation_9(embedding: torch.Tensor, weight: torch.Tensor) -> None:
    assignments = torch.rand(B, C, T, F)
    expected = torch.zeros(B, C, K)
    for b in range(B):
        for c in range(C):
            total, mass = torch.zeros(K), 0.0
            for t in range(T):
                for f in range(F):
                    total += assignments[b, c, t, f] * weight[b, t, f] * embedding[b, t, f]
                    mass += float(assignments[b, c, t, f] * weight[b, t, f])
            expected[b, c] = total / mass
    torch.testing.assert_close(centroids(embedding, assignments, weight), expected)


def test_a_source_without_bins_gets_the_zero_vector(embedding: torch.Tensor, weight: torch.Tensor) -> None:
    assignments = torch.stack([torch.ones(B, T, F), torch.zeros(B, T, F)], dim=1)
    assert centroids(embedding, assignments, weight)[:, 1].abs().max() == 0


def test_logits_follow_equation_10_and_masks_11_and_12(embedding: torch.Tensor) -> None:
    attractors = torch.randn(B, C, K)
    logits = mask_logits(embedding, attractors)
    softmax, sigmoid = softmax_masks(logits), sigmoid_masks(logits)
    for b in range(B):
        for t in range(T):
            for f in range(F):
                dots = [
                    float(sum(attractors[b, c, k] * embedding[b, t, f, k] for k in range(K)))
                    for c in range(C)
                ]
                for c in range(C):
                    assert float(logits[b, c, t, f]) == pytest.approx(dots[c], abs=1e-5)
                    share = math.exp(dots[c]) / sum(math.exp(dot) for dot in dots)
                    assert float(softmax[b, c, t, f]) == pytest.approx(share, abs=1e-5)
                    assert float(sigmoid[b, c, t, f]) == pytest.approx(1 / (1 + math.exp(-dots[c])), abs=1e-5)


def test_anchor_assignments_follow_equation_14(embedding: torch.Tensor) -> None:
    anchors = torch.randn(1, 3, K).expand(B, -1, -1)
    assignments = anchor_assignments(embedding, anchors)
    for c in range(3):
        expected = math.exp(float(anchors[0, c] @ embedding[1, 2, 1])) / sum(
            math.exp(float(anchors[0, other] @ embedding[1, 2, 1])) for other in range(3)
        )
        assert float(assignments[1, c, 2, 1]) == pytest.approx(expected, abs=1e-5)


def test_largest_similarity_leaves_the_diagonal_out_even_if_all_others_are_negative() -> None:
    # Zeros in place of the diagonal would tie both of these at 0.
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-3.0, 0.0]]])
    torch.testing.assert_close(largest_similarity(opposite), torch.tensor([-1.0, -3.0]))


@pytest.mark.parametrize("piece", [1, 1 << 21])
@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_anchors_choose_the_subset_of_equation_15(
    embedding: torch.Tensor,
    weight: torch.Tensor,
    speakers: int,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unmingle.attractors.anchored._SHARES_AT_ONCE", piece)
    torch.manual_seed(2)
    formation = AnchoredAttractors(4, K)
    chosen = formation.choose_subset(embedding, weight, speakers)
    for b in range(B):
        best, winner = math.inf, None
        for subset in combinations(range(4), speakers):
            anchors = formation.anchors[list(subset)].detach().unsqueeze(0)
            one, one_weight = embedding[b : b + 1], weight[b : b + 1]
            points = centroids(one, anchor_assignments(one, anchors), one_weight)[0]
            worst = max(
                (float(points[i] @ points[j]) for i in range(speakers) for j in range(speakers) if i != j),
                default=-math.inf,
            )
            if winner is None or worst < best:
                best, winner = worst, subset
        assert tuple(chosen[b].tolist()) == winner


def test_formed_attractors_are_the_centroids_of_the_chosen_anchors(
    embedding: torch.Tensor, weight: torch.Tensor
) -> None:
    formation = AnchoredAttractors(4, K)
    formed = formation.form(embedding, weight, 2)
    chosen = formation.anchors[formation.choose_subset(embedding, weight, 2)]
    torch.testing.assert_close(
        formed.points, centroids(embedding, anchor_assignments(embedding, chosen), weight)
    )


def test_gradients_reach_anchors_and_embeddings(weight: torch.Tensor) -> None:
    torch.manual_seed(0)
    formation = AnchoredAttractors(3, K).double()
    embedding = torch.randn(1, T, F, K, dtype=torch.float64, requires_grad=True)

    def squared(values: torch.Tensor) -> torch.Tensor:
        return formation.form(values, weight[:1].double(), 2).points.square().sum()

    assert torch.autograd.gradcheck(squared, (embedding,))
    squared(embedding).backward()
    assert formation.anchors.grad is not None
    assert formation.anchors.grad.abs().sum() > 0


def test_oracle_attractors_use_the_assignment_they_are_given(
    embedding: torch.Tensor, weight: torch.Tensor
) -> None:
    assignment = torch.nn.functional.one_hot(torch.arange(T * F).reshape(T, F) % 2, 2).permute(2, 0, 1)
    assignment = assignment.float().expand(B, -1, -1, -1)
    formed = OracleAttractors().form(embedding, weight, 2, assignment=assignment)
    torch.testing.assert_close(formed.points, centroids(embedding, assignment, weight))
    with pytest.raises(UnmingleError, match="true sources"):
        OracleAttractors().form(embedding, weight, 2)


@pytest.mark.parametrize("formation", [KMeansAttractors, SphericalKMeansAttractors])
def test_kmeans_attractors_find_the_clusters_an_oracle_would(formation: type[KMeansAttractors]) -> None:
    truth = torch.arange(T * F).reshape(1, T, F) % 2
    centres = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 1.0, 0.0]])
    embedding = centres[truth] + 0.1 * torch.randn(1, T, F, K)
    weight = torch.ones(1, T, F)
    assignment = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    oracle = OracleAttractors().form(embedding, weight, 2, assignment=assignment).points[0]
    found = formation().form(embedding, weight, 2).points[0]
    order = [0, 1] if found[0, 0] > found[1, 0] else [1, 0]
    torch.testing.assert_close(found[order], oracle)


def test_soft_attractors_separate_blobs_and_pass_gradients(weight: torch.Tensor) -> None:
    truth = torch.randint(2, (B, T, F))
    embedding = (4.0 * torch.nn.functional.one_hot(truth, K) + 0.1 * torch.randn(B, T, F, K)).requires_grad_()
    formed = SoftKMeansAttractors(hardness=5.0, steps=10).form(embedding, weight, 2)
    torch.testing.assert_close(formed.assignments.sum(dim=1), torch.ones(B, T, F))
    for b in range(B):
        found = formed.assignments[b].argmax(dim=0)
        assert torch.equal(found, truth[b]) or torch.equal(found, 1 - truth[b])
    formed.points.sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0


def test_fixed_attractors_are_what_was_stored(embedding: torch.Tensor, weight: torch.Tensor) -> None:
    fixed = FixedAttractors(2, K)
    fixed.points.copy_(torch.randn(2, K))
    formed = fixed.form(embedding, weight, 2)
    assert torch.equal(formed.points, fixed.points.expand(B, -1, -1))
    one_frame = fixed.form(embedding[:, :1], weight[:, :1], 2)
    torch.testing.assert_close(one_frame.assignments, formed.assignments[:, :, :1])
    assert "points" in fixed.state_dict()
    assert fixed.most_speakers() == 2


def test_sets_of_attractors_are_clustered_whatever_their_order() -> None:
    """Luo's Fig. 5: two pairs of opposite attractors, one pair more common than the other."""
    generator = torch.Generator().manual_seed(0)
    common, rare = torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, -3.0]])
    sets = torch.cat([common.expand(70, 2, 2), rare.expand(30, 2, 2)]).clone()
    swapped = torch.rand(100, generator=generator) > 0.5
    sets[swapped] = sets[swapped].flip(1)
    sets += 0.1 * torch.randn(100, 2, 2, generator=generator)
    points = mean_of_largest_cluster(sets[torch.randperm(100, generator=generator)], generator=generator)
    points = points[points[:, 0].argsort(descending=True)]
    torch.testing.assert_close(points, common, atol=0.1, rtol=0)
