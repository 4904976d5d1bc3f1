"""The specialist that masks each frame of a stream, and the change from one specialist to another."""

from __future__ import annotations

import torch
from torch import Tensor

from unmingle.audio_stream import Frames
from unmingle.errors import UnmingleError
from unmingle.networks import LstmState
from unmingle.systems import DenoisingSystem
from unmingle.systems.gate_base import Gate

_KEPT_SECONDS = 1.0
"""Length of the past that initializes a new specialist's state, and time of the gate's first choice in a stream."""
_ASK_SECONDS = 2.0
"""Time between the gate's choices in a stream, and half-life of its evidence."""
_FADE_SECONDS = 0.25
"""Length of the cross-fade between two specialists' masks."""


class ExpertMasks:
    """Masks frame by frame, from one specialist at a time. The gate chooses the specialist.

    Without look-ahead, the default specialist starts. The gate chooses after one second, and then every two seconds,
    from the evidence of all frames so far. The weight of evidence halves every two seconds. With look-ahead, frames
    wait until ``look_ahead`` of them are there. The gate then chooses for them as for an utterance.

    A new specialist first runs on the last second, so that its state is initialized. The specialist that is the gate
    does not need this, because it runs all the time. Then the new mask fades in. The first specialist is initialized
    with the frames of :meth:`begin`.

    Args:
        system: the denoiser.
        expert: number of a specialist that runs all the time (default: the gate chooses).
        look_ahead: in frames; 0 for none.

    Raises:
        UnmingleError: there is no such specialist.
    """

    def __init__(self, system: DenoisingSystem, expert: int | None = None, look_ahead: int = 0) -> None:
        if expert is not None and not 0 <= expert < len(system.experts):
            raise UnmingleError(
                f"This model has the specialists 0 to {len(system.experts) - 1}; there is no {expert}."
            )
        self._system = system
        self._gate = system.gate if expert is None else None
        self.look_ahead = 0 if self._gate is None else look_ahead
        """Frames that wait for the gate's choice."""
        self.expert = system.default_expert if expert is None else expert
        """The specialist that runs now."""
        self.switches = 0
        """Number of changes of the specialist."""
        freqs = system.frontend.stft.freqs
        self._frames_per_second = system.sample_rate / system.hop
        self._state = system.experts[self.expert].initial_state(1)
        self._before: tuple[int, LstmState] | None = None
        self._fade_frames, self._faded = self._frames(_FADE_SECONDS), 0
        blank = system.frontend.mean.new_zeros(1, 0, freqs)
        self._kept, self._waiting, self._magnitude = Frames(blank), Frames(blank), Frames(blank)
        self._unfaded = blank
        self._begun, self._prelude = False, blank
        self._until_choice = self._frames(_KEPT_SECONDS)
        self._gate_state: LstmState | None = None
        self._evidence = system.frontend.mean.new_zeros(())

    def _frames(self, seconds: float) -> int:
        return round(seconds * self._frames_per_second)

    def begin(self, features: Tensor) -> None:
        """Initialize the state with frames ``(1, frames, freqs)`` before the first. They get no mask."""
        self._prelude = features
        self._state = self._warmed(self.expert)

    def push(self, features: Tensor, magnitude: Tensor, *, ended: bool = False) -> Tensor:
        """Push frames; returns the masks that are ready, ``(1, frames, freqs)``.

        Args:
            features: ``(1, frames, freqs)``.
            magnitude: of the mixture, of the same shape.
            ended: these are the last ones.
        """
        if self._gate is None:
            return self._run(features)
        self._magnitude.add(magnitude)
        if self.look_ahead:
            return self._push_ahead(self._gate, features, ended)
        return self._push_live(self._gate, features)

    def _push_live(self, gate: Gate, features: Tensor) -> Tensor:
        masks = []
        while features.shape[1]:
            part, features = features[:, : self._until_choice], features[:, self._until_choice :]
            masks.append(self._run(part))
            self._waiting.add(self._unfaded if self._runs_gate else part)
            self._until_choice -= part.shape[1]
            if self._until_choice == 0:
                # All frames at once, because the gate is several times slower frame by frame.
                frames = self._waiting.count
                self._choose(self._listen(gate, self._waiting.take(frames), self._magnitude.take(frames)))
                self._until_choice = self._frames(_ASK_SECONDS)
        return masks[0] if len(masks) == 1 else torch.cat([features, *masks], dim=1)

    def _push_ahead(self, gate: Gate, features: Tensor, ended: bool) -> Tensor:
        masks = [features[:, :0]]
        self._waiting.add(features)
        while self._waiting.count >= self.look_ahead or (ended and self._waiting.count):
            frames = min(self.look_ahead, self._waiting.count)
            part, magnitude = self._waiting.take(frames), self._magnitude.take(frames)
            # A last section of less than a second has too little evidence for another choice.
            too_short = part.shape[1] < min(self._frames(_KEPT_SECONDS), self.look_ahead)
            begun = None
            if not self._begun or not too_short:
                begun = self._choose_for(gate, part, magnitude)
            masks.append(self._run(part, begun))
        return torch.cat(masks, dim=1)

    def _choose_for(self, gate: Gate, part: Tensor, magnitude: Tensor) -> Tensor | None:
        """Choose for a section. If the gate chooses itself, returns its mask of the frames that it has processed."""
        state = None
        if gate.specialist is not None:
            state = self._state if self._runs_gate else self._warmed(gate.specialist)
        choice, begun = gate.decide(part, magnitude, self._system.experts, state=state)
        if begun is not None:
            self._gate_state = begun.state
        self._choose(int(choice))
        if begun is None or not self._runs_gate:
            return None
        self._state = begun.state
        return begun.mask

    @property
    def _runs_gate(self) -> bool:
        """Whether the current specialist is the gate. Then its masks are the evidence."""
        return self._gate is not None and self.expert == self._gate.specialist

    def _listen(self, gate: Gate, waiting: Tensor, magnitude: Tensor) -> int:
        """The gate's choice after these frames. ``waiting`` has their features, or their masks if the gate runs."""
        if self._runs_gate:
            evidence, self._gate_state = gate.evidence(waiting, magnitude), self._state
        else:
            evidence, self._gate_state = gate.listen(
                waiting, magnitude, self._system.experts, self._gate_state
            )
        fade = 0.5 ** (1 / self._frames(_ASK_SECONDS))
        ages = torch.arange(evidence.shape[1] - 1, -1, -1, device=evidence.device)
        self._evidence = self._evidence * fade ** evidence.shape[1] + (fade**ages) @ evidence[0]
        return gate.choose(self._evidence)

    def _choose(self, expert: int) -> None:
        if expert == self.expert:
            return
        if self._begun:
            self._before, self._faded = (self.expert, self._state), 0
            self.switches += 1
        self.expert = expert
        # The specialist that is the gate has run on the whole stream.
        self._state = self._gate_state if self._runs_gate and self._gate_state else self._warmed(expert)

    def _warmed(self, expert: int) -> LstmState:
        """The state of a specialist after the last second, or initially after the prelude."""
        network = self._system.experts[expert]
        kept = self._kept.last(self._frames(_KEPT_SECONDS)) if self._begun else self._prelude
        return network.step(kept, network.initial_state(1))[1]

    def _run(self, features: Tensor, begun: Tensor | None = None) -> Tensor:
        """Masks of the current specialist, with a cross-fade after a change. ``begun`` has the first ones."""
        if not features.shape[1]:
            return features
        self._begun = True
        if self._gate is not None:
            self._kept.add(features)
            if self._kept.count > 4 * self._frames(_KEPT_SECONDS):
                self._kept.take(self._kept.count - self._frames(_KEPT_SECONDS))
        rest = features if begun is None else features[:, begun.shape[1] :]
        values, self._state = self._system.experts[self.expert].step(rest, self._state)
        masks = torch.sigmoid(values)
        self._unfaded = masks if begun is None else torch.cat([begun, masks], dim=1)
        if self._before is None:
            return self._unfaded
        expert, state = self._before
        frames = min(features.shape[1], self._fade_frames - self._faded)
        values, state = self._system.experts[expert].step(features[:, :frames], state)
        place = torch.arange(self._faded + 1, self._faded + frames + 1, device=features.device)
        share = (place / (self._fade_frames + 1)).reshape(1, -1, 1)
        masks = self._unfaded.clone()
        masks[:, :frames] = share * masks[:, :frames] + (1 - share) * torch.sigmoid(values)
        self._faded += frames
        self._before = (expert, state) if self._faded < self._fade_frames else None
        return masks
