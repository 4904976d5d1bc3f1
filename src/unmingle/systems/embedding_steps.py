"""An embedding separator frame by frame: running level, network, running attractors, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unmingle.attractors import RunningAttractors, RunningState, path_logits
from unmingle.frontend import bin_weights
from unmingle.networks import SteppingNetwork

if TYPE_CHECKING:
    from unmingle.systems.embedding_separator import EmbeddingSeparator


class EmbeddingSteps:
    """One run on one mixture. The masks equal those of :meth:`EmbeddingSeparator.mask` for the whole mixture.

    Args:
        system: its level is running, and its weights do not depend on later frames.
        network: of the system.
        formation: of the system.
        speakers: number of masks.
    """

    def __init__(
        self,
        system: EmbeddingSeparator,
        network: SteppingNetwork,
        formation: RunningAttractors,
        speakers: int,
    ) -> None:
        self.lag_frames = network.lag_frames + formation.lag_frames
        self._system, self._network, self._formation = system, network, formation
        self._level = system.frontend.initial_state(1)
        self._network_state = network.initial_state(1)
        self._attractors = RunningState(speakers)
        blank = system.frontend.mean.new_zeros(1, 0, system.frontend.stft.freqs)
        self._weight = blank
        """Weights of frames that have no embedding yet."""
        self._embedding = blank.new_zeros(*blank.shape, system.config.dimension)
        """Embeddings of frames that have no attractors yet."""

    @torch.no_grad()
    def push(self, magnitude: Tensor, *, ended: bool) -> Tensor:
        """Push magnitudes ``(1, frames, freqs)``; returns the masks that are ready, ``(speakers, frames, freqs)``.

        With ``ended`` the masks of all remaining frames are ready.
        """
        frontend, features = self._system.frontend, magnitude
        if magnitude.shape[1]:
            relative = frontend.relative(magnitude, self._level)
            features = frontend.features(relative)
            weight = bin_weights(self._system.test_weight, relative)
            self._weight = torch.cat([self._weight, weight], dim=1)
        embedding = self._system.normalized(self._network.step(features, self._network_state, ended=ended))
        count = embedding.shape[1]
        known, self._weight = self._weight[:, :count], self._weight[:, count:]
        path = self._formation.step(embedding, known, self._attractors, ended=ended)
        waiting = torch.cat([self._embedding, embedding], dim=1)
        ready, self._embedding = waiting[:, : path.shape[1]], waiting[:, path.shape[1] :]
        return self._system.test_masks(path_logits(ready, path))[0]
