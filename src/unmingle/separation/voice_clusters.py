"""Cluster the pieces of a recording's estimates by voice.

In every piece, each estimate belongs to another speaker, or all belong to one speaker who speaks alone. A choice is
likely if the voices are close to those of their speakers, and if it is that of the piece before; it may change in a
pause more easily than in a word. The most likely choices of all pieces (Viterbi) and the speakers' voices (means of
their pieces) are found in turn, like members and centres in k-means, from many starts.

With as many speakers as estimates, the choices are kept in a window of the recording if they are clearly more likely
there than the estimates as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

PIECE = 6
"""Frames of the speaker encoder (40 ms) in a piece."""
_MOST_SPEAKERS, _MOST_CHOICES = 8, 64
"""In a recording; for a piece."""
AUDIBLE = 1e-3
"""Level relative to the recording's below which a window counts less."""
_SCALE = 16.0
"""Log-likelihood per cosine of a piece's voice and a speaker's."""
_CHANGE, _PAUSE_CHANGE = 0.7, 0.17
"""Negative log-likelihood of another choice than in the piece before: within speech, and in a pause."""
_ALONE = 0.13
"""Negative log-likelihood of a piece with one speaker."""
_WINDOW_MARGIN = 10.0
"""Log-likelihood that other speakers must gain in a window over the sources as they are."""
_STREAM_MARGIN = 20.0
"""The same for the last minutes of a stream. More than in a window, because past output is not revised."""
_QUIET_MARGIN, _QUIET_SHARE = 50.0, 0.02
"""Additional gain over the whole recording, if one source has less than 2 % of the speech of another. Such a
recording may have one speaker whose voice varies."""
_STARTS, _STRETCH, _ITERATIONS = 8, 16, 10
"""Number of starts of each kind; pieces in a stretch; rounds from each start."""
_MORE = np.array([13.4, 3.0, -5.4, 0.1])
"""Logistic regression of one more speaker on :meth:`VoiceClusters.evidence`, fitted to validation recordings by
benchmarks/voice_counting.py. The first weight is lowered by 1, because fewer speakers are more common."""
_LEAST_SPEECH = 60
"""Pieces of speech without which no more speakers are counted: 14 s."""
_NEW_STARTS = 2
"""Number of new centres that are tried in a stream."""
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
    mixed: NDArray[np.float16]
    """Speaker embeddings of the sum of the estimates, ``(pieces, dim)``."""


@dataclass(frozen=True)
class Division:
    """A division of all pieces among speakers."""

    labels: Labels
    """The speaker of every source in every piece, ``(windows, sources, pieces)``."""
    likelihood: float
    """Log-likelihood."""


def audibility(windows: Sequence[Heard]) -> list[float]:
    """How much each window counts, 0 to 1: less if it is almost silent."""
    usual = float(np.mean([window.level for window in windows]))
    return [min(1.0, window.level / max(AUDIBLE * usual, 1e-30)) for window in windows]


def most_speakers(sources: int) -> int:
    """The largest number of speakers among whom pieces of so many sources can be divided; 0 if none."""
    possible = [
        speakers
        for speakers in range(sources, _MOST_SPEAKERS + 1)
        if len(_choices(sources, speakers)) <= _MOST_CHOICES
    ]
    return possible[-1] if possible else 0


def _choices(sources: int, speakers: int) -> Labels:
    """Possible speakers of the sources in a piece, ``(choices, sources)``: all different, or all the same."""
    alone = [(speaker,) * sources for speaker in range(speakers)]
    return np.array([*permutations(range(speakers), sources), *alone])


class VoiceClusters:
    """The pieces of all windows, and their division among speakers.

    Args:
        windows: what is heard in each.
        places: the speaker of each window's sources as they are, ``(sources,)``; -1 for a source that is left out.
        sources: number of speakers of the sources as they are.
    """

    def __init__(self, windows: Sequence[Heard], places: Sequence[Labels], sources: int) -> None:
        most = max(window.presence.shape[1] for window in windows)
        shape = len(windows), sources, most
        self._voices = np.zeros((*shape, windows[0].voices.shape[-1]), dtype=np.float16)
        self._presence = np.zeros(shape)
        self._changes = np.zeros((len(windows), most - 1))
        counts = audibility(windows)
        for number, (window, place, audible) in enumerate(zip(windows, places, counts, strict=True)):
            pieces, given = window.presence.shape[1], place >= 0
            self._voices[number, place[given], :pieces] = window.voices[given]
            self._presence[number, place[given], :pieces] = audible * window.presence[given]
            changes = _PAUSE_CHANGE + (_CHANGE - _PAUSE_CHANGE) * window.loudness
            self._changes[number, : pieces - 1] = changes
        self._divisions: dict[int, Division] = {}

    def divide(self, speakers: int) -> Division:
        """The most likely division among ``speakers``: at least as many as sources, at most :func:`most_speakers`."""
        if speakers not in self._divisions:
            self._divisions[speakers] = self._divide(speakers)
        return self._divisions[speakers]

    def _divide(self, speakers: int) -> Division:
        own = self._own_labels()
        best = Division(own, -np.inf)
        if speakers == self._presence.shape[1]:
            as_they_are = self._likelihood(self._fits(self._centres(own, speakers)), own)
            best = Division(own, float(as_they_are.sum()))
        for centres in self._starts(speakers):
            found = self._settle(centres)
            if found.likelihood > best.likelihood:
                best = found
        return best

    def count(self) -> tuple[int, float]:
        """The number of speakers, at least that of the sources, and the confidence in it.

        One more speaker is counted as long as there is enough speech, the voices become clearly more likely, its
        voice is unlike the others, and it speaks for a good part of the time.
        """
        sources, confidence = self._presence.shape[1], 1.0
        for speakers in range(sources, most_speakers(sources)):
            chance = self.chance_of_more(speakers)
            confidence = min(confidence, max(chance, 1 - chance))
            if chance < 0.5:
                return speakers, confidence
        return most_speakers(sources), confidence

    def chance_of_more(self, speakers: int) -> float:
        """The chance that there is one more speaker than ``speakers``; 0 without enough speech."""
        if speakers >= most_speakers(self._presence.shape[1]) or self._presence.sum() < _LEAST_SPEECH:
            return 0.0
        return float(1 / (1 + np.exp(-(self.evidence(speakers) @ _MORE))))

    def evidence(self, speakers: int) -> Array:
        """What tells whether there is one more speaker than ``speakers``: ``(4,)``.

        They are 1, the log of the relative gain in likelihood, the largest cosine of two speakers' voices, and the
        log of the smallest share of the speech.
        """
        fewer, more = self.divide(speakers), self.divide(speakers + 1)
        gain = more.likelihood / max(fewer.likelihood, 1e-9) - 1
        presence = [(self._presence * (more.labels == k)).sum() for k in range(speakers + 1)]
        share = min(presence) / max(sum(presence), 1e-9)
        centres = self._centres(more.labels, speakers + 1)
        unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
        closest = float((unit @ unit.T)[np.triu_indices(speakers + 1, 1)].max())
        return np.array([1.0, np.log(max(gain, 1e-3)), closest, np.log(max(share, 1e-3))])

    def follow(self, centres: Array | None, decided: Labels, *, new: bool) -> tuple[Division, Array]:
        """The division of one window that goes on, among as many speakers as sources, and the speakers' voices.

        Args:
            centres: the voices of the division before, ``(speakers, dim)``; None at the beginning.
            decided: the speaker of every source in the first pieces, ``(sources, pieces)``. These names stay.
            new: whether new centres are tried, too, which takes longer.

        Returns:
            The division, with labels ``(1, sources, pieces)``, and the voices ``(speakers, dim)``.
        """
        speakers = self._presence.shape[1]
        starts = [self._centres(self._own_labels(), speakers) if centres is None else centres]
        if new or centres is None:
            starts += self._clustered(speakers, _NEW_STARTS)
        found = max(
            (self._settle(start, decided, _STREAM_MARGIN) for start in starts),
            key=lambda each: each.likelihood,
        )
        return found, self._centres(found.labels, speakers)

    def _settle(
        self, centres: Array, decided: Labels | None = None, margin: float = _WINDOW_MARGIN
    ) -> Division:
        """Labels and centres in turn."""
        labels, speakers = None, len(centres)
        for _ in range(_ITERATIONS):
            found = self._decode(self._fits(centres))[1]
            if labels is not None and (found == labels).all():
                break
            labels = found
            centres = self._centres(labels, speakers)
        assert labels is not None
        if speakers > self._presence.shape[1]:
            total, labels = self._decode(self._fits(centres))
            return Division(labels, float(total.sum()))
        centres = centres[np.argsort(self._names(labels, decided))]
        own, fits = self._own_labels(), self._fits(centres)
        total, labels = self._decode(fits)
        as_they_are = self._likelihood(fits, own)
        changed = total - margin > as_they_are
        value = np.where(changed, total - margin, as_they_are).sum() - self._margin()
        return Division(np.where(changed[:, None, None], labels, own), float(value))

    def _margin(self) -> float:
        """Log-likelihood that labels must gain over the sources as they are in the whole recording."""
        presence = self._presence.sum(axis=(0, 2))
        return _QUIET_MARGIN if presence.min() < _QUIET_SHARE * presence.max() else 0.0

    def _own_labels(self) -> Labels:
        """Labels of the sources as they are: ``(windows, sources, pieces)``."""
        return np.broadcast_to(np.arange(self._presence.shape[1])[None, :, None], self._presence.shape)

    def _centres(self, labels: Labels, speakers: int) -> Array:
        """The sum of the voices of each speaker's pieces, ``(speakers, dim)``."""
        sums = np.zeros((speakers, self._voices.shape[-1]))
        for voices, presence, label in zip(self._voices, self._presence, labels, strict=True):
            weights = presence[None] * (label[None] == np.arange(speakers)[:, None, None])
            sums += np.tensordot(weights, voices.astype(np.float64), axes=([1, 2], [0, 1]))
        return sums

    def _fits(self, centres: Array) -> Array:
        """Log-likelihood of each piece for each speaker, ``(windows, sources, pieces, speakers)``."""
        unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
        cosines = np.stack([voices.astype(np.float32) @ unit.T.astype(np.float32) for voices in self._voices])
        fits: Array = _SCALE * self._presence[..., None] * cosines
        return fits

    def _likelihood(self, fits: Array, labels: Labels) -> Array:
        """Log-likelihood of every window with labels that do not change, ``(windows,)``."""
        total: Array = np.take_along_axis(fits, labels[..., None], axis=-1).sum(axis=(1, 2, 3))
        return total

    def _decode(self, fits: Array) -> tuple[Array, Labels]:
        """The most likely choices (Viterbi): their log-likelihood ``(windows,)``, and their labels."""
        sources, windows = np.arange(fits.shape[1]), np.arange(len(fits))
        choices = _choices(fits.shape[1], fits.shape[3])
        scores = np.stack([fits[:, sources, :, choice].sum(axis=0) for choice in choices], axis=-1)
        scores = scores.swapaxes(0, 1)  # (pieces, windows, choices)
        scores[..., -fits.shape[3] :] -= _ALONE
        before = np.zeros(scores.shape, dtype=np.intp)
        best = scores[0]
        for piece in range(1, len(scores)):
            top = best.argmax(axis=1)
            changed = best[windows, top] - self._changes[:, piece - 1]
            change = changed[:, None] > best
            before[piece] = np.where(change, top[:, None], np.arange(len(choices)))
            best = np.where(change, changed[:, None], best) + scores[piece]
        states = np.zeros(scores.shape[:2], dtype=np.intp)
        states[-1] = best.argmax(axis=1)
        for piece in range(len(scores) - 1, 0, -1):
            states[piece - 1] = before[piece, windows, states[piece]]
        return best.max(axis=1), choices[states].transpose(1, 2, 0)

    def _names(self, labels: Labels, decided: Labels | None) -> Labels:
        """New number of each speaker, so that speaker k is mostly source k, or who is decided to be k."""
        count = self._presence.shape[1]
        known = self._own_labels()
        if decided is not None and decided.shape[1]:
            known = decided[None]
        pieces = known.shape[2]
        shared = np.zeros((count, count))
        np.add.at(shared, (labels[..., :pieces], known), self._presence[..., :pieces])
        orders = np.array(list(permutations(range(count))))
        totals = [shared[np.arange(count), order].sum() for order in orders]
        best: Labels = orders[int(np.argmax(totals))]
        return best

    def _starts(self, speakers: int) -> Iterator[Array]:
        """First voices of the speakers, each ``(speakers, dim)``.

        They are clusters of the pieces in which one source is heard alone. With as many speakers as sources, they are
        also the voices of the sources in the whole recording and in some stretches of it.
        """
        sources = self._presence.shape[1]
        if speakers == sources:
            yield self._centres(self._own_labels(), speakers)
            yield from self._stretches()
        yield from self._clustered(speakers, _STARTS * (speakers - sources + 1))

    def _clustered(self, speakers: int, count: int) -> Iterator[Array]:
        """``count`` clusterings of the pieces in which one source is heard alone."""
        others = self._presence.sum(axis=1, keepdims=True) - self._presence
        clear = self._voices[(self._presence > 0.6) & (others < 0.15)]
        if len(clear) <= max(_FEWEST, speakers):
            clear = self._voices[self._presence > 0]
        if len(clear) >= speakers:
            rng = np.random.default_rng(0)
            some = rng.permutation(len(clear))[:_MOST]
            for _ in range(count):
                yield _clusters(rng, clear[some].astype(np.float64), speakers)

    def _stretches(self) -> Iterator[Array]:
        """Voices of the sources in some stretches of the recording."""
        windows, _, pieces = self._presence.shape
        firsts = range(0, pieces - _STRETCH, _STRETCH // 2)
        stretches = [(window, first) for window in range(windows) for first in firsts]
        for number in np.linspace(0, len(stretches) - 1, min(len(stretches), _STARTS)).round().astype(int):
            window, first = stretches[number]
            part = slice(first, first + _STRETCH)
            weights = self._presence[window, :, part, None]
            yield (weights * self._voices[window, :, part]).sum(axis=1)


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
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return centres
