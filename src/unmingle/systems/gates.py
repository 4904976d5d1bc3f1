"""Gates of local experts: which specialist an utterance is for.

Two strategies of one interface: an LSTM of its own (:class:`LstmGate`, Sivaraman & Kim 2020), or the mask of
one of the specialists (:class:`SpecialistGate`, ours).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from unmingle.config import Config
from unmingle.networks import Lstm, LstmConfig, LstmState, mean_over_time
from unmingle.padding import within

_SPREAD = 4.0
"""Decibels by which a fresh gate takes what is kept relative to what is removed to miss the SNR."""
_USUAL_DOUBT = 10**-0.9
"""What is in doubt as a share of all, about the mean over noisy speech: learning starts from there."""


class LstmGateConfig(LstmConfig):
    """Sizes of an LSTM that is a gate."""

    specialist: ClassVar[int | None] = None


class SpecialistGateConfig(Config):
    """Which specialist is the gate, and how much of an utterance it listens to."""

    specialist: int = Field(0, ge=0)
    """Its number. Best the one that is chosen most: if it is chosen, it continues where it is."""
    seconds: float = Field(6.0, gt=0.0, le=60.0)
    """It begins each utterance and decides after so many seconds, or at the end of a shorter one; a live
    stream asks it every two seconds."""
    margin: float = Field(0.0, ge=0.0)
    """What a specialist for higher SNRs must be worth more, in the objective's unit (dB for SI-SDR), when the choice
    is learned: chosen wrongly it leaves noise, and what it gains on noises that it was trained with it may not gain
    on others."""


def _kind_of_gate(value: Any) -> str:
    own = "specialist" in value if isinstance(value, Mapping) else isinstance(value, SpecialistGateConfig)
    return "specialist" if own else "lstm"


AnyGateConfig = Annotated[
    Annotated[LstmGateConfig, Tag("lstm")] | Annotated[SpecialistGateConfig, Tag("specialist")],
    Discriminator(_kind_of_gate),
]


class Begun(NamedTuple):
    """What the specialist that is the gate has done of utterances while it listened: chosen, it continues."""

    mask: Tensor
    """``(batch, frames, freqs)``, of as many frames as the gate heard."""
    state: LstmState
    """After them."""


class Decision(NamedTuple):
    """The specialists that a gate prefers."""

    choice: Tensor
    """``(batch,)``."""
    begun: Begun | None
    """None where the gate is no specialist."""


class Gate(nn.Module):
    """Listens to utterances with a network, gathers evidence frame by frame, and scores every specialist by it.

    ``experts``, which the methods take, are the specialists' networks.
    """

    specialist: int | None = None
    """The specialist whose network it listens with; None: it has its own."""
    linear: nn.Linear
    """Its last layer, which gives the scores."""
    listening_frames: int | None = None
    """How many of an utterance's first frames it hears, the prelude included; None: all."""

    @abstractmethod
    def network(self, experts: Sequence[Lstm]) -> Lstm:
        """The network that it listens with."""

    @abstractmethod
    def outputs(self, values: Tensor) -> Tensor:
        """What the values ``(batch, frames, ...)`` of that network mean: scores, or masks."""

    @abstractmethod
    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        """What every frame says of the choice, ``(batch, frames, values)``; it may be summed over frames.

        Args:
            outputs: see :meth:`outputs`.
            magnitude: of the mixtures, ``(batch, frames, freqs)``.
        """

    @abstractmethod
    def score(self, outputs: Tensor, magnitude: Tensor, frames: Tensor | None = None) -> Tensor:
        """Scores of all K specialists for whole utterances, before the softmax: ``(batch, K)``.

        Args:
            outputs: for as many frames as it hears, or more.
            magnitude: of the mixtures, ``(batch, frames, freqs)``.
            frames: ``(batch,)``, the number of frames that are not padding; all, if not given.
        """

    @abstractmethod
    def decide(
        self,
        features: Tensor,
        magnitude: Tensor,
        experts: Sequence[Lstm],
        frames: Tensor | None = None,
        state: LstmState | None = None,
    ) -> Decision:
        """The best specialists for whole utterances.

        Args:
            features: of the mixtures, ``(batch, frames, freqs)``.
            magnitude: of the mixtures, of the same shape.
            experts: the specialists.
            frames: ``(batch,)``, the number of frames that are not padding; all, if not given.
            state: of the specialist that is the gate, before; the beginning, if not given.
        """

    @abstractmethod
    def choose(self, evidence: Tensor) -> int:
        """The best specialist by a (weighted) sum of evidence over frames, ``(values,)``."""

    def listen(
        self, features: Tensor, magnitude: Tensor, experts: Sequence[Lstm], state: LstmState | None
    ) -> tuple[Tensor, LstmState]:
        """The evidence ``(1, frames, values)`` of some more frames of a stream, and the state after them.

        Args:
            features: ``(1, frames, freqs)``.
            magnitude: of the same shape.
            experts: the specialists.
            state: None at first, then what the last call gave.
        """
        network = self.network(experts)
        values, state = network.step(features, state or network.initial_state(1))
        return self.evidence(self.outputs(values), magnitude), state

    def with_margin(self, errors: Tensor) -> Tensor:
        """Errors ``(batch, K)`` of the specialists with what their choice must be worth more."""
        return errors

    @abstractmethod
    def listening_cost(self, frames: int, expert: Lstm, choice: int | None) -> int:
        """Multiply-accumulate operations beyond those of the specialist ``choice`` (None: any) over ``frames``."""

    @abstractmethod
    def active_parameters(self, expert: Lstm) -> int:
        """Number of values that work on an utterance beside those of the specialist that is chosen."""


class LstmGate(Gate, Lstm):
    """The paper's: an LSTM's scores of every frame, averaged over the utterance.

    Args:
        freqs: number of frequencies.
        specialists: K, their number.
        config: sizes.
    """

    def __init__(self, freqs: int, specialists: int, config: LstmConfig) -> None:
        Lstm.__init__(self, freqs, specialists, config)

    def network(self, experts: Sequence[Lstm]) -> Lstm:
        return self

    def outputs(self, values: Tensor) -> Tensor:
        return values.float()

    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        return outputs

    def score(self, outputs: Tensor, magnitude: Tensor, frames: Tensor | None = None) -> Tensor:
        return mean_over_time(outputs, frames)

    def decide(
        self,
        features: Tensor,
        magnitude: Tensor,
        experts: Sequence[Lstm],
        frames: Tensor | None = None,
        state: LstmState | None = None,
    ) -> Decision:
        scores = self.score(self.outputs(self(features)), magnitude, frames)
        return Decision(scores.argmax(dim=1), None)

    def choose(self, evidence: Tensor) -> int:
        return int(evidence.argmax())

    def listening_cost(self, frames: int, expert: Lstm, choice: int | None) -> int:
        return self.multiply_accumulates(frames)

    def active_parameters(self, expert: Lstm) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class SpecialistGate(Gate):
    """Scores specialists by what the mask of one of them keeps, what it removes, and how much it doubts.

    A specialist has learned from every bin what speech is, where a gate has one label an utterance: with
    noise of kinds that neither was trained with, its mask tells more of the SNR. Each score is a linear
    function of two figures in dB: what is kept relative to what is removed, and what is in doubt relative to
    all (little, where there is next to no noise; the first figure alone hardly tells 10 dB from 30).

    Args:
        levels: the SNR in dB that each specialist is for, K of them.
        config: which of them it is.
        listening_frames: how many of an utterance's first frames it hears.
    """

    specialist: int

    def __init__(self, levels: Sequence[float], config: SpecialistGateConfig, listening_frames: int) -> None:
        super().__init__()
        self.specialist, self.listening_frames = config.specialist, listening_frames
        self._higher = torch.tensor([level > levels[config.specialist] for level in levels])
        self._margin = config.margin
        self.linear = nn.Linear(2, len(levels))
        # Classes of equal spread around their levels: the discriminant of Gaussians. Doubt says nothing yet.
        centres = torch.tensor(levels)
        self.linear.weight.data.copy_(torch.stack([centres / _SPREAD**2, torch.zeros_like(centres)], dim=1))
        self.linear.bias.data.copy_(-centres.square() / (2 * _SPREAD**2))

    def forward(self, evidence: Tensor) -> Tensor:
        """Energies kept, in doubt and removed ``(batch, 3)`` to scores before the softmax ``(batch, K)``."""
        # No part counts as less than -90 dB of all; silence has the usual doubt, and as much kept as removed.
        total = evidence.sum(dim=-1, keepdim=True)
        evidence = evidence + 1e-9 * total + 1e-30 * evidence.new_tensor([1.0, _USUAL_DOUBT, 1.0])
        kept, doubt, removed = evidence.unbind(dim=-1)
        figures = (
            10 * torch.stack([kept / removed, doubt / (total[..., 0] + 1e-30) / _USUAL_DOUBT], dim=-1).log10()
        )
        # Not by nn.Linear: in training it would round the scores to bfloat16.
        scores: Tensor = (figures.unsqueeze(-2) * self.linear.weight).sum(dim=-1) + self.linear.bias
        return scores

    def network(self, experts: Sequence[Lstm]) -> Lstm:
        return experts[self.specialist]

    def outputs(self, values: Tensor) -> Tensor:
        return torch.sigmoid(values.float())

    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        return energies(outputs, magnitude)

    def score(self, outputs: Tensor, magnitude: Tensor, frames: Tensor | None = None) -> Tensor:
        mask = outputs[:, : self.listening_frames]
        evidence = self.evidence(mask, magnitude[:, : mask.shape[1]])
        if frames is not None:
            evidence = evidence * within(frames, evidence.shape[1], evidence.device).unsqueeze(-1)
        scores: Tensor = self(evidence.sum(dim=1))
        return scores

    def decide(
        self,
        features: Tensor,
        magnitude: Tensor,
        experts: Sequence[Lstm],
        frames: Tensor | None = None,
        state: LstmState | None = None,
    ) -> Decision:
        network = self.network(experts)
        values, state = network.step(
            features[:, : self.listening_frames], state or network.initial_state(len(features))
        )
        mask = self.outputs(values)
        return Decision(self.score(mask, magnitude, frames).argmax(dim=1), Begun(mask, state))

    def choose(self, evidence: Tensor) -> int:
        return int(self(evidence).argmax())

    def with_margin(self, errors: Tensor) -> Tensor:
        return errors + self._margin * self._higher.to(errors.device)

    def listening_cost(self, frames: int, expert: Lstm, choice: int | None) -> int:
        if choice == self.specialist:
            return 0
        return expert.multiply_accumulates(min(frames, self.listening_frames or frames))

    def active_parameters(self, expert: Lstm) -> int:
        return sum(parameter.numel() for parameter in (*self.parameters(), *expert.parameters()))


def energies(mask: Tensor, magnitude: Tensor) -> Tensor:
    """Each frame's energy in three parts: kept, in doubt, removed, ``(batch, frames, 3)``.

    Of a bin's energy, m squared is kept by the mask m and the square of 1 - m removed; the rest is in doubt.

    Args:
        mask: ``(batch, frames, freqs)``.
        magnitude: of the mixture, of the same shape.
    """
    power = magnitude.square()
    kept, removed = (mask.square() * power).sum(dim=-1), ((1 - mask).square() * power).sum(dim=-1)
    doubt = (2 * mask * (1 - mask) * power).sum(dim=-1)
    return torch.stack([kept, doubt, removed], dim=-1)


def build_gate(
    config: LstmGateConfig | SpecialistGateConfig,
    freqs: int,
    specialists: int,
    levels: Sequence[float],
    listening_frames: Callable[[float], int],
) -> Gate:
    """The gate of a config.

    Args:
        config: which gate.
        freqs: number of frequencies.
        specialists: K, their number.
        levels: the SNR in dB that each is for, where they divide by it.
        listening_frames: how many frames there are in so many seconds, the prelude included.
    """
    if isinstance(config, LstmGateConfig):
        return LstmGate(freqs, specialists, config)
    return SpecialistGate(levels, config, listening_frames(config.seconds))
