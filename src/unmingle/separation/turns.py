"""Give every piece of speech to the speaker whose voice it is.

A network that separates two similar voices may confuse them from one turn of a conversation to the next: what two
people say lands in one estimate. Within a turn the estimates are still good. So the estimates are cut into pieces of
a quarter of a second. A speaker encoder hears the voice of each piece, and the pieces are clustered by voice.

In every piece, each estimate belongs to another speaker, or all belong to one speaker who speaks alone. A choice is
likely if the voices are close to those of their speakers, and if it is that of the piece before; it may change in a
pause more easily than in a word. The most likely choices of all pieces (Viterbi) and the speakers' voices (means of
their pieces) are found in turn, like members and centres in k-means. The result is kept if it is clearly more likely
than the estimates as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.audio import Samples, resample
from unmingle.separation.tracking import best_path
from unmingle.speaker_encoder import SpeakerEncoder

Array = NDArray[np.float64]

MOST_SOURCES = 4
"""With more sources, a piece has too many choices."""
_PIECE, _REACH = 6, 12
"""Frames of the encoder (40 ms): length of a piece, and how far its voice is heard to both sides of its middle."""
_LOUD_SHARE, _QUIET = 0.3, 1e-3
"""The loudest frames give the level; frames with less energy than this, relative to it, hold no speech."""
_SCALE = 8.0
"""Log-likelihood per cosine of a piece's voice and a speaker's."""
_CHANGE, _PAUSE_CHANGE = 2.0, 0.5
"""Negative log-likelihood of another choice than in the piece before: within speech, and in a pause."""
_ALONE = 0.5
"""Negative log-likelihood of a piece with one speaker."""
_MARGIN = 30.0
"""Log-likelihood that other speakers must gain over the sources as they are. One voice varies, too: on validation
recordings of 30 s, one speaker gains at most 27, and two who are confused gain 16 to 66."""
_STARTS, _STRETCH, _ITERATIONS, _FEWEST = 8, 16, 10, 8
"""Number of starts of each kind; pieces in a stretch; rounds from each start; pieces that clusters need."""


@dataclass(frozen=True)
class Turns:
    """The speakers of all pieces of the estimates of a recording."""

    labels: NDArray[np.intp]
    """``(sources, pieces)``: the speaker of each source in each piece."""
    voices: Array
    """``(speakers, dim)``: mean speaker embedding of each speaker's pieces; not of unit length."""
    piece_seconds: float

    def regroup(self, masks: Tensor, frame_seconds: float) -> Tensor:
        """Masks ``(sources, frames, freqs)`` of the sources to masks of the speakers, of the same shape.

        Changes are cross-faded over 40 ms.
        """
        sources, frames, _ = masks.shape
        seconds = np.arange(frames) * frame_seconds
        fade = self.piece_seconds / _PIECE
        # The middle of every piece's steady part, so that fades lie between pieces.
        pieces = np.arange(self.labels.shape[1]) * self.piece_seconds
        places = np.stack([pieces + fade / 2, pieces + self.piece_seconds - fade / 2], axis=1).ravel()
        regrouped = torch.zeros_like(masks)
        for source in range(sources):
            for speaker in range(sources):
                own = np.repeat(self.labels[source] == speaker, 2).astype(np.float32)
                if own.any():
                    share = np.interp(seconds, places, own).astype(np.float32)
                    regrouped[speaker] += masks[source] * torch.from_numpy(share).to(masks)[:, None]
        return regrouped


def recognize_turns(encoder: SpeakerEncoder, estimates: Samples, sample_rate: int) -> Turns:
    """The speakers of all pieces of ``estimates`` ``(sources, samples)``: as many speakers as sources.

    Speaker k is mostly source k. The sources stay as they are if the voices give little reason for a change, or if
    there are more than :data:`MOST_SOURCES`.
    """
    sources = len(estimates)
    voices, presence, loudness = _hear(encoder, estimates, sample_rate)
    size = _PIECE * encoder.hop / encoder.config.sample_rate
    own = np.repeat(np.arange(sources)[:, None], voices.shape[1], axis=1)
    turns = Turns(own, _centres(voices, presence, own), size)
    if not 1 < sources <= MOST_SOURCES:
        return turns
    choices = _choices(sources)
    changes = _PAUSE_CHANGE + (_CHANGE - _PAUSE_CHANGE) * loudness
    links = -changes[:, None, None] * (1 - np.eye(len(choices)))
    fits = _fits(voices, presence, turns.voices)
    best = float(sum(fits[k, :, k].sum() for k in range(sources))) + _MARGIN
    for centres in _starts(voices, presence):
        states = np.full(voices.shape[1], -1)
        for _ in range(_ITERATIONS):
            found, total = _decode(_fits(voices, presence, centres), choices, links)
            if (found == states).all():
                break
            states = found
            centres = _centres(voices, presence, choices[states].T)
        if total > best:
            labels = choices[states].T
            names = _usual_order(labels, presence)
            best, turns = total, Turns(names[labels], centres[np.argsort(names)], size)
    return turns


def _hear(encoder: SpeakerEncoder, estimates: Samples, sample_rate: int) -> tuple[Array, Array, Array]:
    """What is heard in pieces of the estimates.

    Returns:
        Voices ``(sources, pieces, dim)`` of unit length; how much each counts ``(sources, pieces)``, 0 to 1; loudness
        between two pieces, ``(pieces - 1,)``, 0 to 1.
    """
    audio = torch.from_numpy(resample(estimates, sample_rate, encoder.config.sample_rate))
    with torch.inference_mode():
        frames = encoder.frames(encoder.features(audio))
        count = frames.shape[-1]
        audio = torch.nn.functional.pad(audio, (0, count * encoder.hop))[:, : count * encoder.hop]
        energy = audio.reshape(len(audio), count, encoder.hop).square().sum(dim=-1)
        loudest = energy.amax(dim=0).sort(descending=True).values
        energy = energy / loudest[: max(1, round(_LOUD_SHARE * count))].mean().clamp_min(1e-12)
        weights = (100 * (energy - _QUIET)).clamp(0.0, 1.0) * energy / energy.sum(dim=0).clamp_min(1e-12)
        voices = []
        for middle in range(_PIECE // 2, count + _PIECE // 2, _PIECE):
            near = slice(max(0, middle - _REACH), middle + _REACH)
            voices.append(encoder.pool(frames[..., near], weights[:, near]))
    pieces = len(voices)
    padded = torch.nn.functional.pad(weights, (0, pieces * _PIECE - count))
    presence = padded.reshape(len(audio), pieces, _PIECE).mean(dim=-1)
    between = [float(energy[:, k * _PIECE - 1 : k * _PIECE + 1].sum(dim=0).mean()) for k in range(1, pieces)]
    loudness = np.minimum(10 * np.array(between, dtype=np.float64), 1.0)
    return torch.stack(voices, dim=1).double().numpy(), presence.double().numpy(), loudness


def _choices(sources: int) -> NDArray[np.intp]:
    """Possible speakers of the sources in a piece, ``(choices, sources)``: all different, or all the same."""
    alone = [(speaker,) * sources for speaker in range(sources)]
    return np.array([*permutations(range(sources)), *alone])


def _starts(voices: Array, presence: Array) -> list[Array]:
    """First voices of the speakers, each ``(speakers, dim)``.

    They are those of the sources in the whole recording and in some stretches of it, and clusters of the pieces in
    which one source is heard alone.
    """
    sources, pieces, _ = voices.shape
    own = np.repeat(np.arange(sources)[:, None], pieces, axis=1)
    starts = [_centres(voices, presence, own)]
    for first in range(0, pieces - _STRETCH, max(_STRETCH // 2, (pieces - _STRETCH) // _STARTS)):
        part = slice(first, first + _STRETCH)
        starts.append(_centres(voices[:, part], presence[:, part], own[:, part]))
    others = presence.sum(axis=0) - presence
    clear = voices[(presence > 0.6) & (others < 0.15)]
    if len(clear) > max(_FEWEST, sources):
        rng = np.random.default_rng(0)
        starts += [_clusters(rng, clear, sources) for _ in range(_STARTS)]
    return starts


def _clusters(rng: np.random.Generator, voices: Array, count: int) -> Array:
    """Centres ``(count, dim)`` of ``voices`` ``(pieces, dim)`` by spherical k-means."""
    centres: Array = voices[rng.integers(len(voices))][None]
    while len(centres) < count:
        # Among the quarter of the pieces that is furthest from the centres so far.
        far = (voices @ centres.T).max(axis=1).argsort()[: max(1, len(voices) // 4)]
        centres = np.concatenate([centres, voices[rng.choice(far)][None]])
    for _ in range(_ITERATIONS):
        nearest = (voices @ centres.T).argmax(axis=1)
        sums = np.stack([voices[nearest == k].sum(axis=0) for k in range(count)])
        empty = ~sums.any(axis=1)
        sums[empty] = centres[empty]
        centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centres


def _centres(voices: Array, presence: Array, labels: NDArray[np.intp]) -> Array:
    """The mean voice of each speaker's pieces, ``(speakers, dim)``."""
    weights = presence[None] * (labels[None] == np.arange(len(voices))[:, None, None])
    sums = np.einsum("csp,spd->cd", weights, voices)
    means: Array = sums / np.maximum(weights.sum(axis=(1, 2)), 1e-9)[:, None]
    return means


def _fits(voices: Array, presence: Array, centres: Array) -> Array:
    """Log-likelihood of each piece of each source for each speaker, ``(sources, pieces, speakers)``."""
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
    fits: Array = _SCALE * presence[..., None] * (voices @ unit.T)
    return fits


def _decode(fits: Array, choices: NDArray[np.intp], links: Array) -> tuple[NDArray[np.intp], float]:
    """The most likely choice in every piece ``(pieces,)``, and the log-likelihood of all."""
    sources = np.arange(len(fits))
    scores = np.stack([fits[sources, :, choice].sum(axis=0) for choice in choices], axis=1)
    scores[:, len(choices) - len(fits) :] -= _ALONE
    states, _ = best_path(scores, links)
    total = float(scores[np.arange(len(states)), states].sum())
    return states, total + float(links[np.arange(len(links)), states[:-1], states[1:]].sum())


def _usual_order(labels: NDArray[np.intp], presence: Array) -> NDArray[np.intp]:
    """New number of each speaker, so that speaker k is mostly source k."""
    count = len(labels)
    shared = np.zeros((count, count))
    for source in range(count):
        np.add.at(shared, (labels[source], source), presence[source])
    orders = np.array(list(permutations(range(count))))
    totals = [shared[np.arange(count), order].sum() for order in orders]
    best: NDArray[np.intp] = orders[int(np.argmax(totals))]
    return best
