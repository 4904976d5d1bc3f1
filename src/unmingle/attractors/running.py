"""Running attractors: formed anew in every frame, from it and the frames before (Han, Luo & Mesgarani 2019, ODANet).

Frame t is assigned by the attractors of frame t-1; the centroids of these assignments move the attractors:

    Y(c, t, f) = softmax over c of  A(c, t-1) . V(t, f)
    A^(c, t)   = sum over f of Y W V / sum over f of Y W
    A(c, t)    = (1 - alpha) A(c, t-1) + alpha A^(c, t)

where ``alpha(c, t)`` is the share that frame t has of all the weight ``sum over f of Y W`` that speaker c was
given in the last tau frames. A frame in which no bin weighs is passed over: no pause makes it forget who is who.

The same class works on whole recordings, in training too, and frame by frame. The first attractors come from the
first frames that weigh: by trained anchors as in the paper, or by k-means, for networks without anchors.
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
    similarity,
)


@dataclass
class RunningState:
    """What running attractors remember of one recording, or of a batch that comes in one piece."""

    speakers: int
    points: Tensor | None = None
    """Of the last frame, ``(batch, speakers, dim)``; None until the first attractors are formed."""
    first: Tensor | None = None
    """The first ones."""
    masses: deque[Tensor] = field(default_factory=deque)
    """Weight that each speaker was given in each of the last frames, ``(batch, speakers)``."""
    waiting: tuple[Tensor, Tensor] | None = None
    """Embedding and weight of frames that wait for the first attractors."""


class RunningAttractors(AttractorFormation):
    """Attractors that move from frame to frame; see :mod:`unmingle.attractors.running`.

    Args:
        frames: tau, over which a frame's share of the assigned weight is taken.
        start_frames: from so many frames the first attractors are formed, once a bin weighs; they share these.
    """

    working_copies = 3

    def __init__(self, frames: int, start_frames: int) -> None:
        super().__init__()
        self.frames, self.start_frames = frames, start_frames

    @abstractmethod
    def start(self, embedding: Tensor, weight: Tensor, speakers: int) -> Attractors:
        """The first attractors, of the first frames."""

    @abstractmethod
    def assign(self, embedding: Tensor, points: Tensor) -> Tensor:
        """Assignments ``(batch, speakers, frames, freqs)`` of ``(batch, frames, freqs, dim)`` by ``points``."""

    @property
    def lag_frames(self) -> int:
        """How many frames after its own a frame waits at most for its attractors."""
        return self.start_frames - 1

    def form(
        self,
        embedding: Tensor,
        weight: Tensor,
        speakers: int,
        *,
        assignment: Tensor | None = None,
    ) -> Attractors:
        """The attractors of all frames, in ``path``; ``points`` are those of the last frame.

        ``assignments`` are those of every frame by the attractors of the frame before.
        """
        state = RunningState(speakers)
        path = self.step(embedding, weight, state, ended=True)
        assert state.points is not None
        assert state.first is not None
        before = torch.cat([state.first.unsqueeze(1), path[:, :-1]], dim=1)
        flat = embedding.flatten(0, 1).unsqueeze(1)  # One frame each.
        assignments = self.assign(flat, before.flatten(0, 1))
        assignments = assignments.reshape(*embedding.shape[:2], *assignments.shape[1:])[:, :, :, 0]
        return Attractors(state.points, assignments.transpose(1, 2), similarity(state.points), path)

    def step(self, embedding: Tensor, weight: Tensor, state: RunningState, *, ended: bool = False) -> Tensor:
        """Some more frames: the attractors ``(batch, frames, speakers, dim)`` of the frames that are known now.

        Args:
            embedding: ``(batch, frames, freqs, dim)``.
            weight: ``(batch, frames, freqs)``.
            state: is updated in place. A batch of several recordings must come in one piece.
            ended: nothing more comes.
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
        """Form the first attractors, from the frames after the silent ones, ``before`` ``(batch,)``."""
        places = before[:, None] + torch.arange(self.start_frames, device=before.device)
        inside = (places < embedding.shape[1]).to(weight.dtype)
        places = places.clamp_max(embedding.shape[1] - 1)[:, :, None].expand(-1, -1, weight.shape[2])
        first = embedding.gather(1, places.unsqueeze(-1).expand(-1, -1, -1, embedding.shape[-1]))
        first_weight = weight.gather(1, places) * inside.unsqueeze(-1)
        # Where nothing weighs at all, anything will do.
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
        """The attractors of frames whose first ones are there.

        Args:
            embedding: ``(batch, frames, freqs, dim)``.
            weight: ``(batch, frames, freqs)``.
            state: is updated in place.
            begins: ``(batch,)``, the frame from which on attractors move.
            silent: ``(batch,)``, the number of frames before the first that weighs, whose attractors are zero.
        """
        count = torch.arange(embedding.shape[1], device=embedding.device)
        moves = (weight.sum(dim=2) > 0) & (count >= begins[:, None])
        # Frames that move the attractors, one after the other; the rest follow, and weigh nothing.
        order = (~moves).to(torch.int8).argsort(dim=1, stable=True)
        steps = int(moves.sum(dim=1).max()) if len(moves) else 0
        assert state.points is not None
        path = [state.points]
        total = torch.stack(list(state.masses)).sum(dim=0)
        rows = torch.arange(len(embedding), device=embedding.device)
        for number in range(steps):
            chosen = order[:, number]
            moving = moves[rows, chosen].to(weight.dtype)[:, None]
            total = self._move(embedding[rows, chosen], weight[rows, chosen] * moving, total, state)
            path.append(state.points)
        made = torch.stack(path, dim=1)[rows[:, None], moves.long().cumsum(dim=1)]
        return made if silent is None else made * (count >= silent[:, None])[..., None, None]

    def _move(self, embedding: Tensor, weight: Tensor, total: Tensor, state: RunningState) -> Tensor:
        """Move the attractors by one frame ``(batch, freqs, dim)``; what of the weight is in the last tau frames."""
        assert state.points is not None
        shares = self.assign(embedding.unsqueeze(1), state.points)[:, :, 0] * weight.unsqueeze(1)
        mass = shares.sum(dim=2)
        # In double: what is added and taken away for hours must leave nothing behind.
        state.masses.append(mass.double())
        total = total + state.masses[-1]
        if len(state.masses) > self.frames:
            total = total - state.masses.popleft()
        found = torch.bmm(shares, embedding) / mass.clamp_min(1e-8).unsqueeze(-1)
        alpha = (mass.double() / torch.maximum(total, mass.double()).clamp_min(1e-8)).to(mass.dtype)
        state.points = state.points + alpha.unsqueeze(-1) * (found - state.points)
        return total


class RunningAnchoredAttractors(RunningAttractors):
    """Running attractors that begin with trained anchors, in the first frame that weighs.

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
    """Running attractors that begin with k-means on a start buffer; every bin is its nearest attractor's.

    That is k-means as it runs, for networks that were trained without anchors. 300 ms suffice for the start
    (Wang et al. 2019).
    """

    gradient_through_assignments = False
    counts_by_spread = True
    working_copies = 5

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
