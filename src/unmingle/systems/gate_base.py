"""The interface of the gates of local experts (:mod:`unmingle.systems.gates`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from unmingle.networks import Lstm, LstmState


class Begun(NamedTuple):
    """Masks and state of a specialist that is the gate. If it is chosen, it continues from here."""

    mask: Tensor
    """``(batch, frames, freqs)``, for the frames that the gate has used."""
    state: LstmState
    """After these frames."""


class Decision(NamedTuple):
    """The choices of a gate."""

    choice: Tensor
    """Numbers of specialists, ``(batch,)``."""
    begun: Begun | None
    """None if the gate is not a specialist."""


class Gate(nn.Module):
    """Runs a network on an utterance, sums evidence over frames, and scores every specialist.

    The argument ``experts`` of the methods is the list of the specialists' networks.
    """

    specialist: int | None = None
    """Number of the specialist whose network it uses; None if it has its own network."""
    linear: nn.Linear
    """Its last layer, whose output is the scores."""
    listening_frames: int | None = None
    """Number of first frames of an utterance that it uses, the prelude included; None for all."""

    @abstractmethod
    def network(self, experts: Sequence[Lstm]) -> Lstm:
        """The network that it uses."""

    @abstractmethod
    def outputs(self, values: Tensor) -> Tensor:
        """Scores or masks from the output ``(batch, frames, ...)`` of this network."""

    @abstractmethod
    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        """Evidence for the choice in every frame, ``(batch, frames, values)``. It can be summed over frames.

        Args:
            outputs: see :meth:`outputs`.
            magnitude: of the mixtures, ``(batch, frames, freqs)``.
        """

    @abstractmethod
    def score(self, outputs: Tensor, magnitude: Tensor, frames: Tensor | None = None) -> Tensor:
        """Scores of all K specialists for whole utterances, before the softmax: ``(batch, K)``.

        Args:
            outputs: for the frames that it uses, or more.
            magnitude: of the mixtures, ``(batch, frames, freqs)``.
            frames: ``(batch,)``, the number of frames that are not padding (default: all).
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
            frames: ``(batch,)``, the number of frames that are not padding (default: all).
            state: of the specialist that is the gate, before these frames (default: its initial state).
        """

    @abstractmethod
    def choose(self, evidence: Tensor) -> int:
        """The best specialist by a (weighted) sum of evidence over frames, ``(values,)``."""

    def listen(
        self, features: Tensor, magnitude: Tensor, experts: Sequence[Lstm], state: LstmState | None
    ) -> tuple[Tensor, LstmState]:
        """Push frames of a stream; returns their evidence ``(1, frames, values)`` and the state after them.

        Args:
            features: ``(1, frames, freqs)``.
            magnitude: of the same shape.
            experts: the specialists.
            state: from the last call; None at first.
        """
        network = self.network(experts)
        values, state = network.step(features, state or network.initial_state(1))
        return self.evidence(self.outputs(values), magnitude), state

    def with_margin(self, errors: Tensor) -> Tensor:
        """Errors ``(batch, K)`` of the specialists plus the margins of their choice."""
        return errors

    @abstractmethod
    def listening_cost(self, frames: int, expert: Lstm, choice: int | None) -> int:
        """Multiply-accumulate operations of the gate for ``frames``, beside those of the chosen specialist.

        Args:
            frames: number of frames.
            expert: any specialist.
            choice: number of the chosen specialist; None if unknown.
        """

    @abstractmethod
    def active_parameters(self, expert: Lstm) -> int:
        """Number of parameters that process an utterance, beside those of the chosen specialist."""
