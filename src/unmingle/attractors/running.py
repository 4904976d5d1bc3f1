"""Running attractors: updated in every frame from this frame and earlier ones (Han, Luo & Mesgarani 2019, ODANet).

The attractors of frame t-1 assign the bins of frame t. The centroids of these assignments move the attractors:

    Y(c, t, f) = softmax over c of  A(c, t-1) . V(t, f)
    A^(c, t)   = sum over f of Y W V / sum over f of Y W
    A(c, t)    = (1 - alpha) A(c, t-1) + alpha A^(c, t)

The weight of speaker c in frame t is ``sum over f of Y W``. ``alpha(c, t)`` is the weight in frame t divided by the
sum of the weights in the last tau frames. Frames without weight do not move the attractors, so pauses do not change
them.

The same class works on whole recordings, also in training, and frame by frame. The first attractors are formed from
the first frames with weight: by trained anchors as in the paper, or by k-means for networks without anchors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unmingle.attractors.anchored import AnchoredAttractors, anchor_assignments
from unmingle.attractors.clustered import KMeansAttractors
from unmingle.attractors.formation import (
    AttractorFormation,
    Attractors,
    FormationSizes,
    mask_logits,
)


@dataclass
class RunningState:
    """State of running attractors for one recording, or for a batch that is pushed at once."""

    speakers: int
    points: Tensor | None = None
    """Attractors of the last frame, ``(batch, speakers, dim)``; None until the first attractors are formed."""
    first: Tensor | None = None
    """The first attractors."""
    masses: deque[Tensor] = field(default_factory=deque)
    """Weight of each speaker in each of the last frames, ``(batch, speakers)``."""
    waiting: tuple[Tensor, Tensor] | None = None
    """Embeddings and weights of frames that wait for the first attractors."""


class RunningAttractors(AttractorFormation):
    """Attractors that move from frame to frame; see :mod:`unmingle.attractors.running`.

    Args:
        frames: tau, the number of frames over which weights are summed.
        start_frames: number of frames from which the first attractors are formed, from the first frame with weight
            on. These frames have the same attractors.
    """

    working_copies = 4

    def __init__(self, frames: int, start_frames: int) -> None:
        super().__init__()
        self.frames, self.start_frames = frames, start_frames

    @abstractmethod
    def start(self, embedding: Tensor, weight: Tensor, speakers: int) -> Attractors:
        """The first attractors, from the first frames."""

    @abstractmethod
    def assign(self, embedding: Tensor, points: Tensor) -> Tensor:
        """Assignments ``(batch, speakers, frames, freqs)`` of bins ``(batch, frames, freqs, dim)`` to ``points``."""

    @property
    def lag_frames(self) -> int:
        """Maximum number of later frames that a frame's attractors need."""
        return self.start_frames - 1

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        """Attractors of all frames, in ``path``. ``points`` has those of the last frame.

        ``assignments`` has the assignments of every frame to the attractors of the frame before. Up to the first
        frame with weight, these are the first attractors.
        """
        state = RunningState(speakers)
        path = self.step(embedding, weight, state, ended=True)
        assert state.points is not None
        assert state.first is not None
        before = torch.cat([state.first.unsqueeze(1), path[:, :-1]], dim=1)
        # The frames before the first attractors have none.
        weighs = (weight.sum(dim=2) > 0).long()
        begun = weighs.cumsum(dim=1) > weighs
        before = torch.where(begun[..., None, None], before, state.first.unsqueeze(1))
        flat = embedding.flatten(0, 1).unsqueeze(1)  # One frame each.
        assignments = self.assign(flat, before.flatten(0, 1))
        assignments = assignments.reshape(*embedding.shape[:2], *assignments.shape[1:])[:, :, :, 0]
        return Attractors(state.points, assignments.transpose(1, 2), path)

    def step(self, embedding: Tensor, weight: Tensor, state: RunningState, *, ended: bool = False) -> Tensor:
        """Push frames; returns the attractors ``(batch, frames, speakers, dim)`` of the frames that are ready.

        Args:
            embedding: ``(batch, frames, freqs, dim)``.
            weight: ``(batch, frames, freqs)``.
            state: is updated in place. A batch of several recordings must be pushed at once.
            ended: whether these are the last frames.
        """
        if state.points is not None:
            return self._run(embedding, weight, state, weight.new_zeros(len(weight), dtype=torch.long))
        if state.waiting is not None:
            embedding = torch.cat([state.waiting[0], embedding], dim=1)
            weight = torch.cat([state.waiting[1], weight], dim=1)
        frames = embedding.shape[1]
        weighs = weight.sum(dim=2) > 0
        before = torch.where(weighs.any(dim=1), weighs.long().cumsum(dim=1).eq(0).sum(dim=1), frames)
        silent = int(before.min()) if len(before) else 0
        if not ended and frames - silent < self.start_frames:
            state.waiting = embedding[:, silent:], weight[:, silent:]
            return embedding.new_zeros(len(embedding), silent, state.speakers, embedding.shape[-1])
        state.waiting = None
        self._begin(embedding, weight, before, state)
        return self._run(embedding, weight, state, before + self.start_frames, before)

    def _begin(self, embedding: Tensor, weight: Tensor, before: Tensor, state: RunningState) -> None:
        """Form the first attractors, from the frames after the first ``before`` ``(batch,)``, which are silent."""
        places = before[:, None] + torch.arange(self.start_frames, device=before.device)
        inside = (places < embedding.shape[1]).to(weight.dtype)
        places = places.clamp_max(embedding.shape[1] - 1)[:, :, None].expand(-1, -1, weight.shape[2])
        first = embedding.gather(1, places.unsqueeze(-1).expand(-1, -1, -1, embedding.shape[-1]))
        first_weight = weight.gather(1, places) * inside.unsqueeze(-1)
        # Without any weight, the attractors do not matter.
        nothing = first_weight.sum(dim=(1, 2), keepdim=True) == 0
        formed = self.start(
            first, torch.where(nothing, torch.ones_like(first_weight), first_weight), state.speakers
        )
        state.points = state.first = formed.points
        mass = (formed.assignments * first_weight.unsqueeze(1)).sum(dim=3).double()
        state.masses.extend(mass.unbind(dim=2)[-self.frames :])

    def _run(
        self,
        embedding: Tensor,
        weight: Tensor,
        state: RunningState,
        begins: Tensor,
        silent: Tensor | None = None,
    ) -> Tensor:
        """Attractors of frames after the first attractors are formed.

        Args:
            embedding: ``(batch, frames, freqs, dim)``.
            weight: ``(batch, frames, freqs)``.
            state: is updated in place.
            begins: ``(batch,)``, the first frame that moves the attractors.
            silent: ``(batch,)``, the number of frames before the first with weight. Their attractors are zero.
        """
        count = torch.arange(embedding.shape[1], device=embedding.device)
        moves = (weight.sum(dim=2) > 0) & (count >= begins[:, None])
        # Frames that move the attractors come first, in order. The others have no weight.
        order = (~moves).to(torch.int8).argsort(dim=1, stable=True)
        steps = int(moves.sum(dim=1).max()) if len(moves) else 0
        assert state.points is not None
        path = [state.points]
        total = torch.stack(list(state.masses)).sum(dim=0)
        rows, moving = torch.arange(len(embedding), device=embedding.device)[:, None], order[:, :steps]
        # All frames are chosen at once: the gradient of each choice has the size of the whole embedding.
        chosen, chosen_weight = embedding[rows, moving], (weight * moves.unsqueeze(2))[rows, moving]
        for frame, frame_weight in zip(chosen.unbind(dim=1), chosen_weight.unbind(dim=1), strict=True):
            total = self._move(frame, frame_weight, total, state)
            path.append(state.points)
        made = torch.stack(path, dim=1)[rows, moves.long().cumsum(dim=1)]
        return made if silent is None else made * (count >= silent[:, None])[..., None, None]

    def _move(self, embedding: Tensor, weight: Tensor, total: Tensor, state: RunningState) -> Tensor:
        """Move the attractors by one frame ``(batch, freqs, dim)``. Returns the weights' sum over tau frames."""
        assert state.points is not None
        shares = self.assign(embedding.unsqueeze(1), state.points)[:, :, 0] * weight.unsqueeze(1)
        mass = shares.sum(dim=2)
        # In double precision: over hours, additions and subtractions must not leave an error.
        state.masses.append(mass.double())
        total = total + state.masses[-1]
        if len(state.masses) > self.frames:
            total = total - state.masses.popleft()
        found = torch.bmm(shares, embedding) / mass.clamp_min(1e-8).unsqueeze(-1)
        alpha = (mass.double() / torch.maximum(total, mass.double()).clamp_min(1e-8)).to(mass.dtype)
        state.points = state.points + alpha.unsqueeze(-1) * (found - state.points)
        return total


class RunningAnchoredAttractors(RunningAttractors):
    """Running attractors that start with trained anchors, in the first frame with weight.

    Args:
        anchors: N, the number of anchors; up to N speakers can be separated.
        dimension: K, the dimension of the embedding.
        frames: tau.
    """

    trained = True

    @classmethod
    def build(cls, sizes: FormationSizes) -> RunningAnchoredAttractors:
        return cls(sizes.anchors, sizes.dimension, sizes.running_frames)

    @classmethod
    def check(cls, sizes: FormationSizes) -> None:
        AnchoredAttractors.check(sizes)

    def __init__(self, anchors: int, dimension: int, frames: int) -> None:
        super().__init__(frames, start_frames=1)
        self.first: AnchoredAttractors = AnchoredAttractors(anchors, dimension)

    @property
    def products(self) -> int:
        return self.first.products

    def most_speakers(self) -> int | None:
        return self.first.most_speakers()

    def start(self, embedding: Tensor, weight: Tensor, speakers: int) -> Attractors:
        return self.first.form(embedding, weight, speakers)

    def assign(self, embedding: Tensor, points: Tensor) -> Tensor:
        return anchor_assignments(embedding, points)


class RunningKMeansAttractors(RunningAttractors):
    """Running attractors that start with k-means. Every bin is assigned to the nearest attractor.

    This is online k-means, for networks without anchors. 300 ms of audio are enough for the start (Wang et al. 2019).
    """

    gradient_through_assignments = False
    counts_by_spread = True
    working_copies = 6

    @classmethod
    def build(cls, sizes: FormationSizes) -> RunningKMeansAttractors:
        return cls(sizes.running_frames, sizes.start_frames)

    def start(self, embedding: Tensor, weight: Tensor, speakers: int) -> Attractors:
        return KMeansAttractors().form(embedding, weight, speakers)

    def assign(self, embedding: Tensor, points: Tensor) -> Tensor:
        # |v|^2 is the same for every attractor.
        squares = points.square().sum(dim=-1)[:, :, None, None]
        nearest = (squares - 2 * mask_logits(embedding, points)).argmin(dim=1)
        return nn.functional.one_hot(nearest, points.shape[1]).movedim(-1, 1).to(embedding.dtype)
