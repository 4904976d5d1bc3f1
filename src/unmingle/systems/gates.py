"""Gates of local experts: they choose a specialist for an utterance.

There are two strategies with one interface (:class:`~unmingle.systems.gate_base.Gate`): an LSTM of its own
(:class:`LstmGate`, Sivaraman & Kim 2020), and the mask of one of the specialists (:class:`SpecialistGate`, ours).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from unmingle.config import Config
from unmingle.networks import Lstm, LstmConfig, LstmState, mean_over_time
from unmingle.padding import within
from unmingle.systems.gate_base import Begun, Decision, Gate

_SPREAD = 4.0
"""Initial standard deviation in dB of the kept-to-removed ratio around a specialist's SNR."""
_USUAL_DOUBT = 10**-0.9
"""Share of the energy in doubt, about the mean over noisy speech: the zero point of this feature."""
_SIBILANTS_HERTZ = 2500.0
"""Sibilants lie above. A gate with a hidden layer has features of its own for each side."""
_FEATURE_SCALE = 0.1
"""From dB to the input of a hidden layer."""


class LstmGateConfig(LstmConfig):
    """Sizes of an LSTM that is a gate."""

    specialist: ClassVar[int | None] = None


class SpecialistGateConfig(Config):
    """The specialist that is the gate, and how much of an utterance it uses."""

    specialist: int = Field(0, ge=0)
    """Its number. The most frequent choice is best: a gate that chooses itself continues without repeated work."""
    seconds: float = Field(6.0, gt=0.0, le=60.0)
    """Seconds of an utterance after which it decides, or at the end of a shorter one. A live stream asks it every two
    seconds."""
    margin: float = Field(0.0, ge=0.0)
    """Minimum advantage of a specialist for higher SNRs in training of the choice, in the objective's unit (dB for
    SI-SDR). Such a specialist leaves noise if the choice is wrong, and its advantage on the training noises may not
    hold for others."""
    hidden_size: int = Field(0, ge=0, le=256)
    """Units of a hidden layer. With 0, scores are linear in what the mask does at all frequencies. With units, the
    gate also reads what the mask does below and above 2.5 kHz, so that sibilants that it removes from clean speech
    are not taken for noise."""


def _kind_of_gate(value: Any) -> str:
    own = "specialist" in value if isinstance(value, Mapping) else isinstance(value, SpecialistGateConfig)
    return "specialist" if own else "lstm"


AnyGateConfig = Annotated[
    Annotated[LstmGateConfig, Tag("lstm")] | Annotated[SpecialistGateConfig, Tag("specialist")],
    Discriminator(_kind_of_gate),
]


class LstmGate(Gate, Lstm):
    """The paper's gate: an LSTM scores every frame, and the mean over the utterance decides.

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
    """Scores specialists by the energy that the mask of one of them keeps, removes and leaves in doubt.

    A specialist is trained with a target for every bin, an LSTM gate with one label per utterance. So with unknown
    kinds of noise, a specialist's mask is the better measure of the SNR. Each score is a function of two features in
    dB: kept over removed energy, and the energy in doubt over all energy. The second is small with little noise; the
    first alone hardly separates 10 dB from 30 dB. The function is linear, or has a hidden layer, which reads the same
    features of low and of high frequencies, too.

    Args:
        levels: the SNR in dB that each specialist is for, K of them.
        config: which specialist is the gate.
        listening_frames: number of first frames of an utterance that it uses.
        sample_rate: in hertz.
    """

    specialist: int
    low_share: float | None = None
    """Share of the frequencies that are low, if the gate tells low from high."""

    def __init__(
        self,
        levels: Sequence[float],
        config: SpecialistGateConfig,
        listening_frames: int,
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        self.specialist, self.listening_frames = config.specialist, listening_frames
        self._higher = torch.tensor([level > levels[config.specialist] for level in levels])
        self._margin = config.margin
        if config.hidden_size:
            self.low_share = min(1.0, 2 * _SIBILANTS_HERTZ / sample_rate)
            self.hidden = nn.Linear(6, config.hidden_size)
            self.linear = nn.Linear(config.hidden_size, len(levels))
            return
        self.linear = nn.Linear(2, len(levels))
        # The discriminant of Gaussians with equal variance around the levels. Initially doubt has no weight.
        self.linear.weight.data.copy_(torch.tensor([[level / _SPREAD**2, 0.0] for level in levels]))
        self.linear.bias.data.copy_(torch.tensor([-(level**2) / (2 * _SPREAD**2) for level in levels]))

    def forward(self, evidence: Tensor) -> Tensor:
        """Energies kept, in doubt and removed ``(batch, 3)`` to scores before the softmax ``(batch, K)``.

        A gate that tells low from high frequencies reads ``(batch, 6)``: first the three of the low ones.
        """
        if self.low_share is None:
            return _linear(self.linear, _figures(evidence))
        low, high = evidence[..., :3], evidence[..., 3:]
        figures = torch.cat([_figures(part) for part in (low + high, low, high)], dim=-1)
        return _linear(self.linear, torch.tanh(_linear(self.hidden, _FEATURE_SCALE * figures)))

    def network(self, experts: Sequence[Lstm]) -> Lstm:
        return experts[self.specialist]

    def outputs(self, values: Tensor) -> Tensor:
        return torch.sigmoid(values.float())

    def evidence(self, outputs: Tensor, magnitude: Tensor) -> Tensor:
        if self.low_share is None:
            return energies(outputs, magnitude)
        low = low_freqs(self.low_share, magnitude.shape[-1])
        parts = slice(low), slice(low, None)
        return torch.cat([energies(outputs[..., part], magnitude[..., part]) for part in parts], dim=-1)

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


def low_freqs(low_share: float, freqs: int) -> int:
    """How many of ``freqs`` frequencies are low."""
    return round(low_share * (freqs - 1)) + 1


def _figures(evidence: Tensor) -> Tensor:
    """Kept over removed energy, and the energy in doubt over all and over its usual share: ``(..., 2)`` in dB."""
    # Each part counts as at least -90 dB of the total. In silence kept equals removed, with the usual doubt.
    total = evidence.sum(dim=-1, keepdim=True)
    evidence = evidence + 1e-9 * total + 1e-30 * evidence.new_tensor([1.0, _USUAL_DOUBT, 1.0])
    kept, doubt, removed = evidence.unbind(dim=-1)
    ratios = torch.stack([kept / removed, doubt / (total[..., 0] + 1e-30) / _USUAL_DOUBT], dim=-1)
    return 10 * ratios.log10()


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    """The layer without its own product, which rounds to bfloat16 in training with mixed precision."""
    product: Tensor = (values.unsqueeze(-2) * layer.weight).sum(dim=-1) + layer.bias
    return product


def energies(mask: Tensor, magnitude: Tensor) -> Tensor:
    """Each frame's energy in three parts: kept, in doubt, removed: ``(batch, frames, 3)``.

    With a mask m, a share m^2 of a bin's energy is kept, (1 - m)^2 is removed, and 2 m (1 - m) is in doubt.

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
    sample_rate: int,
) -> Gate:
    """The gate of a config.

    Args:
        config: of the gate.
        freqs: number of frequencies.
        specialists: K, their number.
        levels: the SNR in dB that each specialist is for, if they are divided by SNR.
        listening_frames: gives the number of frames in a number of seconds, the prelude included.
        sample_rate: in hertz.
    """
    if isinstance(config, LstmGateConfig):
        return LstmGate(freqs, specialists, config)
    return SpecialistGate(levels, config, listening_frames(config.seconds), sample_rate)
