"""Give every piece of speech to the speaker whose voice it is.

A network that separates two similar voices may confuse them from one turn of a conversation to the next: what two
people say lands in one estimate. Within a turn the estimates are still good. So the estimates are cut into pieces of
a quarter of a second. A speaker encoder hears the voice of each piece, and the pieces of the whole recording are
clustered by voice.

In every piece, each estimate belongs to another speaker, or all belong to one speaker who speaks alone. A choice is
likely if the voices are close to those of their speakers, and if it is that of the piece before; it may change in a
pause more easily than in a word. The most likely choices of all pieces (Viterbi) and the speakers' voices (means of
their pieces) are found in turn, like members and centres in k-means. In a window of the recording, they are kept if
they are clearly more likely there than the estimates as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

from unmingle.audio import Samples, resample
from unmingle.speaker_encoder import SpeakerEncoder

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

MOST_SOURCES = 4
"""With more sources, a piece has too many choices."""
_FRAME_SECONDS = 0.04
"""Length of a frame of the encoder."""
_PIECE, _REACH = 6, 12
"""Frames: length of a piece, and how far its voice is heard to both sides of its middle."""
_LOUD_SHARE, _QUIET = 0.3, 1e-3
"""The loudest frames give the level; frames with less energy than this, relative to it, hold no speech."""
_AUDIBLE = 1e-3
"""Level relative to the recording's below which a window counts less."""
_SCALE = 8.0
"""Log-likelihood per cosine of a piece's voice and a speaker's."""
_CHANGE, _PAUSE_CHANGE = 2.0, 0.5
"""Negative log-likelihood of another choice than in the piece before: within speech, and in a pause."""
_ALONE = 0.5
"""Negative log-likelihood of a piece with one speaker."""
_MARGIN, _WINDOW_MARGIN = 0.0, 10.0
"""Log-likelihood that other speakers must gain over the sources as they are, in the recording and in each window."""
_QUIET_MARGIN, _QUIET_SHARE = 20.0, 0.02
"""The former where a source has less than such a share of the speech. One voice varies, too."""
_STARTS, _STRETCH, _ITERATIONS = 8, 16, 10
"""Number of starts of each kind; pieces in a stretch; rounds from each start."""
_FEWEST, _MOST = 8, 2000
"""Pieces that clusters need, and at most use."""


@dataclass(frozen=True)
class Heard:
    """What is heard in the pieces of a window's estimates."""

    voices: NDArray[np.float16]
    """Speaker embeddings of unit length, ``(sources, pieces, dim)``."""
    presence: Array
    """How much each piece counts, 0 to 1: ``(sources, pieces)``."""
    loudness: Array
    """Loudness between two pieces, 0 to 1: ``(pieces - 1,)``."""
    level: float
    """Mean energy of the window's loud frames."""


def hear(encoder: SpeakerEncoder, estimates: Samples, sample_rate: int, scale: float = 1.0) -> Heard:
    """What is heard in pieces of ``estimates`` ``(sources, samples)``, which are divided by ``scale``."""
    audio = torch.from_numpy(resample(estimates, sample_rate, encoder.config.sample_rate))
    with torch.inference_mode():
        frames = encoder.frames(encoder.features(audio))
        count = frames.shape[-1]
        audio = torch.nn.functional.pad(audio, (0, count * encoder.hop))[:, : count * encoder.hop]
        energy = audio.reshape(len(audio), count, encoder.hop).square().sum(dim=-1)
        loudest = energy.amax(dim=0).sort(descending=True).values
        level = loudest[: max(1, round(_LOUD_SHARE * count))].mean()
        energy = energy / level.clamp_min(1e-12)
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
    kept = torch.stack(voices, dim=1).half().numpy()
    return Heard(kept, presence.double().numpy(), loudness, float(level) * scale**2)


def recognize_turns(windows: Sequence[Heard], places: Sequence[Labels], speakers: int) -> list[Labels]:
    """The speakers of all pieces of a recording's estimates.

    The sources of a window stay as they are if the voices give little reason for a change. All stay if there are
    more than :data:`MOST_SOURCES`.

    Args:
        windows: what is heard in each.
        places: the speaker of each window's sources as they are, ``(sources,)``; -1 for none.
        speakers: number of speakers.

    Returns:
        For each window, the speaker of each source in each piece, ``(sources, pieces)``.
    """
    constant = [
        np.repeat(place[:, None], window.presence.shape[1], axis=1)
        for window, place in zip(windows, places, strict=True)
    ]
    if not 1 < speakers <= MOST_SOURCES:
        return constant
    pieces = _Pieces(windows, places, speakers)
    own = pieces.own_labels()
    best, labels = float(pieces.likelihood(pieces.fits(pieces.centres(own)), own).sum()), own
    for centres in pieces.starts():
        value, found = pieces.settle(centres)
        value -= pieces.margin()
        if value > best:
            best, labels = value, found
    return [
        np.where(as_it_is < 0, -1, label[place, : as_it_is.shape[1]])
        for label, place, as_it_is in zip(labels, places, constant, strict=True)
    ]


class _Pieces:
    """The pieces of all windows. Source k is the one that is speaker k's if the sources stay as they are."""

    def __init__(self, windows: Sequence[Heard], places: Sequence[Labels], speakers: int) -> None:
        most = max(window.presence.shape[1] for window in windows)
        shape = len(windows), speakers, most
        self._voices = np.zeros((*shape, windows[0].voices.shape[-1]), dtype=np.float16)
        self._presence = np.zeros(shape)
        self._changes = np.zeros((len(windows), most - 1))
        usual = float(np.mean([window.level for window in windows]))
        for number, (window, place) in enumerate(zip(windows, places, strict=True)):
            pieces = window.presence.shape[1]
            audible = min(1.0, window.level / max(_AUDIBLE * usual, 1e-30))
            given = place >= 0
            self._voices[number, place[given], :pieces] = window.voices[given]
            self._presence[number, place[given], :pieces] = audible * window.presence[given]
            changes = _PAUSE_CHANGE + (_CHANGE - _PAUSE_CHANGE) * window.loudness
            self._changes[number, : pieces - 1] = changes
        alone = [(speaker,) * speakers for speaker in range(speakers)]
        self._choices = np.array([*permutations(range(speakers)), *alone])
        """Possible speakers of the sources in a piece, ``(choices, sources)``: all different, or all the same."""
        self._costs = np.repeat([0.0, _ALONE], [len(self._choices) - speakers, speakers])

    def own_labels(self) -> Labels:
        """Labels of the sources as they are: ``(windows, sources, pieces)``."""
        speakers = np.arange(self._presence.shape[1])
        return np.broadcast_to(speakers[None, :, None], self._presence.shape)

    def centres(self, labels: Labels) -> Array:
        """The mean voice of each speaker's pieces, ``(speakers, dim)``."""
        count = self._presence.shape[1]
        sums = np.zeros((count, self._voices.shape[-1]))
        for voices, presence, label in zip(self._voices, self._presence, labels, strict=True):
            weights = presence[None] * (label[None] == np.arange(count)[:, None, None])
            sums += np.tensordot(weights, voices.astype(np.float64), axes=([1, 2], [0, 1]))
        return sums

    def fits(self, centres: Array) -> Array:
        """Log-likelihood of each piece for each speaker, ``(windows, sources, pieces, speakers)``."""
        unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
        cosines = np.stack([voices.astype(np.float32) @ unit.T.astype(np.float32) for voices in self._voices])
        fits: Array = _SCALE * self._presence[..., None] * cosines
        return fits

    def likelihood(self, fits: Array, labels: Labels) -> Array:
        """Log-likelihood of every window whose sources stay as they are with ``labels``: ``(windows,)``."""
        total: Array = np.take_along_axis(fits, labels[..., None], axis=-1).sum(axis=(1, 2, 3))
        return total

    def settle(self, centres: Array) -> tuple[float, Labels]:
        """Labels and centres in turn; the log-likelihood of the recording with the labels that are kept."""
        labels = None
        for _ in range(_ITERATIONS):
            found = self._decode(self.fits(centres))[1]
            if labels is not None and (found == labels).all():
                break
            labels = found
            centres = self.centres(labels)
        assert labels is not None
        centres = centres[np.argsort(self._names(labels))]
        own, fits = self.own_labels(), self.fits(centres)
        total, labels = self._decode(fits)
        as_they_are = self.likelihood(fits, own)
        turned = total - _WINDOW_MARGIN > as_they_are
        value = np.where(turned, total - _WINDOW_MARGIN, as_they_are).sum()
        return float(value), np.where(turned[:, None, None], labels, own)

    def margin(self) -> float:
        """Log-likelihood that labels must gain over the sources as they are in the whole recording."""
        presence = self._presence.sum(axis=(0, 2))
        return _QUIET_MARGIN if presence.min() < _QUIET_SHARE * presence.max() else _MARGIN

    def _decode(self, fits: Array) -> tuple[Array, Labels]:
        """The most likely choices: their log-likelihood ``(windows,)``, and their labels."""
        sources = np.arange(fits.shape[1])
        windows = np.arange(len(fits))
        # (pieces, windows, choices)
        scores = np.stack([fits[:, sources, :, choice].sum(axis=0) for choice in self._choices], axis=-1)
        scores = scores.swapaxes(0, 1) - self._costs
        before = np.zeros((*scores.shape[:2], scores.shape[2]), dtype=np.intp)
        best = scores[0]
        for piece in range(1, len(scores)):
            top = best.argmax(axis=1)
            changed = best[windows, top] - self._changes[:, piece - 1]
            change = changed[:, None] > best
            before[piece] = np.where(change, top[:, None], np.arange(best.shape[1]))
            best = np.where(change, changed[:, None], best) + scores[piece]
        states = np.zeros(scores.shape[:2], dtype=np.intp)
        states[-1] = best.argmax(axis=1)
        for piece in range(len(scores) - 1, 0, -1):
            states[piece - 1] = before[piece, windows, states[piece]]
        return best.max(axis=1), self._choices[states].transpose(1, 2, 0)

    def _names(self, labels: Labels) -> Labels:
        """New number of each speaker, so that speaker k is mostly source k."""
        count = self._presence.shape[1]
        shared = np.zeros((count, count))
        for source in range(count):
            np.add.at(shared[:, source], labels[:, source].ravel(), self._presence[:, source].ravel())
        orders = np.array(list(permutations(range(count))))
        totals = [shared[np.arange(count), order].sum() for order in orders]
        best: Labels = orders[int(np.argmax(totals))]
        return best

    def starts(self) -> Iterator[Array]:
        """First voices of the speakers, each ``(speakers, dim)``.

        They are those of the sources in the whole recording and in some stretches of it, and clusters of the pieces
        in which one source is heard alone.
        """
        own = self.own_labels()
        yield self.centres(own)
        windows, sources, pieces = self._presence.shape
        stretches = [
            (window, first)
            for window in range(windows)
            for first in range(0, pieces - _STRETCH, _STRETCH // 2)
        ]
        for number in np.linspace(0, len(stretches) - 1, min(len(stretches), _STARTS)).round().astype(int):
            window, first = stretches[number]
            part = slice(first, first + _STRETCH)
            weights = self._presence[window, :, part, None]
            yield (weights * self._voices[window, :, part]).sum(axis=1)
        others = self._presence.sum(axis=1, keepdims=True) - self._presence
        clear = self._voices[(self._presence > 0.6) & (others < 0.15)]
        if len(clear) > max(_FEWEST, sources):
            rng = np.random.default_rng(0)
            some = rng.permutation(len(clear))[:_MOST]
            for _ in range(_STARTS):
                yield _clusters(rng, clear[some].astype(np.float64), sources)


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


def shares(labels: Labels, speakers: int, frames: int, frame_seconds: float) -> Samples:
    """How much of each source goes to each speaker in each frame, ``(sources, speakers, frames)``, 0 to 1.

    Changes are cross-faded over 40 ms. Label -1 is no speaker.
    """
    seconds = np.arange(frames) * frame_seconds
    # The middle of every piece's steady part, so that fades lie between pieces.
    starts = np.arange(labels.shape[1]) * _PIECE * _FRAME_SECONDS
    places = np.stack([starts + _FRAME_SECONDS / 2, starts + (_PIECE - 0.5) * _FRAME_SECONDS], axis=1).ravel()
    found = np.zeros((len(labels), speakers, frames), dtype=np.float32)
    for source, label in enumerate(labels):
        for speaker in np.unique(label[label >= 0]):
            own = np.repeat(label == speaker, 2).astype(np.float32)
            found[source, speaker] = np.interp(seconds, places, own)
    return found
