"""What the network of :mod:`unmingle.speaker_activity` learns from: crops of separated recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation.fine_masks import FineMasks
from unmingle.separation.speaking_alone import activity_inputs, speaker_voices
from unmingle.separation.turns import PIECE_SECONDS, hear, recognize_turns, shares
from unmingle.separation.voice_clusters import Heard, Labels
from unmingle.speaker_activity import ActivityInputs
from unmingle.speaker_encoder import SpeakerEncoder
from unmingle.systems import MaskingSystem
from unmingle.training.separated_recordings import SeparatedRecording, read_separated, recordings_of


@dataclass(frozen=True)
class _Recognized:
    """Who speaks when in a recording, by voice."""

    heard: Heard
    labels: Labels
    """The speaker of each estimate in each piece."""
    voices: Samples
    """Of the speakers."""
    order: Tensor
    """For each speaker, the source."""


class ActivityRecordings:
    """Draws batches of crops.

    Args:
        folder: of :func:`~unmingle.training.separated_recordings.separate_recordings`.
        system: the one that separated them.
        encoder: recognizes voices.
        pieces: length of a crop, in pieces of :mod:`unmingle.separation.turns`.

    Raises:
        UnmingleError: the folder has no recordings.
    """

    def __init__(
        self, folder: Path, system: MaskingSystem, encoder: SpeakerEncoder, pieces: int = 34
    ) -> None:
        self._stft, self._rate = FineMasks(system).stft, system.sample_rate
        self._hop = self._stft.hop
        self._encoder, self._pieces = encoder, pieces
        self._paths = recordings_of(folder)
        self._recognized: dict[Path, _Recognized] = {}

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, ActivityInputs]:
        """Crops with the same number of speakers.

        Returns:
            Spectra of the mixtures ``(batch, frames, freqs)``, of the sources ``(batch, speakers, frames, freqs)``,
            and what the network sees.
        """
        numbers = sorted(self._paths)
        share = np.array([len(self._paths[number]) for number in numbers], dtype=float)
        paths = self._paths[int(rng.choice(numbers, p=share / share.sum()))]
        drawn = [self._crop(rng, paths[number]) for number in rng.integers(len(paths), size=size)]
        fields = ("power", "masks", "nearest", "likeness", "voices")
        inputs = [torch.cat([getattr(each, name) for *_, each in drawn]) for name in fields]
        mixtures, sources, _ = zip(*drawn, strict=True)
        return torch.stack(mixtures), torch.stack(sources), ActivityInputs(*inputs)

    def _crop(self, rng: np.random.Generator, path: Path) -> tuple[Tensor, Tensor, ActivityInputs]:
        recording = read_separated(path)
        if path not in self._recognized:
            self._recognized[path] = self._recognize(recording)
        known, seconds = self._recognized[path], self._hop / self._rate
        first = int(rng.integers(known.labels.shape[1] - self._pieces))
        pieces = slice(first, first + self._pieces)
        begin, frames = (round(n * PIECE_SECONDS / seconds) for n in (first, self._pieces))
        part = slice(begin * self._hop, (begin + frames - 1) * self._hop)
        mixture = self._stft.analyse(recording.mixture[part])
        sources = self._stft.analyse(recording.sources[known.order, part])
        heard = Heard(
            known.heard.voices[:, pieces],
            known.heard.presence[:, pieces],
            np.zeros(0),
            1.0,
            known.heard.mixed[pieces],
        )
        masks = recording.masks[:, begin : begin + frames]
        return (
            mixture,
            sources,
            activity_inputs(mixture.abs(), masks, heard, known.labels[:, pieces], known.voices, seconds),
        )

    def _recognize(self, recording: SeparatedRecording) -> _Recognized:
        speakers, samples = recording.sources.shape
        spectrum = self._stft.analyse(recording.mixture)
        estimates = self._stft.synthesise(recording.masks * spectrum, samples).numpy()
        heard = hear(self._encoder, estimates, self._rate)
        places, count = [np.arange(len(estimates))], len(estimates)
        labels = recognize_turns([heard], places, count, speakers).labels[0]
        given = np.einsum("skt,st->kt", shares(labels, speakers, samples, 1 / self._rate), estimates)
        scores = pairwise_si_sdr(torch.from_numpy(given)[None], recording.sources[None])
        found = best_permutation(scores)[1][0]
        voices = speaker_voices([heard], [labels], speakers)
        return _Recognized(heard, labels, voices, found.argsort())
